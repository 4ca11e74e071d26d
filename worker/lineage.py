"""Where a model comes from: data, seed, genealogy, code, hardware."""

from importlib.metadata import version as installed
from typing import Any

from sqlalchemy.orm import Session

from store.tables import DatasetVersion, Search, Trial, Worker

PACKAGES = ("netwright", "torch", "numpy", "pillow", "onnx", "onnxruntime")
MAX_ANCESTORS = 1000


def lineage_of(session: Session, search: Search, version: DatasetVersion, trial: Trial) -> dict[str, Any]:
    """All that is needed to train it again, and the trials its genotype descends from (the nearest first)."""
    ancestors: list[str] = []
    parent = trial.candidate.get("parent")
    while parent is not None and parent not in ancestors and len(ancestors) < MAX_ANCESTORS:
        ancestors.append(parent)
        row = session.get(Trial, parent)
        parent = None if row is None else row.candidate.get("parent")
    worker = session.get(Worker, trial.worker) if trial.worker is not None else None
    return {
        "dataset_id": version.dataset_id,
        "dataset_version": version.number,
        "content_hash": version.content_hash,
        "search_seed": search.seed,
        "trial_seed": trial.seed,
        "trial_number": trial.number,
        "purpose": trial.purpose,
        "strategy": search.strategy,
        "space": search.space,
        "fidelity": trial.candidate["fidelity"],
        "warm_start": trial.warm_start_id,
        "ancestors": ancestors,
        "hardware": None if worker is None else worker.device,
        "packages": {name: installed(name) for name in PACKAGES},
    }
