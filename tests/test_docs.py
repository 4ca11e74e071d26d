"""What README, CONTRIBUTING and docs/ name is there: commands, files, links, settings, routes, states, choices."""

import ast
import re
import shlex
import unicodedata
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

import pytest
from pydantic import SecretStr
from typer.main import get_command

from api.app import create_app
from netwright.cli import cli
from netwright.server import describe_predictions
from search import catalog
from store.keys import Role
from store.settings import Settings
from store.states import EDGES, DatasetState, DeploymentState, JobState, SearchState, TrialState, is_final
from tests.support.pages import FENCE, blocks
from tests.support.service import ROOT

PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
PATH = re.compile(r"/(?:v[12]/[^\s\"'`|)]*|healthz|readyz|metrics|openapi\.json)")

OBJECT_FOLDERS = {"batches/", "datasets/", "requests/", "uploads/"}  # in the object store

every_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))


def code(page: Path) -> list[str]:
    """Everything that is set as code: lines of shell blocks, and spans in the text."""
    spans = re.findall(r"`([^`\n]+)`", FENCE.sub("", page.read_text()))
    return [line for block in blocks(page, "bash") for line in block.splitlines()] + spans


def table(page: Path, header: str) -> list[list[str]]:
    """The cells of the table that begins with this header."""
    text = page.read_text()
    assert text.count(f"\n{header}\n") == 1, f"{page.name} has not exactly one table {header}"
    rows = text[text.index(f"\n{header}\n") + 1 :].split("\n\n")[0].splitlines()[2:]
    return [[cell.strip() for cell in row.strip("|").split(" | ")] for row in rows]


def span(cell: str) -> str:
    """The first code span of a cell, else the cell."""
    found = re.search(r"`([^`]+)`", cell)
    return found[1] if found else cell


@cache
def document() -> dict[str, Any]:
    """The OpenAPI document of the whole service; nothing is connected to."""
    nowhere = Settings(database_url=SecretStr("postgresql://x/x"), redis_url=SecretStr("redis://x"))
    app = create_app(nowhere)
    describe_predictions(app)
    return app.openapi()


# Commands


@every_page
def test_every_command_of_ours_exists_with_its_options(page: Path) -> None:
    for snippet in code(page):
        for found in re.findall(r"(?:^|[\s(/])netwright ([a-z][^`|;)]*)", snippet):
            words = shlex.split(found)
            command: Any = get_command(cli)
            while words and hasattr(command, "commands") and not words[0].startswith("-"):
                assert words[0] in command.commands, f"`{snippet}`: there is no `netwright {words[0]}`"
                command = command.commands[words.pop(0)]
            options = {option for parameter in command.params for option in parameter.opts}
            given = {word.partition("=")[0] for word in words if word.startswith("--")}
            assert given <= options, f"`{snippet}`: {command.name} has no {given - options}"


@every_page
def test_every_target_of_make_exists(page: Path) -> None:
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = {target for snippet in code(page) for target in re.findall(r"^(?:[A-Z_]+=\S+ )*make ([a-z]+)", snippet)}
    assert named <= targets


# Files and links


@every_page
def test_every_file_that_is_named_exists(page: Path) -> None:
    for snippet in code(page):
        if re.fullmatch(r"[\w.-]+(/[\w.-]+)*(\.(py|md|toml|yml|lock)|/)", snippet) and "/" in snippet:
            assert (ROOT / snippet).exists() or snippet in OBJECT_FOLDERS, snippet


def anchors(page: Path) -> set[str]:
    """The anchors that GitHub makes of a page's headings."""
    found = set()
    for heading in re.findall(r"^#+ (.+)$", FENCE.sub("", page.read_text()), re.MULTILINE):
        kept = (char for char in heading.lower() if char in " -_" or unicodedata.category(char)[0] in "LN")
        found.add("".join(kept).replace(" ", "-"))
    return found


@every_page
def test_every_internal_link_leads_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)]+)\)", page.read_text()):
        if target.startswith(("http://", "https://")):
            continue
        path, _, anchor = target.partition("#")
        other = (page.parent / path).resolve() if path else page
        assert other.exists(), target
        assert not anchor or anchor in anchors(other), target


# Settings


@every_page
def test_every_variable_is_a_setting_or_one_of_the_fleet(page: Path) -> None:
    settings = {f"NETWRIGHT_{name.upper()}" for name in Settings.model_fields}
    fleet = set(re.findall(r"NETWRIGHT_[A-Z_]+", (ROOT / "docker-compose.yml").read_text()))
    assert set(re.findall(r"\bNETWRIGHT_[A-Z0-9_]+", page.read_text())) <= settings | fleet


def test_the_table_of_settings_is_that_of_the_code() -> None:
    rows = table(ROOT / "docs/operations.md", "| variable | default | what it is |")
    said = {span(variable).removeprefix("NETWRIGHT_").lower(): span(default) for variable, default, _ in rows}
    assert set(said) == set(Settings.model_fields)
    for name, field in Settings.model_fields.items():
        if field.default_factory is None:
            assert said[name] == ("unset" if field.default is None else str(field.default)), name
    assert said["home"] == ".netwright"


# Routes


def requests(page: Path) -> Iterator[tuple[str | None, str, str]]:
    """(method where it is told, path, query) of every route in the code of a page."""
    for snippet in code(page):
        for found in PATH.finditer(snippet):
            if re.search(r"https?://[\w.:-]*$", snippet[: found.start()]):
                continue  # of another server
            method = None
            if told := re.match(r"(GET|POST|PUT|PATCH|DELETE) $", snippet[: found.start()]):
                method = told[1]
            elif "curl " in snippet:
                method = method_of(snippet)
            path, _, query = found[0].rstrip(".,;:").partition("?")
            yield method, path, query


def method_of(line: str) -> str:
    """What curl sends."""
    if told := re.search(r" -X (\w+)", line):
        return told[1]
    if " -T " in line:
        return "PUT"
    return "POST" if re.search(r" (--json|--data-binary|-d|-F) ", line) else "GET"


def is_route(template: str, path: str) -> bool:
    parts, given = template.split("/"), path.split("/")
    return len(parts) == len(given) and all(
        part == word or (part.startswith("{") and word != "") for part, word in zip(parts, given, strict=True)
    )


@every_page
def test_every_route_is_one_of_the_api(page: Path) -> None:
    for method, path, query in requests(page):
        if path == "/openapi.json":
            continue
        routes = [operations for template, operations in document()["paths"].items() if is_route(template, path)]
        assert routes, f"{page.name}: there is no {path}"
        if method is not None:
            offering = [operations[method.lower()] for operations in routes if method.lower() in operations]
            assert offering, f"{page.name}: {path} takes no {method}"
            known = {one["name"] for one in offering[0].get("parameters", ()) if one["in"] == "query"}
            assert {name for name, _ in parse_qsl(query)} <= known, f"{page.name}: {method} {path}?{query}"


# States, choices, roles, findings


def test_the_table_of_states_is_that_of_the_code() -> None:
    nouns = {
        "data set": DatasetState,
        "search": SearchState,
        "trial": TrialState,
        "job": JobState,
        "deployment": DeploymentState,
    }
    rows = table(ROOT / "docs/concepts.md", "| noun | from | to |")
    said = {(noun, span(start)): set(re.findall(r"`(\w+)`", ends)) for noun, start, ends in rows}
    meant = {
        (noun, start.value): {end.value for end in EDGES[kind][start]}
        for noun, kind in nouns.items()
        for start in kind
        if not is_final(start)
    }
    assert said == meant


@pytest.mark.parametrize(
    ("header", "choices"),
    [
        ("| space | |", catalog.SPACES),
        ("| strategy | |", catalog.STRATEGIES),
        ("| objective | |", catalog.OBJECTIVES),
    ],
)
def test_the_choices_of_a_search_are_those_of_the_catalogue(header: str, choices: dict[str, Any]) -> None:
    assert {span(row[0]) for row in table(ROOT / "docs/concepts.md", header)} == set(choices)


def test_the_formats_of_an_export_are_those_of_the_catalogue() -> None:
    rows = table(ROOT / "docs/export.md", "| format | option | default | what it is |")
    said = {span(name): {} if option == "–" else {span(option): default} for name, option, default, _ in rows}
    assert said == {
        name: {option.name: str(option.default).lower() for option in entry.options}
        for name, entry in catalog.EXPORTS.items()
    }


def test_the_roles_are_those_of_the_code() -> None:
    assert [span(row[0]) for row in table(ROOT / "docs/security.md", "| role | may |")] == list(Role)


def test_the_findings_are_those_of_the_import() -> None:
    tree = ast.parse((ROOT / "ingest/findings.py").read_text())
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call) and ast.unparse(node.func) == "Finding"]
    kinds = {argument.value for call in calls if isinstance(argument := call.args[0], ast.Constant)}
    rows = table(ROOT / "docs/quickstart.md", "| finding | |")
    assert {kind for row in rows for kind in re.findall(r"`(\w+)`", row[0])} == kinds


def test_the_search_of_the_quickstart_takes_what_the_api_takes() -> None:
    rows = table(ROOT / "docs/quickstart.md", "| field | default | |")
    fields = {field for row in rows for field in re.findall(r"`(\w+)`", row[0])}
    assert fields | {"dataset"} == set(document()["components"]["schemas"]["NewSearch"]["properties"])


def test_the_request_of_the_page_on_evaluation_is_what_the_api_takes() -> None:
    rows = table(ROOT / "docs/evaluation.md", "| field | default | |")
    assert {span(row[0]) for row in rows} == set(document()["components"]["schemas"]["NewEvaluation"]["properties"])


def test_the_upload_of_the_quickstart_takes_what_the_api_takes() -> None:
    rows = table(ROOT / "docs/quickstart.md", "| parameter | default | |")
    parameters = document()["paths"]["/v1/datasets/{dataset}/data"]["put"]["parameters"]
    taken = {one["name"]: str(one["schema"].get("default")).lower() for one in parameters if one["in"] == "query"}
    said = {span(name): span(default) for name, default, _ in rows}
    assert said == {name: default for name, default in taken.items() if name not in {"create", "task", "wait"}}
