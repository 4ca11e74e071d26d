"""Pictures to try things with, written by `netwright digits`."""

import io
import zipfile
from collections import Counter
from pathlib import Path

from PIL import Image
from typer.testing import CliRunner

from netwright.cli import cli


def test_digits_are_a_zip_of_class_folders_and_one_picture_that_is_not_in_it(tmp_path: Path) -> None:
    result = CliRunner().invoke(cli, ["digits", str(tmp_path / "new")])
    assert result.exit_code == 0, result.output
    seven = (tmp_path / "new" / "seven.png").read_bytes()
    with zipfile.ZipFile(tmp_path / "new" / "digits.zip") as archive:
        assert seven not in {archive.read(name) for name in archive.namelist()}
        folders = Counter(name.split("/")[-2] for name in archive.namelist())
    assert folders == dict.fromkeys("0123456789", 450)
    assert Image.open(io.BytesIO(seven)).size == (28, 28)


def test_a_folder_that_cannot_be_written_is_a_line_and_no_traceback() -> None:
    result = CliRunner().invoke(cli, ["digits", "/proc/nowhere"])
    assert result.exit_code == 1
    assert result.stderr.startswith("netwright: ")
    assert "/proc/nowhere" in result.stderr
