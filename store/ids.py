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
    "deployment": "de",
    "job": "jo",
    "key": "ke",
    "upload": "up",
}
NAME = re.compile(r"^[A-Za-z0-9][A-Za-z0-9._-]{0,62}\Z")
NAME_RULE = "1 to 63 letters, digits, '.', '_' or '-', beginning with a letter or digit"


def new_id(noun: str) -> str:
    """A fresh identifier, e.g. `ds_0197c1d2e3f47a5b8c6d7e8f90a1b2c3`."""
    milliseconds = time.time_ns() // 1_000_000
    noise = int.from_bytes(os.urandom(10), "big")
    value = (milliseconds & (1 << 48) - 1) << 80 | 0x7 << 76 | (noise >> 68 & 0xFFF) << 64 | 0b10 << 62
    return f"{PREFIXES[noun]}_{value | noise & (1 << 62) - 1:032x}"


def is_id(noun: str, reference: str) -> bool:
    """Whether `reference` has the form of an id of `noun` (else it is a name)."""
    return re.fullmatch(rf"{PREFIXES[noun]}_[0-9a-f]{{32}}", reference) is not None
