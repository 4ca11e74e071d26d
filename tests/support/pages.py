"""Pages of the documentation as what they are: text, blocks of code, and lines that a reader pastes into a shell."""

import os
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.support.service import ROOT, Service

FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
END = "\x1eend of step\x1e\n"


def blocks(page: Path, language: str) -> list[str]:
    """The fenced blocks in that language."""
    return [code for found, code in FENCE.findall(page.read_text()) if found == language]


def steps(page: Path, section: str = "") -> list[str]:
    """What a reader pastes, in order: each line of a bash block, and each python block as a whole.

    section: only what stands under this heading of the second level.
    """
    text = page.read_text()
    if section:
        text = text.split(f"\n## {section}\n")[1].split("\n## ")[0]
    found: list[str] = []
    for language, code in FENCE.findall(text):
        if language == "bash":
            found += code.replace("\\\n", "").splitlines()
        elif language == "python":
            found.append(f"python - <<'END'\n{code}END")
    return found


def checkout(folder: Path) -> Path:
    """Makes `folder` look like the checkout from inside: `.venv` leads to this environment."""
    (folder / ".venv").symlink_to(sys.prefix)
    return folder


def paste(pasted: Sequence[str], folder: Path, service: Service, within_s: float = 300) -> list[str]:
    """Paste the steps into one shell; returns what each printed. The shell ends at the first that fails.

    They come through standard input, as from a terminal: a command that reads more than it should swallows the rest.
    """
    (folder / ".curlrc").write_text("fail-with-body\n")  # a reader sees a refusal; here it has to end the session
    kept = {name: value for name, value in os.environ.items() if not name.startswith("NETWRIGHT_")}
    paths = os.pathsep.join(filter(None, (str(ROOT), kept.get("PYTHONPATH"))))
    done = subprocess.run(
        ["bash", "--noprofile", "--norc", "-eo", "pipefail"],
        input="".join(f"{step}\nprintf '%s' $'{END.encode('unicode_escape').decode()}'\n" for step in pasted),
        cwd=folder,
        env=kept
        | {"NETWRIGHT_HOME": str(service.home), "URL": service.url, "CURL_HOME": str(folder), "PYTHONPATH": paths},
        capture_output=True,
        text=True,
        check=False,
        timeout=within_s,
    )
    printed = done.stdout.split(END)
    if done.returncode or len(printed) != len(pasted) + 1:
        last = pasted[min(len(printed), len(pasted)) - 1]
        pytest.fail(f"{last}\nended with {done.returncode}: {printed[-1]}\n{done.stderr}\n{service.logs()}")
    return printed[:-1]
