"""A data set divided anew: a new version of the same pictures with other parts for training, validation and test."""

import hashlib
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from sqlalchemy.orm import Session

from api.datasets.schemas import SPLITS
from api.runtime import Runtime
from ingest.files import index_path, write_index
from ingest.splits import resplit
from store import datasets
from store.ids import new_id
from store.tables import Dataset, DatasetVersion


def divide(
    session: Session, runtime: Runtime, dataset: Dataset, fractions: Sequence[float], seed: int
) -> DatasetVersion:
    """The new version, which shares pictures with the newest. Near-copies stay together, labels keep their shares.

    Takes about a second for 50,000 examples. The caller holds the data set's row. Raises ConflictError while an import
    runs or when there is nothing to divide, ObjectsError.
    """
    datasets.check_importable(dataset)
    version = datasets.require_version(session, dataset)
    with np.load(runtime.objects.fetch(version.index_key, runtime.settings.home / "cache" / "objects")) as index:
        labels, groups = index["labels"], index["groups"]
    splits = resplit(labels, groups, fractions, seed)
    key = f"datasets/{dataset.id}/{new_id('upload')}/index.npz"
    # Committed before the object is written: a crash leaves nothing for ever. The new version spares it.
    with runtime.sessions.begin() as early:
        datasets.doom(early, [key], datasets.UPLOAD_KEPT_FOR)
    with tempfile.TemporaryDirectory() as folder:
        write_index(Path(folder), labels, splits, groups)
        size = runtime.objects.take_file(key, index_path(Path(folder)))
    content_hash = hashlib.sha256(version.content_hash.encode() + splits.tobytes()).hexdigest()
    counts: dict[str, dict[str, int]] = {
        part: {name: int(((labels == label) & (splits == number)).sum()) for label, name in enumerate(version.labels)}
        for number, part in enumerate(SPLITS)
    }
    divided = datasets.add_division(session, version, splits.tobytes(), counts, key, size, content_hash)
    datasets.spare(session, [key])
    return divided
