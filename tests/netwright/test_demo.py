"""The demo: its pictures, what it makes of a search's events, and the whole story as a user sees it."""

import os
import re
import subprocess
import sys
import tempfile
import zipfile
from collections import Counter
from pathlib import Path

import pytest

from netwright import engines
from netwright.children import marked
from netwright.demo.digits import split_digits, write_zip
from netwright.demo.stack import free_port
from netwright.demo.story import name_of
from netwright.demo.watch import Watch
from netwright.supervisor import listening
from store.settings import Settings


def test_what_is_asked_about_was_not_uploaded_and_has_all_digits_alike(tmp_path: Path) -> None:
    upload, kept_back = split_digits()
    assert (len(upload), len(kept_back)) == (4500, 500)
    assert set(Counter(one.label for one in kept_back).values()) == {50}
    assert not {one.name for one in upload} & {one.name for one in kept_back}
    write_zip(upload, tmp_path / "digits.zip")
    with zipfile.ZipFile(tmp_path / "digits.zip") as archive:
        assert len(archive.namelist()) == 4500
        assert {Path(name).parent.name for name in archive.namelist()} == set("0123456789")


def test_a_search_is_followed_from_nothing_to_a_winner() -> None:
    watch = Watch()
    assert "no network yet" in watch.line()
    search = {"state": "running", "spent_s": 30.0, "budget_s": 120.0}
    floor = {"id": "tr_1", "number": 1, "purpose": "floor", "state": "running", "score": None}
    watch.hear("search", search)
    watch.hear("trial", floor)
    watch.hear("progress", {"trial": "tr_1", "spent_s": 31.0, "fraction": 0.5, "images_per_s": 12345.6})
    assert "training the floor: 50% at 12,346 pictures/s" in watch.line()
    watch.hear("trial", {**floor, "state": "succeeded", "score": 0.9})
    watch.hear("model", {"id": "mo_1", "purpose": "floor", "score": 0.9})
    assert watch.standing() == "best so far: the floor, 90.00%"
    watch.hear("model", {"id": "mo_2", "purpose": "explore", "score": 0.95})
    watch.hear("model", {"id": "mo_3", "purpose": "final", "score": 0.94})
    assert watch.standing() == "best so far 95.00%, floor 90.00%"
    assert watch.floor_model is not None
    assert watch.floor_model["id"] == "mo_1"
    watch.hear("search", {**search, "state": "finishing", "spent_s": 119.0})
    assert "testing and exporting" in watch.line()
    assert "1 trial done" in watch.line()


@pytest.mark.parametrize(
    ("file", "name"), [("flowers.zip", "flowers"), ("my pictures (1).tar.gz", "my-pictures-1"), ("…", "pictures")]
)
def test_a_data_set_is_named_after_the_file(file: str, name: str) -> None:
    assert name_of(Path(file)) == name


def test_the_demo_takes_another_port_when_the_usual_one_is_taken() -> None:
    with listening(Settings(port=0)) as neighbour:
        assert free_port(Settings(port=neighbour.getsockname()[1])) == 0


@pytest.mark.slow
def test_the_story_comes_to_its_end_and_leaves_nothing_running() -> None:
    home = Path(tempfile.mkdtemp(prefix="netwright-"))
    home.chmod(0o711)
    done = subprocess.run(
        [sys.executable, "-m", "netwright", "demo", "--minutes", "0.5"],
        env={**os.environ, "NETWRIGHT_HOME": str(home)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    accuracy = re.search(r"Accuracy on 500 unseen pictures: ([\d.]+)%", done.stdout)
    assert accuracy is not None
    assert float(accuracy[1]) > 90
    for command in ("curl -T ", "curl $URL/v1/searches", "curl $URL/v1/deployments", "curl --data-binary @"):
        assert f"$ {command}" in done.stdout
    assert not any(marked(f"@{home}"))
    engines.remove(home)
