"""Trains one genotype on packed pictures, for so many seconds or so many epochs.

With seconds the schedule follows the share of the time that has passed, so it ends annealed and on time however fast
the machine is or becomes. With epochs it follows the steps, and everything is a function of the seed.
"""

import json
import math
import struct
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any, Protocol, runtime_checkable

import torch
from safetensors.torch import load, save
from torch import Tensor, nn
from torch.nn import functional as F

from search.calibration import fitted_temperature
from search.candidate import Fidelity
from search.classifier import Classifier, network_weights
from search.data import Images, generator
from search.device import Device
from search.evaluate import calibration_error, metrics_of, predicted, predicted_both_ways, score_of
from search.feed import Feed, batch_size_of, share_of
from search.optimizer import Optimizer
from search.space import Cost, Genotype, Space, side_of

_CHECKPOINT_VERSION = 1
_WARM_UP = 0.05  # share of the schedule in which the learning rate rises
_GROWTH = (0.35, 0.7)  # shares of the schedule at which the resolution grows, halfway and in full
_SCORED_EVERY = 0.125  # of the schedule
_SCORED_MAX = 1_000  # pictures looked at for a score on the way; the last score sees all
_SCORED_MIN = 64
_SCORED_SHARE = 0.01  # of the time, for each score on the way
_CLOSING_SHARE = 0.15  # of the time may go to the last validation, which then sees what it can
_REPORT_EVERY_S = 1.0
_FIT_SAMPLE = 2_000  # pictures shown to a network that fits its first layer to data
_AVERAGED = 0.05  # of the schedule: how far back the average of the weights reaches
_AVERAGE_EVERY = 5  # steps
_SYNC_EVERY = 16  # steps between looks at the loss on a GPU, each of which waits for it


class DivergedError(RuntimeError):
    """The loss is no longer a number."""


class OutOfMemoryError(RuntimeError):
    """The device's memory did not suffice."""


class DoesNotFitError(RuntimeError):
    """By estimate the training needs more memory than there is; nothing was built."""


class CheckpointError(ValueError):
    """The checkpoint belongs to another training or another version."""


@runtime_checkable
class FitsToData(Protocol):
    """A network that sets part of its weights from training pictures, before the first step."""

    def fit_to(self, images: Tensor) -> None: ...  # float (N, C, side, side), normalised


@runtime_checkable
class Scheduled(Protocol):
    """A network that behaves differently in the course of its training."""

    def set_progress(self, fraction: float, random: torch.Generator) -> None: ...  # before each step


@dataclass(frozen=True, slots=True)
class Point:
    """Where a training stands. fraction: share of the schedule done. seconds: since its start, earlier runs included.
    train_loss: mean since the last point. score: the objective on validation pictures, where it was looked at."""

    fraction: float
    epoch: float
    seconds: float
    train_loss: float
    score: float | None
    images_per_s: float


@dataclass(frozen=True, slots=True, eq=False)
class Trained:
    """weights: state of a `Classifier`, on the CPU. metrics and score: on the validation pictures (on as many as the
    time allowed where they are very many), as the model will answer; metrics tell the temperature that was fitted there,
    and log loss and calibration error without it. stopped: `progress` asked for it; then the schedule was cut short. mirror_at_test: mirrored averaging
    lowered the log loss on the validation pictures."""

    weights: dict[str, Tensor]
    metrics: dict[str, float]
    score: float
    curve: tuple[Point, ...]
    images_per_s: float
    epochs: float
    seconds: float
    stopped: bool
    mirror_at_test: bool


def train(
    space: Space,
    genotype: Genotype,
    images: Images,
    fidelity: Fidelity,
    *,
    seed: int,
    device: Device,
    objective: str = "accuracy",
    progress: Callable[[Point], bool] = lambda _: True,
    resume: bytes | None = None,
    checkpoint: Callable[[bytes], None] | None = None,
    checkpoint_every_s: float = 15.0,
    warm_start: Mapping[str, Tensor] | None = None,
) -> Trained:
    """Trains, validating on the way. Seconds count from this call and include the last validation.

    progress: told about every second; False ends the training now. resume: what `checkpoint` was given; the training
    goes on there, and the seconds used up to there count. warm_start: state of a classifier to start from: of the same
    genotype, or of another one whose weights are taken over wherever name and shape agree.
    Raises DivergedError, OutOfMemoryError, DoesNotFitError, CheckpointError, InvalidGenotypeError.
    """
    with out_of_memory_typed():
        run = _Run(space, genotype, images, fidelity, seed, device, objective)
        if resume is not None:
            run.restore(resume)
        elif warm_start is not None:
            run.start_from(network_weights(warm_start))
        return run.to_the_end(progress, checkpoint, checkpoint_every_s)


def inherit(network: nn.Module, weights: Mapping[str, Tensor]) -> None:
    """Takes over what has the same name and shape: the layers that a change of the architecture left as they were."""
    own = network.state_dict()
    network.load_state_dict(own | {n: v for n, v in weights.items() if n in own and own[n].shape == v.shape})


def estimated_bytes(cost: Cost, batch_size: int) -> int:
    """Memory that one training needs beside its pictures: weights, gradient, momentum, average and an update of each
    parameter, and activations with their gradients of one batch (float32)."""
    return 4 * (5 * cost.params + 2 * cost.activations * batch_size)


class _Run:
    def __init__(
        self,
        space: Space,
        genotype: Genotype,
        images: Images,
        fidelity: Fidelity,
        seed: int,
        device: Device,
        objective: str,
    ):
        self._started = time.perf_counter()
        self._used_s = 0.0  # by earlier runs of the same training
        self.genotype, self.images, self.fidelity, self.seed = genotype, images, fidelity, seed
        self.device, self.objective = device, objective
        self.recipe = recipe = space.recipe(genotype)
        space.check(genotype)
        self.rows = share_of(images.train, images.targets, fidelity.fraction, seed)
        self.batch_size = batch_size_of(recipe, len(self.rows))
        refuse_what_does_not_fit(space.cost(genotype), self.batch_size, device)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(int(torch.randint(2**62, (), generator=generator(seed, "weights"))))
            network = space.build(genotype)
        self.side = min(side_of(space, genotype, fidelity.side), images.side)
        self.start_side = min(recipe.start_side, self.side)
        mean, deviation = images.statistics()
        self.classifier = Classifier.around(network, len(images.labels), mean, deviation, images.side, self.side)
        device.place(self.classifier)
        self.network = network
        self.scheduled = network if isinstance(network, Scheduled) else None
        self.feed = Feed(images, self.rows, recipe, seed, device, self.classifier.normalised)
        if isinstance(network, FitsToData):
            network.fit_to(self.feed.few(_FIT_SAMPLE, self.side, "fit"))
        self.average = self._copied()
        self.optimizer = Optimizer(
            network, self.batch_size, recipe.learning_rate, recipe.weight_decay, matrices=device.dtype
        )
        self.scored = images.validation[torch.randperm(len(images.validation), generator=generator(seed, "s")).numpy()]
        self.step, self.fraction, self._scored_once = 0, 0.0, False
        self.curve: list[Point] = []
        self._step_s = 0.0  # of the last steps
        self._forward_s = math.inf  # of one picture at the final resolution, as steps let expect or as measured

    # ------------------------------------------------------------------------------------------ time

    def seconds(self) -> float:
        return self._used_s + time.perf_counter() - self._started

    def _closing_s(self) -> float:
        """What is still to do after the last step: the validation, as it is and mirrored."""
        assert self.fidelity.seconds is not None
        expected = self._forward_s * len(self.images.validation) * (2 if self.recipe.flip else 1)
        return min(0.1 + expected, _CLOSING_SHARE * self.fidelity.seconds)

    def _advance(self) -> None:
        """Sets the share of the schedule that is done."""
        if self.fidelity.seconds is not None:
            limit = self.fidelity.seconds - self._closing_s() - 0.5 * self._step_s
            self.fraction = min(1.0, max(self.fraction, self.seconds() / max(limit, 1e-3)))
        else:
            self.fraction = min(1.0, self.step / self._steps())

    def _steps(self) -> int:
        assert self.fidelity.epochs is not None
        return max(1, round(self.fidelity.epochs * len(self.rows) / self.batch_size))

    # ------------------------------------------------------------------------------------------ data

    def _side_now(self) -> int:
        if self.fraction >= _GROWTH[1] or self.start_side >= self.side:
            return self.side
        return self.start_side if self.fraction < _GROWTH[0] else 2 * round((self.start_side + self.side) / 4)

    # ------------------------------------------------------------------------------------------ steps

    def _train_step(self) -> Tensor:
        side = self._side_now()
        started = time.perf_counter()
        images, targets = self.feed.batch(self.step, side)
        if self.scheduled is not None:
            self.scheduled.set_progress(self.fraction, generator(self.seed, "paths", self.step))
        with self.device.autocast():
            logits = self.network(images)
        loss = F.cross_entropy(logits.float(), targets, label_smoothing=self.recipe.label_smoothing)
        torch.autograd.backward(loss)
        rise = min(1.0, (self.fraction + 1e-3) / _WARM_UP)
        self.optimizer.step(rise * (1 - self.fraction))
        self.step += 1
        if self.step % _AVERAGE_EVERY == 0:
            self._fold_into_average()
        took = time.perf_counter() - started
        self._step_s = took if not self._step_s else 0.9 * self._step_s + 0.1 * took
        if not self._scored_once:
            self._forward_s = min(self._forward_s, took / len(images) / 3 * (self.side / side) ** 2)
        return loss.detach()

    def _averageable(self) -> Iterator[tuple[str, Tensor]]:
        return ((n, v) for n, v in self.network.state_dict(keep_vars=False).items() if v.is_floating_point())

    def _copied(self) -> dict[str, Tensor]:
        return {name: value.detach().clone() for name, value in self._averageable()}

    def start_from(self, weights: Mapping[str, Tensor]) -> None:
        inherit(self.network, weights)
        self.average = self._copied()

    @torch.no_grad()
    def _fold_into_average(self) -> None:
        """The share of the schedule since the last fold decides the weight, so the reach is the same at any speed."""
        done = max(self.fraction, 1e-6)
        steps = _AVERAGED * self.step / done / _AVERAGE_EVERY  # folds in the reach
        names, values = zip(*self._averageable(), strict=True)
        torch._foreach_lerp_([self.average[n] for n in names], list(values), 1 / max(1.0, steps))

    def to_the_end(
        self,
        progress: Callable[[Point], bool],
        checkpoint: Callable[[bytes], None] | None,
        checkpoint_every_s: float,
    ) -> Trained:
        self.network.train()
        stopped, losses = False, []
        reported, saved = self.seconds(), time.perf_counter()
        reported_step = self.step
        sync = 1 if self.device.kind == "cpu" else _SYNC_EVERY
        while self.fraction < 1.0 and not stopped:
            scored_before = int(self.fraction / _SCORED_EVERY)
            losses.append(self._train_step())
            if self.step % sync == 0 and not math.isfinite(losses[-1].item()):
                raise DivergedError(f"the loss became {losses[-1].item()} at step {self.step} ({self.fraction:.0%})")
            self._advance()
            due = int(self.fraction / _SCORED_EVERY) > scored_before and self.fraction < 1.0
            now = self.seconds()
            if due or now - reported > _REPORT_EVERY_S:
                speed = (self.step - reported_step) * self.batch_size / max(1e-6, now - reported)
                point = self._point(float(torch.stack(losses).mean()), speed, self._score_on_the_way() if due else None)
                losses, reported, reported_step = [], self.seconds(), self.step
                self.curve.append(point)
                stopped = not progress(point)
                self._advance()
            if checkpoint is not None and time.perf_counter() - saved > checkpoint_every_s:
                checkpoint(self.dump())
                saved = time.perf_counter()
        return self._closed(stopped, float(torch.stack(losses).mean()) if losses else math.nan, progress)

    def _point(self, loss: float, speed: float, score: float | None) -> Point:
        epoch = self.step * self.batch_size / len(self.rows)
        return Point(self.fraction, epoch, self.seconds(), loss, score, speed)

    def _score_on_the_way(self) -> float:
        count = _SCORED_MAX
        if self.fidelity.seconds is not None:
            affordable = _SCORED_SHARE * self.fidelity.seconds / max(self._forward_s, 1e-6)
            count = max(_SCORED_MIN, min(_SCORED_MAX, int(affordable)))
        rows = self.scored[:count]
        started = time.perf_counter()
        logits = predicted(self.classifier, self.images, rows, False, self.device)
        self._forward_s, self._scored_once = (time.perf_counter() - started) / len(rows), True
        self.network.train()
        return score_of(metrics_of(self.images.targets[rows], torch.softmax(logits, 1).numpy()), self.objective)

    def _closed(self, stopped: bool, loss: float, progress: Callable[[Point], bool]) -> Trained:
        """Takes the averaged weights, decides on mirroring and measures the model on all validation pictures."""
        self.network.load_state_dict(self.average, strict=False)
        until = None
        if self.fidelity.seconds is not None:
            until = time.perf_counter() + self.fidelity.seconds - self.seconds()
        metrics, mirror = self._validated(until)
        if not math.isfinite(metrics["log_loss"]):
            raise DivergedError("the trained network answers with numbers that are not finite")
        score = score_of(metrics, self.objective)
        seconds = self.seconds()
        epochs = self.step * self.batch_size / len(self.rows)
        speed = self.step * self.batch_size / seconds
        point = self._point(
            loss if math.isfinite(loss) else self.curve[-1].train_loss if self.curve else 0.0, speed, score
        )
        self.curve.append(point)
        progress(point)
        weights = {name: value.detach().cpu().contiguous() for name, value in self.classifier.state_dict().items()}
        return Trained(weights, metrics, score, tuple(self.curve), speed, epochs, seconds, stopped, mirror)

    def _validated(self, until: float | None) -> tuple[dict[str, float], bool]:
        """Metrics on the validation pictures and whether mirrored averaging gave them; sets the classifier's temperature.

        until: moment of `time.perf_counter` at which what has been seen has to do.
        """
        rows, flip = self.scored, self.recipe.flip
        plain, mirrored = predicted_both_ways(self.classifier, self.images, rows, flip, self.device, until)
        targets = self.images.targets[rows[: len(plain)]]
        logits, mirror = plain, False
        before = metrics_of(targets, torch.softmax(plain, 1).numpy())
        if mirrored is not None:
            averaged = metrics_of(targets, torch.softmax(mirrored, 1).numpy())
            if averaged["log_loss"] < before["log_loss"]:
                logits, mirror, before = mirrored, True, averaged
        temperature = fitted_temperature(logits, torch.from_numpy(targets))
        self.classifier.temperature.fill_(temperature)
        scores = torch.softmax(logits / temperature, 1).numpy()
        calibration = {
            "ece": calibration_error(targets, scores),
            "temperature": temperature,
            "uncalibrated_log_loss": before["log_loss"],
            "uncalibrated_ece": calibration_error(targets, torch.softmax(logits, 1).numpy()),
        }
        return metrics_of(targets, scores) | calibration, mirror

    # ------------------------------------------------------------------------------------------ checkpoints

    def dump(self) -> bytes:
        """Everything that a later run needs to go on exactly here."""
        tensors = {f"network.{n}": v for n, v in self.network.state_dict().items()}
        tensors |= {f"average.{n}": v for n, v in self.average.items()}
        tensors |= {f"momentum.{n}": v for n, v in self.optimizer.state().items()}
        header = {
            "genotype": self.genotype.digest(),
            "seed": self.seed,
            "step": self.step,
            "batch_size": self.batch_size,
            "fraction": self.fraction,
            "seconds": self.seconds(),
            "curve": [asdict(point) for point in self.curve],
        }
        return written_checkpoint(header, tensors)

    def restore(self, checkpoint: bytes) -> None:
        header, tensors = read_checkpoint(checkpoint, self.genotype, self.seed, self.batch_size)
        self.network.load_state_dict(below("network.", tensors))
        for name, value in below("average.", tensors).items():
            self.average[name].copy_(value)
        self.optimizer.restore(below("momentum.", tensors))
        self.step, self.fraction, self._used_s = header["step"], header["fraction"], header["seconds"]
        self.curve = [Point(**point) for point in header["curve"]]


def below(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Those whose name begins so, without it."""
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}


def written_checkpoint(header: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> bytes:
    """header: JSON with genotype (its digest), seed and batch_size, so that no other training takes it up."""
    on_cpu = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
    return save(on_cpu, metadata={"training": json.dumps({"version": _CHECKPOINT_VERSION, **header})})


def read_checkpoint(
    checkpoint: bytes, genotype: Genotype, seed: int, batch_size: int
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Header and tensors of `written_checkpoint`. Raises CheckpointError for those of another training."""
    try:
        (length,) = struct.unpack("<Q", checkpoint[:8])
        header = json.loads(json.loads(checkpoint[8 : 8 + length])["__metadata__"]["training"])
    except (struct.error, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{len(checkpoint):,} bytes are not a checkpoint: {error}") from error
    if header.get("version") != _CHECKPOINT_VERSION:
        raise CheckpointError(f"checkpoint version {header.get('version')!r}; this engine reads {_CHECKPOINT_VERSION}")
    for name, value in (("genotype", genotype.digest()), ("seed", seed), ("batch_size", batch_size)):
        if header.get(name) != value:
            raise CheckpointError(f"the checkpoint is of {name} {header.get(name)!r}, this training of {value!r}")
    return header, load(checkpoint)


def refuse_what_does_not_fit(cost: Cost, batch_size: int, device: Device) -> None:
    needed, free = estimated_bytes(cost, batch_size), device.free_bytes()
    if needed > free:
        raise DoesNotFitError(
            f"training in batches of {batch_size} needs about {needed >> 20:,} MB and {free >> 20:,} MB are free; "
            "a smaller batch, resolution or network fits"
        )


@contextmanager
def out_of_memory_typed() -> Iterator[None]:
    """Both kinds of device say it in their own way."""
    try:
        yield
    except (torch.OutOfMemoryError, MemoryError) as error:
        raise OutOfMemoryError(f"out of memory: {error}") from error
    except RuntimeError as error:
        if "can't allocate memory" in str(error) or "not enough memory" in str(error):
            raise OutOfMemoryError(f"out of memory: {error}") from error
        raise
