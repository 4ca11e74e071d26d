"""An archive of class folders as training sees it."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from ingest.build import build
from search.data import Images


@contextmanager
def imported(archive: Path) -> Iterator[Images]:
    """As the service imports and divides it; mapped from a folder that is gone afterwards."""
    with TemporaryDirectory() as folder:
        labels = build(archive, Path(folder)).labels
        yield Images.open(Path(folder), labels)
