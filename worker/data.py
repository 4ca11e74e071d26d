"""The packed arrays of a data set version as local files, for training and evaluation."""

from pathlib import Path

from store.tables import DatasetVersion
from worker.context import Context


def materialise(context: Context, version: DatasetVersion) -> Path:
    """A folder with `images.npy` and `index.npz` of the version; links where the objects are local files already.

    Raises ObjectsError when an object is missing.
    """
    folder = context.cache / "versions" / version.id
    folder.mkdir(parents=True, exist_ok=True)
    for name, key in (("images.npy", version.images_key), ("index.npz", version.index_key)):
        link, target = folder / name, context.objects.fetch(key, context.cache / "objects")
        if not link.exists():
            link.unlink(missing_ok=True)  # a link whose file is gone
            link.symlink_to(target)
    return folder
