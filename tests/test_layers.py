"""What a process loads, not what it says it loads."""

import subprocess
import sys

import pytest


@pytest.mark.parametrize(
    ("module", "forbidden"),
    [
        ("api.app", "torch"),
        ("serve.app", "torch"),
        ("store.tables", "torch"),
        ("ingest.build", "torch"),
        ("search.catalog", "torch"),
        ("search.runtime", "torch"),
        ("search.occlusion", "torch"),
        ("serve.app", "matplotlib"),
        ("worker.explanations", "captum"),
        ("search.drift", "torch"),
        ("api.app", "scipy"),
        ("serve.app", "scipy"),
        ("search.source", "torch"),
        ("search.train", "sqlalchemy"),
        ("search.race", "celery"),
        ("netwright.cli", "torch"),
    ],
)
def test_importing_a_package_does_not_load_what_its_layer_forbids(module: str, forbidden: str) -> None:
    code = f"import sys, {module}; sys.exit({forbidden!r} in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
