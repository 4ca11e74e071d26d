"""Folders as zips, equal for equal contents; and what the folders have in common."""

import io
import json
import zipfile
from collections.abc import Mapping, Sequence
from importlib.metadata import version as installed

from search.exports.values import Made

_MADE = (1980, 1, 1, 0, 0, 0)  # the earliest a zip can say: when a file was packed tells nothing of what it is
_READABLE = 0o644 << 16

_UNPACKED = """
import sys, zipfile

zipfile.ZipFile({name!r}).extractall(".")
sys.path.insert(0, {folder!r})
"""


def folder_of(folder: str, files: Mapping[str, bytes | str], program: str) -> Made:
    """The zip of a folder. program: defines `answers`; it runs beside the unpacked folder and imports from it first."""
    name = f"{folder}.zip"
    return Made(zipped(folder, files), name, "application/zip", _UNPACKED.format(name=name, folder=folder) + program)


def zipped(folder: str, files: Mapping[str, bytes | str]) -> bytes:
    """A zip of one folder: sorted, without times or owners, so that equal files make equal bytes."""
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in sorted(files):
            entry = zipfile.ZipInfo(f"{folder}/{name}", _MADE)
            entry.external_attr = _READABLE
            entry.create_system = 3  # Unix, wherever it is packed
            entry.compress_type = zipfile.ZIP_DEFLATED
            content = files[name]
            archive.writestr(entry, content.encode() if isinstance(content, str) else content)
    return packed.getvalue()


def requirements(*packages: str) -> str:
    """The packages in the versions that the export was tried with, as pip reads them."""
    return "".join(f"{name}=={installed(name).partition('+')[0]}\n" for name in packages)


def listed(labels: Sequence[str]) -> str:
    """labels.json, in the order of the scores."""
    return json.dumps(list(labels), ensure_ascii=False, indent=1) + "\n"
