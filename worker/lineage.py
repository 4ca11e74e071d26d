"""Where a model comes from: data, seed, genealogy, code, hardware."""

import platform
import subprocess
from functools import cache
from importlib.metadata import version as installed
from pathlib import Path
from typing import Any

import psutil
from sqlalchemy.orm import Session

from store.tables import DatasetVersion, Search, Trial, Worker

PACKAGES = (
    "netwright",
    "torch",
    "numpy",
    "pillow",
    "scikit-learn",
    "torchmetrics",
    "onnx",
    "onnxruntime",
    "safetensors",
)
MAX_ANCESTORS = 1000
ROOT = Path(__file__).parents[1]
GIT_TIMEOUT_S = 10.0


def lineage_of(session: Session, search: Search, version: DatasetVersion, trial: Trial) -> dict[str, Any]:
    """All that is needed to train it again, and the trials its genotype descends from (the nearest first)."""
    worker = session.get(Worker, trial.worker) if trial.worker is not None else None
    return {
        "dataset_id": version.dataset_id,
        "dataset_version": version.number,
        "content_hash": version.content_hash,
        "preprocessing": version.preprocessing,
        "search_seed": search.seed,
        "trial_seed": trial.seed,
        "trial_number": trial.number,
        "purpose": trial.purpose,
        "objective": search.objective,
        "strategy": search.strategy,
        "space": search.space,
        "fidelity": trial.candidate["fidelity"],
        "warm_start": trial.warm_start_id,
        "ancestors": _ancestors(session, trial),
        "hardware": machine() | ({} if worker is None or worker.device is None else worker.device),
        "code": code(),
        "packages": {name: installed(name) for name in PACKAGES},
    }


def _ancestors(session: Session, trial: Trial) -> list[dict[str, Any]]:
    """What it was changed from, what that was changed from, and so on to one that was made from nothing.

    Told whole, not by id alone: a search may be deleted, and its models stay.
    """
    ancestors: list[dict[str, Any]] = []
    parent = trial.candidate.get("parent")
    known = {trial.id}
    while parent is not None and parent not in known and len(ancestors) < MAX_ANCESTORS:
        known.add(parent)
        row = session.get(Trial, parent)
        if row is None:
            ancestors.append({"trial": parent})
            break
        ancestors.append(
            {
                "trial": row.id,
                "number": row.number,
                "purpose": row.purpose,
                "key": row.key,
                "score": row.score,
                "description": (row.cost or {}).get("description"),
            }
        )
        parent = row.candidate.get("parent")
    return ancestors


def machine() -> dict[str, Any]:
    """This machine, beside what its trainer says of the device."""
    return {
        "system": f"{platform.system()} {platform.release()}",
        "architecture": platform.machine(),
        "python": platform.python_version(),
        "cores": psutil.cpu_count(),
        "memory_mb": psutil.virtual_memory().total >> 20,
    }


@cache
def code() -> dict[str, Any]:
    """The version of this code and, where it runs from a checkout of its own, the commit and whether it was changed."""
    told: dict[str, Any] = {"version": installed("netwright"), "commit": None, "changed": None}
    top = _git("rev-parse", "--show-toplevel")
    if top is not None and Path(top).resolve() == ROOT.resolve():  # not one that our packages merely lie in
        told["commit"] = _git("rev-parse", "HEAD")
        told["changed"] = bool(_git("status", "--porcelain", "--untracked-files=no"))
    return told


def _git(*arguments: str) -> str | None:
    """What git answers about the folder of this code; None where there is no git or no checkout."""
    try:
        ran = subprocess.run(
            ["git", *arguments], cwd=ROOT, capture_output=True, text=True, timeout=GIT_TIMEOUT_S, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return ran.stdout.strip()
