"""Which pictures may be fetched by address: what the operator lists, nothing else.

A list of entries, separated by commas: hosts for http and https (`images.example.org`, `*.example.org`, `minio:9000`,
`*`), and beginnings of addresses in object stores (`s3://bucket/photos/`, `gs://…`, `az://…`, `file:///srv/photos/`).
Whether a host lies in a network of one's own is looked at when it is connected to (worker/fetch.py).
"""

import re
from dataclasses import dataclass
from urllib.parse import SplitResult, urlsplit

MAX_URI_CHARACTERS = 2048
WEB_PORTS = {"http": 80, "https": 443}
STORES = ("s3", "gs", "az", "file")
_HOST = re.compile(r"(\*|(\*\.)?[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*|\[[0-9A-Fa-f:.]+\])(:[0-9]{1,5})?")
_PLAIN = re.compile(r"[\x21-\x7e\u00a1-\ud7ff\ue000-\U0010ffff]+")


class UriRefusedError(Exception):
    """An address that is none, or that is not listed; the message completes "the address …"."""


@dataclass(frozen=True, slots=True)
class WebAddress:
    """Where a request goes. named: its host (and port) is listed by itself, not by a `*`."""

    scheme: str
    host: str
    port: int
    target: str
    named: bool


@dataclass(frozen=True, slots=True)
class StoreAddress:
    """An object below a listed beginning."""

    prefix: str
    key: str


@dataclass(frozen=True, slots=True)
class Allowed:
    """The list of the operator. hosts: (pattern, port or None for the usual one). prefixes: each ends in a slash."""

    hosts: tuple[tuple[str, int | None], ...] = ()
    prefixes: tuple[str, ...] = ()

    @classmethod
    def parse(cls, text: str | None) -> "Allowed":
        """Raises ValueError for an entry that is neither a host nor the beginning of an address in an object store."""
        hosts, prefixes = [], []
        for entry in filter(None, (part.strip() for part in (text or "").split(","))):
            if entry.startswith(tuple(f"{scheme}://" for scheme in STORES)):
                if not entry.endswith("/"):
                    raise ValueError(f"{entry!r} must end in a slash: it is a folder, or s3://bucket/ as a whole")
                prefixes.append(entry)
            elif _HOST.fullmatch(entry):
                host, _, port = entry.rpartition(":") if re.search(r":[0-9]+$", entry) else (entry, "", "")
                hosts.append((host.strip("[]").lower(), int(port) if port else None))
            else:
                raise ValueError(
                    f"{entry!r} is no host (images.example.org, *.example.org, minio:9000, *) and no beginning of an "
                    "address (s3://bucket/folder/, gs://…, az://…, file:///folder/)"
                )
        return cls(tuple(hosts), tuple(prefixes))

    def check(self, uri: str) -> WebAddress | StoreAddress:
        """Where `uri` leads. Raises UriRefusedError."""
        if len(uri) > MAX_URI_CHARACTERS:
            raise UriRefusedError(f"has {len(uri)} characters, the limit is {MAX_URI_CHARACTERS}")
        if not _PLAIN.fullmatch(uri):
            raise UriRefusedError("has spaces or control characters; write them as %20 and the like")
        try:
            parts = urlsplit(uri)
            port = parts.port
        except ValueError as error:
            raise UriRefusedError(f"cannot be read ({error})") from error
        if parts.scheme in WEB_PORTS:
            return self._web(parts, port)
        if parts.scheme in STORES:
            return self._stored(uri)
        accepted = ", ".join((*WEB_PORTS, *STORES))
        raise UriRefusedError(f"begins with {parts.scheme[:20]!r}; accepted are {accepted}, of places that are listed")

    def _web(self, parts: SplitResult, port: int | None) -> WebAddress:
        host = (parts.hostname or "").rstrip(".")
        if not host or not host.isascii():
            raise UriRefusedError("names no host, or one that is not ASCII; write such a one as xn--…")
        if parts.username is not None or parts.password is not None:
            raise UriRefusedError("carries a user name or a password, which would be sent along and kept")
        usual = WEB_PORTS[parts.scheme]
        port = usual if port is None else port
        matching = [
            pattern
            for pattern, listed in self.hosts
            if port == (usual if listed is None else listed) and _matches(pattern, host)
        ]
        if not matching:
            spoken = host if port == usual else f"{host}:{port}"
            raise UriRefusedError(
                f"is of {spoken}, which is not listed; NETWRIGHT_BATCH_SOURCES lists what may be fetched"
            )
        target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        return WebAddress(parts.scheme, host, port, target, named=host in matching)

    def _stored(self, uri: str) -> StoreAddress:
        for prefix in self.prefixes:
            if uri.startswith(prefix) and len(uri) > len(prefix):
                key = uri[len(prefix) :]
                if any(part in ("", ".", "..") for part in key.split("/")):
                    raise UriRefusedError("has an empty part, '.' or '..' in its path")
                return StoreAddress(prefix, key)
        raise UriRefusedError("is not below a listed folder; NETWRIGHT_BATCH_SOURCES lists what may be fetched")


def _matches(pattern: str, host: str) -> bool:
    if pattern.startswith("*."):
        return host.endswith(pattern[1:]) and len(host) > len(pattern) - 1
    return pattern in ("*", host)
