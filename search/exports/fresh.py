"""Runs a program in a fresh process that has the installed packages but none of ours."""

import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from search.exports.values import Made

OURS = ("netwright", "api", "serve", "worker", "web", "search", "ingest", "store", "migrations")
TIMEOUT_S = 600
_SAID = 2000  # characters of what a failed program said

# An editable or an ordinary installation would be found by -I as well, so the names themselves are refused.
_ALONE = f"""\
import sys


class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {set(OURS)!r}:
            raise ImportError(name + " is not to be had in this process")


sys.meta_path.insert(0, Absent())
sys.path.insert(0, "")
"""
_ASKED = """
import numpy
from pathlib import Path

for place in sorted(Path("asked").iterdir()):
    numpy.save(Path("answered") / place.name, answers(numpy.load(place)))
"""


class FreshError(RuntimeError):
    """The program did not come to its end; the message has the last of what it said."""


def run_alone(program: str, folder: Path) -> None:
    """Run Python source in `folder`, without our packages, environment or user site. Raises FreshError."""
    script = folder / "alone.py"  # not an argument: those are limited to 128 kB, and a large network's source is longer
    script.write_text(_ALONE + program, "utf-8")
    try:
        done = subprocess.run(
            [sys.executable, "-I", "-X", "utf8", str(script)],
            cwd=folder,
            env={"PATH": os.defpath, "HOME": str(folder), "TMPDIR": str(folder)},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=TIMEOUT_S,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise FreshError(f"a fresh process had not ended after {TIMEOUT_S} s") from error
    if done.returncode:
        raise FreshError(f"a fresh process ended with {done.returncode}: {done.stderr.strip()[-_SAID:]}")


def answers(made: Made, batches: Sequence[NDArray[np.uint8]]) -> list[NDArray[np.float32]]:
    """What `made.program` answers for each batch of pictures, uint8 (N, H, W, C). Raises FreshError."""
    with tempfile.TemporaryDirectory(prefix="export-") as name:
        folder = Path(name)
        (folder / made.name).write_bytes(made.content)
        for part in ("asked", "answered"):
            (folder / part).mkdir()
        for number, batch in enumerate(batches):
            np.save(folder / "asked" / f"{number:04}.npy", batch)
        run_alone(made.program + _ASKED, folder)
        return [np.load(folder / "answered" / f"{number:04}.npy") for number in range(len(batches))]
