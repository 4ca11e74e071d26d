"""Review remarks that were made twice, as rules over the syntax trees of our packages."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("netwright", "api", "serve", "web", "worker", "search", "ingest", "store")
FILES = sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))

# Who may catch everything: where a bug in one piece of work must not take the process with it, where a decoder meets
# hostile bytes, and where an error is handed to those who wait for the result, as an executor does.
CATCHES_ALL = {
    "worker/advance.py",
    "worker/execute.py",
    "worker/jobs.py",
    "worker/trainer.py",
    "ingest/preprocess.py",
    "serve/batching.py",
}
FORBIDDEN_CALLS = {"eval", "exec", "pickle.load", "pickle.loads", "torch.load", "yaml.load", "os.system"}


def nodes(path: Path) -> Iterator[ast.AST]:
    yield from ast.walk(ast.parse(path.read_text(), str(path)))


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_states_are_moved_by_updates_that_name_their_source_never_assigned(path: Path) -> None:
    for node in nodes(path):
        targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
        for target in targets:
            if isinstance(target, ast.Attribute) and target.attr == "state":
                # `app.state` and `request.state` are the frameworks' own bags
                owner = target.value.id if isinstance(target.value, ast.Name) else ""
                assert owner in {"self", "app", "request"}, f"{name_of(path)}:{target.lineno} assigns a state"


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_everything_is_caught_in_few_places(path: Path) -> None:
    for node in nodes(path):
        if isinstance(node, ast.ExceptHandler):
            broad = node.type is None or (
                isinstance(node.type, ast.Name) and node.type.id in {"Exception", "BaseException"}
            )
            reraised = any(isinstance(inner, ast.Raise) for inner in node.body)
            assert not broad or reraised or name_of(path) in CATCHES_ALL, f"{name_of(path)}:{node.lineno}"


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_foreign_bytes_are_never_run(path: Path) -> None:
    for node in nodes(path):
        if isinstance(node, ast.Call):
            assert ast.unparse(node.func) not in FORBIDDEN_CALLS, f"{name_of(path)}:{node.lineno}"


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_the_environment_is_read_in_one_place(path: Path) -> None:
    if name_of(path) == "store/settings.py":
        return
    text = path.read_text()
    assert "os.getenv" not in text
    assert 'environ["NETWRIGHT_' not in text
    assert 'environ.get("NETWRIGHT_' not in text


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_every_module_says_what_it_is_for(path: Path) -> None:
    text = path.read_text()
    assert not text.strip() or ast.get_docstring(ast.parse(text)), f"{name_of(path)} has no docstring"
