"""The warm trainer: `python -m worker.trainer MEMO`. Loads torch once, then trains what it is told to, trial after trial.

It knows no database and no broker: an order names files and values, messages tell what happened (see worker/warm.py).
"""

import json
import os
import queue
import resource
import sys
import threading
import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

import psutil

if TYPE_CHECKING:
    from search.candidate import Candidate
    from search.data import Images
    from search.space import Space
    from search.supernet import Shared
    from search.train import Trained

# Idle pauses after which the speed is measured again: when a whole service starts at once, the first look is disturbed.
REMEASURED_AFTER_S = (1.5, 2.0, 4.0, 8.0)
NICENESS = 5  # the machine's users and the server come first
MEMORY_SHARE = 0.9  # of what is free at the start; beyond it torch reports out of memory instead of the kernel killing
MAX_PARITY = 1e-3  # of a score between 0 and 1; float32 arithmetic in another order stays far below


class ParityError(RuntimeError):
    """ONNX Runtime and torch disagree about the same network."""


def main() -> None:
    """Read orders until the input ends."""
    # Whatever a library prints must not mix with messages.
    messages = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    orders: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()
    stop = threading.Event()
    threading.Thread(target=_listen, args=(orders, stop), name="orders", daemon=True).start()
    os.nice(NICENESS)
    _limit_memory()
    trainer = _Trainer(messages, stop, Path(sys.argv[1]))
    for pause_s in REMEASURED_AFTER_S:
        try:
            trainer.obey(orders.get(timeout=pause_s))
        except queue.Empty:
            trainer.measure_again()
    while True:
        trainer.obey(orders.get())


def _listen(orders: "queue.SimpleQueue[dict[str, Any]]", stop: threading.Event) -> None:
    for line in sys.stdin.buffer:
        order = json.loads(line)
        if order["do"] == "stop":
            stop.set()
        else:
            stop.clear()
            orders.put(order)
    os._exit(0)  # the parent is gone


def _limit_memory() -> None:
    limit = int(psutil.virtual_memory().available * MEMORY_SHARE)
    _, hard = resource.getrlimit(resource.RLIMIT_DATA)
    resource.setrlimit(resource.RLIMIT_DATA, (limit if hard == resource.RLIM_INFINITY else min(limit, hard), hard))


class _Trainer:
    def __init__(self, messages: TextIO, stop: threading.Event, memo: Path) -> None:
        # Imported here: the thread that listens for the parent's end must run before torch takes its second to load.
        from search.device import Device

        self.messages = messages
        self.stop = stop
        self.device = Device.best(memo)
        self._present()

    def _present(self) -> None:
        self.say("ready", device=self.device.describe() | {"flops_per_s": self.device.flops_per_s})

    def measure_again(self) -> None:
        """Tell of a higher speed if one is measured now."""
        again = self.device.measured_again()
        if again.flops_per_s > self.device.flops_per_s:
            self.device = again
            self._present()

    def say(self, event: str, **values: Any) -> None:
        self.messages.write(json.dumps({"event": event, **values}) + "\n")
        self.messages.flush()

    def obey(self, order: Mapping[str, Any]) -> None:
        from search.limits import OverLimitError
        from search.space import InvalidGenotypeError
        from search.train import DivergedError, DoesNotFitError, OutOfMemoryError
        from worker.engine import OVER_LIMIT

        outcomes = {
            OutOfMemoryError: "out_of_memory",
            DoesNotFitError: "does_not_fit",
            DivergedError: "diverged",
            InvalidGenotypeError: "invalid_genotype",
            OverLimitError: OVER_LIMIT,
        }
        try:
            self._train(order)
        except tuple(outcomes) as error:
            self.say("failed", kind=outcomes[type(error)], message=str(error), traceback=None)
        except MemoryError:
            self.say("failed", kind="out_of_memory", message="the machine's memory did not suffice", traceback=None)
        except Exception as error:  # noqa: BLE001  a bug in a trial must not take the trainer with it; it is reported
            message = f"{type(error).__name__}: {error}"
            self.say("failed", kind="bug", message=message, traceback=traceback.format_exc())

    def _train(self, order: Mapping[str, Any]) -> None:
        from search.candidate import Candidate, Purpose
        from search.data import Images
        from search.export import load_weights
        from search.limits import Limits, Measured
        from search.stopping import should_stop
        from search.supernet import train_supernet
        from search.train import Point, train
        from worker.engine import curve_of, handicap, limited, point_json, space_of

        scratch = Path(order["scratch"])
        candidate = Candidate.from_json(order["candidate"])
        images = Images.open(Path(order["data"]), order["labels"])
        space = space_of(candidate.genotype, images.shape(), order["space"], order["space_options"])
        limits = Limits.of(order["limits"])
        purpose = Purpose(order["purpose"])
        peers = [curve_of(curve) for curve in order["peers"]]
        curve = curve_of(order["curve"])
        written = 0
        pruned = False

        def progress(point: Point) -> bool:
            nonlocal pruned
            curve.append(point)
            self.say("point", **point_json(point))
            pruned = bool(peers) and should_stop(curve, peers)
            return not (pruned or self.stop.is_set())

        def checkpoint(document: bytes) -> None:
            nonlocal written
            written += 1
            path = scratch / f"checkpoint-{written}"
            path.write_bytes(document)
            self.say("checkpoint", path=str(path))

        how: dict[str, Any] = {
            "seed": order["seed"],
            "device": self.device,
            "objective": order["objective"],
            "progress": progress,
            "resume": Path(order["resume"]).read_bytes() if order["resume"] else None,
            "checkpoint": checkpoint,
            "checkpoint_every_s": order["checkpoint_s"],
        }
        warm_start = order["warm_start"]
        self.say("started")
        if purpose is Purpose.SUPERNET:
            allowed = limited(space, order["limits"])
            self._tell(train_supernet(allowed, candidate.genotype, images, candidate.fidelity, **how))
            return
        limited(space, order["limits"]).check(candidate.genotype)
        foreseen = limits.measure(space, candidate.genotype, images.labels)
        start = load_weights(Path(warm_start).read_bytes()) if warm_start else None
        trained = train(space, candidate.genotype, images, candidate.fidelity, warm_start=start, **how)
        stopped = trained.stopped and not pruned
        merit = trained.score + handicap(purpose, order["objective"], trained.score, order["validated"])
        files = {} if trained.stopped else self._write(scratch, order, space, candidate, images, trained, merit)
        if files and foreseen is not None:
            # The same network measured twice: what disturbs a measurement makes it longer, so the shorter is nearer.
            files["latency_ms"] = min(files["latency_ms"], foreseen.latency_ms)
            limits.heed(Measured(files["size_bytes"], files["latency_ms"]))
        self.say(
            "done",
            score=trained.score,
            merit=merit,
            metrics=trained.metrics,
            training={
                "epochs": trained.epochs,
                "images_per_s": trained.images_per_s,
                "mirror_at_test": trained.mirror_at_test,
            },
            report=None,
            seconds=trained.seconds,
            pruned=pruned,
            stopped=stopped,
            files=files,
        )

    def _tell(self, shared: "Shared") -> None:
        """Shared weights are not kept: what they say of the space is all that comes of them."""
        self.say(
            "done",
            score=shared.score,
            merit=shared.score,
            metrics={},
            training={"epochs": shared.epochs, "images_per_s": shared.images_per_s},
            report=None if shared.stopped else shared.report,
            seconds=shared.seconds,
            pruned=False,
            stopped=shared.stopped,
            files={},
        )

    def _write(
        self,
        scratch: Path,
        order: Mapping[str, Any],
        space: "Space",
        candidate: "Candidate",
        images: "Images",
        trained: "Trained",
        merit: float,
    ) -> dict[str, Any]:
        """Weights, and what the network costs to serve; the ONNX file itself only for a new best.

        Returns {weights: path, size_bytes: int, latency_ms: float[, onnx: path, parity: float]}.

        Raises ParityError when ONNX Runtime answers otherwise than torch: such a model must not be listed.
        """
        from search.export import parity, save_weights, served_of, to_onnx
        from search.runtime import measured_latency_ms

        weights = scratch / "weights.safetensors"
        weights.write_bytes(save_weights(trained.weights))
        genotype, mirror = candidate.genotype, trained.mirror_at_test
        model = to_onnx(
            space, genotype, trained.weights, packed_side=images.side, mirror_at_test=mirror, labels=images.labels
        )
        files: dict[str, Any] = {
            "weights": str(weights),
            "size_bytes": len(model),
            "latency_ms": measured_latency_ms(model),
        }
        if order["beat"] is None or merit > order["beat"]:
            samples = images.pixels[images.validation[:64]]
            files["parity"] = parity(model, served_of(space, genotype, trained.weights, mirror), samples)
            if not files["parity"] <= MAX_PARITY:
                raise ParityError(
                    f"the exported network's scores differ from the trained one's by up to {files['parity']:.2g}; "
                    f"at most {MAX_PARITY:g} is accepted"
                )
            files["onnx"] = str(scratch / "model.onnx")
            Path(files["onnx"]).write_bytes(model)
        return files


if __name__ == "__main__":
    main()
