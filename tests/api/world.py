"""Rows and objects as imports and searches leave them, without the work."""

import hashlib
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from sqlalchemy import update
from sqlalchemy.orm import Session

from search.answers import Answers, Curves
from store import blobs, datasets, evaluations, jobs, leases, models, searches, trials
from store.database import Sessions
from store.datasets import NewVersion
from store.ids import new_id
from store.objects import Objects
from store.states import JobState, SearchState, TrialState
from store.tables import Dataset, Job, Model, Search, Trial

LABELS = ["cat", "dog"]
SIDE = 8
NETWORK = '"""A small network."""\n\nimport torch\n\n\nclass Network(torch.nn.Module):\n    pass\n'


def png(value: int) -> bytes:
    out = io.BytesIO()
    Image.new("RGB", (20, 10), (value, 0, 0)).save(out, "PNG")
    return out.getvalue()


@dataclass(frozen=True, slots=True)
class World:
    sessions: Sessions
    objects: Objects

    def dataset(self, name: str = "pets", examples: int = 10) -> Dataset:
        """A ready data set: `examples` pictures, cats and dogs in turn, the last two for validation and test."""
        with self.sessions.begin() as session:
            dataset = datasets.create(session, name, "image_classification")
            job = datasets.begin_import(session, dataset, f"uploads/{name}", {})
        self.finish_import(job, examples)
        with self.sessions.begin() as session:
            return datasets.get(session, name)

    def finish_import(self, job: Job, examples: int = 10, report: Sequence[tuple[str, str, str]] = ()) -> None:
        """What the worker does with an import job that succeeds."""
        assert job.dataset_id is not None
        originals = [png(number) for number in range(examples)]
        prefix = f"datasets/{job.dataset_id}/{job.id}"
        pictures = np.arange(examples, dtype=np.uint8)[:, None, None, None] * np.ones((1, SIDE, SIDE, 3), np.uint8)
        packed = io.BytesIO()
        np.save(packed, pictures)
        self._put(f"{prefix}/images.npy", packed.getvalue())
        index = io.BytesIO()
        groups = np.arange(examples, dtype=np.int32)
        np.savez(index, labels=groups % 2, splits=np.zeros(examples, np.uint8), groups=groups)
        self._put(f"{prefix}/index.npz", index.getvalue())
        self._put(f"{prefix}/originals-00000.bin", b"".join(originals))
        starts = np.cumsum([0, *(len(original) for original in originals)]).tolist()
        split = [0] * (examples - 2) + [1, 2]
        rows = [
            (number, f"{LABELS[number % 2]}/{number}.png", number % 2, split[number], hashlib.sha256(data).digest(),
             -number, 20, 10, len(data), "PNG", 0, starts[number], len(data))
            for number, data in enumerate(originals)
        ]  # fmt: skip
        with self.sessions.begin() as session:
            held = leases.claim(session, Job, job.id, "worker", 30)
            assert held is not None
            version = datasets.add_version(
                session,
                job.dataset_id,
                NewVersion(
                    content_hash=hashlib.sha256(job.id.encode()).hexdigest(),
                    labels=LABELS,
                    preprocessing={"side": SIDE, "channels": 3},
                    images_key=f"{prefix}/images.npy",
                    index_key=f"{prefix}/index.npz",
                    shard_keys=[f"{prefix}/originals-00000.bin"],
                    size_bytes=1000,
                    stats={"counts": {"files": examples}, "splits": {}},
                    example_count=examples,
                    examples=rows,
                    findings=[
                        {
                            "kind": "tiny-class",
                            "severity": "warning",
                            "message": "few cats",
                            "labels": ["cat"],
                            "examples": [0],
                        },
                        {"kind": "split_leak", "severity": "info", "message": "m", "labels": [], "examples": []},
                    ],
                ),
            )
            datasets.add_report(session, job.id, report)
            jobs.finish(session, job.id, held.attempt, JobState.SUCCEEDED, result={"version": version.number})

    def _put(self, key: str, data: bytes) -> None:
        assert self.objects.local is not None
        path: Path = self.objects.local / key
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)

    def search(self, name: str = "hunt", dataset: str = "pets", **values: Any) -> Search:
        """A queued search of ten minutes."""
        with self.sessions.begin() as session:
            found = datasets.get(session, dataset)
            return searches.create(
                session, found, datasets.require_version(session, found), name=name, objective="accuracy",
                space="stages", space_options={}, strategy="race", strategy_options={}, seed=0,
                **{"budget_s": 600.0, "budget_trials": None, **values},
            )  # fmt: skip

    def move(self, search: str, to: SearchState, **values: Any) -> None:
        with self.sessions.begin() as session:
            searches.move(session, searches.get(session, search, lock=True), to, **values)

    def trial(
        self, search: str, score: float | None, params: int = 100, purpose: str = "explore", **values: Any
    ) -> Trial:
        """A succeeded trial, or a failed one without a score. The search must run."""
        with self.sessions.begin() as session:
            found = searches.get(session, search, lock=True)
            trial = trials.insert(
                session,
                found,
                purpose=purpose,
                candidate={
                    "genotype": {"space": "stages", "document": {}},
                    "fidelity": {"seconds": 1.0, "epochs": None, "side": None, "fraction": 1.0},
                    "parent": None,
                },
                key=new_id("trial"),
                seed=1,
                warm_start_id=None,
                cost=(cost := {"params": params, "flops": params * 2, "description": f"a network of {params} weights"}),
                network_source=NETWORK,
            )
            held = trials.claim(session, trial.id, "worker", 30)
            assert held is not None
            if score is None:
                trial = trials.settle(
                    session, trial.id, held.attempt, TrialState.FAILED, error={"kind": "diverged", "message": "NaN"}
                )
            else:
                curve = [{"fraction": 1.0, "score": score}]
                trial = trials.settle(
                    session, trial.id, held.attempt, TrialState.SUCCEEDED, score=score, seconds=2.0,
                    metrics={"accuracy": score, "mirror_at_test": True}, curve=curve,
                    cost=cost | {"size_bytes": params * 4 + 1000, "latency_ms": 1000 / params},
                    **values,
                )  # fmt: skip
        return trial

    def model(self, search: str, trial: Trial, *, best: bool = True) -> Model:
        """The next version of the search's model, made by `trial`, with an evaluation on the test split."""
        with self.sessions.begin() as session:
            found = searches.get(session, search, lock=True)
            model = models.register(
                session,
                found,
                trial,
                models.Trained(
                    weights=b"weights" + trial.id.encode(), onnx=b"onnx" + trial.id.encode(), parity=1e-6,
                    genotype={}, space_options={}, mirror_at_test=False, description="a small network", preprocessing={"side": SIDE, "channels": 3},
                    labels=LABELS, metrics={"accuracy": trial.score}, source=NETWORK, params=100, flops=200, lineage={},
                ),
            )  # fmt: skip
            targets, scores = np.array([1, 0]), np.array([[0.2, 0.8], [0.1, 0.9]], np.float32)
            nothing = {"precision": None, "recall": None, "f1": None, "average_precision": None, "auc_roc": None}
            evaluations.add(
                session, model, found.version, "test",
                {
                    "example_count": 2, "skipped": {"unknown_labels": {}, "unreadable": 0}, "trained_on": 0,
                    "metrics": {"accuracy": 0.5, "auc_pr": None},
                    "intervals": {"accuracy": {"low": 0.0, "high": 1.0, "resamples": 1000}},
                    "per_label": [{"label": label, "support": 1} | nothing for label in LABELS],
                    "confusion": [[0, 1], [0, 1]],
                    "reliability": [{"low": 0.0, "high": 1.0, "count": 2, "sureness": 0.85, "accuracy": 0.5}],
                    "slices": [{"by": "format", "value": "PNG", "count": 2, "metrics": {"accuracy": 0.5}}],
                },
                curves=blobs.put(session, Curves.of(targets, scores).to_bytes()),
                answers=blobs.put(session, Answers.of(np.array([8, 9]), targets, scores).to_bytes()),
            )  # fmt: skip
            if best:
                session.execute(
                    update(Search).where(Search.id == found.id).values(best_trial_id=trial.id, model_id=model.id)
                )
        return model

    def evaluation(self, model: str) -> str:
        """The id of the newest evaluation of a model."""
        with self.sessions.begin() as session:
            found = evaluations.latest(session, models.get(session, model), "test")
            assert found is not None
            return found.id

    def finished(self, name: str = "hunt", dataset: str = "pets") -> Model:
        """A search that has succeeded, with a floor, two more trials and a model of two versions."""
        self.search(name, dataset)
        self.move(name, SearchState.RUNNING)
        floor = self.trial(name, 0.8, 500, "floor")
        self.model(name, floor)
        self.trial(name, None, 50)
        best = self.trial(name, 0.9, 800, "final")
        model = self.model(name, best)
        self.move(name, SearchState.FINISHING)
        self.move(name, SearchState.SUCCEEDED)
        return model

    def run(self, work: Callable[[Session], Any]) -> Any:
        with self.sessions.begin() as session:
            return work(session)

    def uploads(self) -> list[str]:
        """What lies in the object store under uploads/, half-written files included."""
        assert self.objects.local is not None
        return sorted(str(path) for path in (self.objects.local / "uploads").glob("**/*") if path.is_file())
