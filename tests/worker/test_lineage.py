"""Where a model comes from: enough to train it again, and told whole, since what it came from may be deleted."""

import subprocess
from importlib.metadata import version as installed
from itertools import pairwise
from pathlib import Path

import pytest
from sqlalchemy.orm import Session

from store import workers
from store.tables import DatasetVersion
from tests.support.rows import a_search, a_trial
from worker import lineage
from worker.lineage import code, lineage_of, machine


def test_a_lineage_tells_data_seeds_code_machine_packages_and_ancestors(session: Session) -> None:
    search = a_search(session)
    version = session.get_one(DatasetVersion, search.version_id)
    workers.describe(session, "trial@here", ["trial"], {"name": "a processor", "threads": 2})
    generations = [a_trial(session, search) for _ in range(3)]
    for parent, child in pairwise(generations):
        child.candidate = child.candidate | {"parent": parent.id}
    generations[-1].worker = "trial@here"
    session.flush()
    told = lineage_of(session, search, version, generations[-1])
    assert (told["content_hash"], told["dataset_version"]) == (version.content_hash, 1)
    assert (told["search_seed"], told["trial_seed"], told["strategy"]) == (0, 1, "random")
    assert [ancestor["number"] for ancestor in told["ancestors"]] == [2, 1]
    assert set(told["ancestors"][0]) == {"trial", "number", "purpose", "key", "score", "description"}
    assert told["hardware"] == machine() | {"name": "a processor", "threads": 2}
    assert told["packages"]["torch"] == installed("torch")
    assert told["code"]["version"] == installed("netwright")


def test_an_ancestor_that_is_gone_or_comes_round_again_ends_the_list(session: Session) -> None:
    search = a_search(session)
    version = session.get_one(DatasetVersion, search.version_id)
    trial = a_trial(session, search)
    trial.candidate = trial.candidate | {"parent": "tr_gone"}
    assert lineage_of(session, search, version, trial)["ancestors"] == [{"trial": "tr_gone"}]
    trial.candidate = trial.candidate | {"parent": trial.id}
    assert lineage_of(session, search, version, trial)["ancestors"] == []


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder in which the code would lie; `code` forgets what it has found before and after."""
    monkeypatch.setattr(lineage, "ROOT", tmp_path / "code")
    (tmp_path / "code").mkdir()
    (tmp_path / "code" / "model.py").write_text("1\n")
    monkeypatch.setattr(lineage, "code", lineage.code.__wrapped__)
    return tmp_path


def commit(folder: Path) -> str:
    name = ["-c", "user.name=test", "-c", "user.email=test@example.com"]
    for words in (["init", "-q"], ["add", "."], [*name, "commit", "-qm", "first"]):
        subprocess.run(["git", *words], cwd=folder, check=True)
    head = subprocess.run(["git", "rev-parse", "HEAD"], cwd=folder, check=True, capture_output=True, text=True)
    return head.stdout.strip()


def test_the_code_of_a_checkout_is_told_by_its_commit_and_whether_it_was_changed(checkout: Path) -> None:
    head = commit(checkout / "code")
    assert lineage.code() == {"version": installed("netwright"), "commit": head, "changed": False}
    (checkout / "code" / "model.py").write_text("2\n")
    assert lineage.code()["changed"] is True


def test_a_checkout_that_the_code_merely_lies_in_is_not_taken_for_its_own(checkout: Path) -> None:
    commit(checkout)
    assert lineage.code()["commit"] is None


def test_this_code_is_found_once() -> None:
    assert code() is code()
