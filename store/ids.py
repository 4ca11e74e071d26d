"""Identifiers: UUIDv7 (RFC 9562: sorted by time) behind a prefix that names the noun."""

import os
import re
import time

PREFIXES = {
    "dataset": "ds",
    "version": "dv",
    "search": "se",
    "trial": "tr",
    "model": "mo",
    "evaluation": "ev",
    "export": "ex",
    "explanation": "xp",
    "deployment": "de",
    "job": "jo",
    "batch": "bp",
    "key": "ke",
    "upload": "up",
    "request": "rq",
}
NAME = re.compile(r"^[A-Za-z0-9][A-Za-z0-9._-]{0,62}\Z")
NAME_RULE = "1 to 63 letters, digits, '.', '_' or '-', beginning with a letter or digit"


def new_id(noun: str) -> str:
    """A fresh identifier, e.g. `ds_0197c1d2e3f47a5b8c6d7e8f90a1b2c3`.

    Those of one process sort in the order they were made, also within a millisecond: the twelve bits behind it hold
    its fraction (RFC 9562, 6.2, method 3), steps of a quarter of a microsecond.
    """
    milliseconds, rest_ns = divmod(time.time_ns(), 1_000_000)
    noise = int.from_bytes(os.urandom(8), "big") & (1 << 62) - 1
    value = (milliseconds & (1 << 48) - 1) << 80 | 0x7 << 76 | (rest_ns * 4096 // 1_000_000) << 64 | 0b10 << 62
    return f"{PREFIXES[noun]}_{value | noise:032x}"


def is_id(noun: str, reference: str) -> bool:
    """Whether `reference` has the form of an id of `noun` (else it is a name)."""
    return re.fullmatch(rf"{PREFIXES[noun]}_[0-9a-f]{{32}}", reference) is not None
