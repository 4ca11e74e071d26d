"""The README's tour and the quickstart, pasted line by line into a shell beside a service that runs."""

import json
import os
import re
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from tests.support.pictures import png, some_digits
from tests.support.service import Service, running_service
from tests.test_docs import ROOT, blocks

pytestmark = [pytest.mark.slow, pytest.mark.timeout(420)]

END = "\x1eend of line\x1e\n"
FLOWERS = ("rose", "tulip", "daisy")


@pytest.fixture(scope="module")
def service() -> Iterator[Service]:
    with running_service() as service:
        yield service


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A folder that looks like the checkout from inside: `.venv` leads to this environment."""
    (tmp_path / ".venv").symlink_to(sys.prefix)
    return tmp_path


def tour() -> list[str]:
    """The lines of the README's tour."""
    page = ROOT / "README.md"
    section = page.read_text().split("\n## The tour\n")[1].split("\n## ")[0]
    lines = [line for block in blocks(page, "bash") if block in section for line in block.splitlines()]
    assert len(lines) > 5
    return lines


def quickstart() -> list[str]:
    """The lines of the quickstart, with a search of half a minute."""
    lines = [line for block in blocks(ROOT / "docs/quickstart.md", "bash") for line in block.splitlines()]
    short = [line.replace('"minutes": 10', '"minutes": 0.5') for line in lines]
    assert short != lines
    return short


def paste(lines: list[str], folder: Path, service: Service) -> list[str]:
    """Paste the lines into one shell; returns what each printed. The shell ends at the first that fails.

    They come through standard input, as from a terminal: a command that reads more than it should swallows the rest.
    """
    (folder / ".curlrc").write_text("fail-with-body\n")  # a reader sees a refusal; here it has to end the session
    kept = {name: value for name, value in os.environ.items() if not name.startswith("NETWRIGHT_")}
    done = subprocess.run(
        ["bash", "--noprofile", "--norc", "-eo", "pipefail"],
        input="".join(f"{line}\nprintf '%s' $'{END.encode('unicode_escape').decode()}'\n" for line in lines),
        cwd=folder,
        env=kept | {"NETWRIGHT_HOME": str(service.home), "URL": service.url, "CURL_HOME": str(folder)},
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    printed = done.stdout.split(END)
    if done.returncode or len(printed) != len(lines) + 1:
        last = lines[min(len(printed), len(lines)) - 1]
        pytest.fail(f"{last}\nended with {done.returncode}: {printed[-1]}\n{done.stderr}\n{service.logs()}")
    return printed[:-1]


def test_every_line_of_the_tour_works_when_pasted(service: Service, checkout: Path) -> None:
    lines = tour()
    printed = paste(lines, checkout, service)
    reply = json.loads(printed[-1])
    assert "predict" in lines[-1]
    assert reply["predictions"][0]["label"] in set("0123456789")
    assert len(reply["predictions"][0]["scores"]) == 3
    (followed,) = (output for line, output in zip(lines, printed, strict=True) if "/events" in line)
    assert re.findall(r"^event: (\w+)$", followed, re.MULTILINE)[-1] == "end"
    assert '"state": "succeeded"' in followed


def test_every_line_of_the_quickstart_works_when_pasted(service: Service, checkout: Path) -> None:
    write_flowers(checkout)
    lines = quickstart()
    printed = dict(zip(lines, paste(lines, checkout, service), strict=True))
    one, two, three = (json.loads(output) for line, output in printed.items() if "/predict" in line)
    assert [len(reply["predictions"]) for reply in (one, two, three)] == [1, 2, 1]
    assert {prediction["label"] for reply in (one, two, three) for prediction in reply["predictions"]} <= set(FLOWERS)
    assert one["predictions"][0]["score"] == pytest.approx(three["predictions"][0]["score"], abs=1e-3)
    assert (checkout / "example.png").read_bytes().startswith(b"\x89PNG")
    assert (checkout / "flowers.onnx").stat().st_size > 1000


def write_flowers(folder: Path) -> None:
    """flowers.zip, and a rose.jpg and a tulip.png that are not in it: digits in three colours, for want of flowers."""
    pixels, labels = some_digits(80)
    coloured = np.repeat(pixels[..., None], 3, axis=3)
    with zipfile.ZipFile(folder / "flowers.zip", "w") as archive:
        for number, flower in enumerate(FLOWERS):
            tinted = coloured[labels == number].copy()
            tinted[..., number] //= 2
            for place, picture in enumerate(tinted[1:]):
                archive.writestr(f"{flower}/{place:04}.png", png(picture))
            (folder / {"rose": "rose.jpg"}.get(flower, f"{flower}.png")).write_bytes(png(tinted[0]))
        archive.writestr("rose/cut.png", png(pixels[0])[:100])
