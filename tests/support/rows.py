"""Rows for tests that are about something else."""

from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from store import blobs, datasets, trials
from store.ids import new_id
from store.states import SearchState
from store.tables import Dataset, DatasetVersion, Model, Search, Trial


def a_version(session: Session, name: str = "flowers") -> tuple[Dataset, DatasetVersion]:
    """A data set whose objects exist in name only."""
    dataset = datasets.create(session, name, "image_classification")
    version = datasets.add_version(
        session,
        dataset.id,
        datasets.NewVersion(
            content_hash="0" * 64,
            labels=["rose", "tulip"],
            preprocessing={"version": 1, "side": 8, "channels": 1},
            images_key=f"{dataset.id}/images.npy",
            index_key=f"{dataset.id}/index.npz",
            shard_keys=[f"{dataset.id}/originals-00000.bin"],
            size_bytes=1000,
            stats={"splits": {"train": {"rose": 1, "tulip": 1}, "validation": {}, "test": {}}, "counts": {}},
            example_count=2,
            examples=[
                (number, f"{label}/1.png", number, 0, bytes(32), -5, 8, 8, 70, "PNG", 0, 70 * number, 70)
                for number, label in enumerate(["rose", "tulip"])
            ],
            findings=[
                {"kind": "tiny_class", "severity": "warning", "message": "few", "labels": ["rose"], "examples": [0]}
            ],
        ),
    )
    return dataset, version


def a_search(session: Session, state: SearchState = SearchState.RUNNING, **values: Any) -> Search:
    """A search on data of its own, in any state."""
    identifier = new_id("search")
    _, version = a_version(session, f"data-of-{identifier[-12:]}")
    search = Search(
        id=identifier,
        name=f"search-{identifier[-12:]}",
        version_id=version.id,
        objective="accuracy",
        space="stages",
        strategy="random",
        seed=0,
        **({"budget_s": 60.0} | values),
        state=state,
        model_id="mo_x" if state is SearchState.SUCCEEDED else None,
        error="why" if state is SearchState.FAILED else None,
    )
    session.add(search)
    session.flush()
    session.refresh(search)
    return search


def a_trial(session: Session, search: Search, purpose: str = "explore") -> Trial:
    """A queued trial of a genotype that no space would build."""
    return trials.insert(
        session,
        search,
        purpose=purpose,
        candidate={
            "genotype": {"version": 1, "space": "stages", "genes": {}},
            "fidelity": {"seconds": 5.0, "epochs": None, "side": None, "fraction": 1.0},
            "parent": None,
        },
        key="k",
        seed=1,
        warm_start_id=None,
        cost=None,
    )


def a_model(
    session: Session,
    name: str,
    onnx: bytes,
    labels: Sequence[str],
    preprocessing: Mapping[str, Any],
    version_id: str | None = None,
) -> Model:
    """The next version under `name`, of a network that no search found."""
    last = session.scalar(select(func.max(Model.number)).where(Model.name == name)) or 0
    model = Model(
        id=new_id("model"),
        name=name,
        number=last + 1,
        version_id=version_id,
        genotype={},
        description="a network of the tests",
        source="",
        preprocessing=dict(preprocessing),
        labels=list(labels),
        metrics={},
        weights_sha256=blobs.put(session, b"weights"),
        onnx_sha256=blobs.put(session, onnx),
        parity=0.0,
        params=0,
        flops=0,
        size_bytes=len(onnx),
        lineage={},
    )
    session.add(model)
    session.flush()
    return model
