"""A picture by its address, fetched so that nobody reaches through us what they could not reach themselves.

Only listed places are asked (store/uris.py), at each redirect anew. A host that is listed by `*` alone must have public
addresses and no others; the connection goes to the very address that was looked at. The whole exchange has one
deadline, kept by closing the socket: a server that drips a byte now and then does not prolong it.
"""

import contextlib
import http.client
import ipaddress
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from urllib.parse import quote, unquote, urljoin

from store.objects import Objects, ObjectsError
from store.uris import Allowed, StoreAddress, UriRefusedError, WebAddress

DEADLINE_S = 30.0
REDIRECTS = 3
_PIECE_BYTES = 64 << 10
_MOVED = frozenset({301, 302, 303, 307, 308})
_SAFE = "/%:@!$&'()*+,;=~-._?"
# They stand for addresses of the fourth version, which is_global does not look at.
_TRANSLATED = tuple(
    ipaddress.ip_network(network) for network in ("64:ff9b::/96", "64:ff9b:1::/48", "2002::/16", "2001::/32")
)


class FetchError(Exception):
    """No picture came from there; the message is for the row of the results."""


class Fetcher:
    """Fetches from listed places, up to `max_bytes` each. May be used by several threads."""

    def __init__(
        self, allowed: Allowed, max_bytes: int, s3_endpoint: str | None = None, deadline_s: float = DEADLINE_S
    ):
        self._allowed, self._max_bytes, self._deadline_s = allowed, max_bytes, deadline_s
        self._s3_endpoint = s3_endpoint
        self._tls = ssl.create_default_context()

    def fetch(self, uri: str) -> bytes:
        """Raises FetchError."""
        until = time.monotonic() + self._deadline_s
        try:
            for _ in range(REDIRECTS + 1):
                place = self._allowed.check(uri)
                if isinstance(place, StoreAddress):
                    return self._stored(place)
                found = self._ask(place, until)
                if isinstance(found, bytes):
                    return found
                uri = urljoin(uri, found.location)
        except UriRefusedError as error:
            raise FetchError(f"the address {error}") from error
        except ObjectsError as error:
            raise FetchError(str(error)) from error
        except (OSError, http.client.HTTPException, ValueError) as error:
            if time.monotonic() > until:
                raise FetchError(f"did not arrive within {self._deadline_s:g} s") from error
            raise FetchError(f"could not be fetched: {error or type(error).__name__}") from error
        raise FetchError(f"was redirected more than {REDIRECTS} times")

    def _stored(self, place: StoreAddress) -> bytes:
        s3 = place.prefix.startswith("s3://")
        store = Objects(place.prefix, self._s3_endpoint if s3 else None)
        key = unquote(place.key) if place.prefix.startswith("file://") else place.key
        return store.whole(key, self._max_bytes)

    def _ask(self, place: WebAddress, until: float) -> "bytes | _Moved":
        with self._connection(place, until) as connection:
            host = f"[{place.host}]" if ":" in place.host else place.host
            headers = {
                "Host": host if place.port in (80, 443) else f"{host}:{place.port}",
                "User-Agent": "netwright",
                "Accept": "image/*",
                "Accept-Encoding": "identity",
                "Connection": "close",
            }
            connection.request("GET", quote(place.target, safe=_SAFE), headers=headers)
            with closing(connection.getresponse()) as answer:
                if answer.status in _MOVED and (location := answer.getheader("Location")):
                    return _Moved(location)
                if answer.status != http.client.OK:
                    raise FetchError(f"the server answered {answer.status} {answer.reason[:100]}")
                body = bytearray()
                while piece := answer.read(_PIECE_BYTES):
                    body += piece
                    if len(body) > self._max_bytes:
                        raise FetchError(f"has more than {self._max_bytes:,} bytes, the limit for what is fetched")
                if time.monotonic() > until:
                    raise TimeoutError
                if answer.length:
                    raise FetchError(f"ended {answer.length:,} bytes early")
                return bytes(body)

    @contextmanager
    def _connection(self, place: WebAddress, until: float) -> Iterator[http.client.HTTPConnection]:
        """Connected to an address that was looked at, and cut off at `until`."""
        connection = http.client.HTTPConnection(place.host, place.port)
        with ExitStack() as ending:
            ending.callback(connection.close)
            connection.sock = _connected(place, until)
            if place.scheme == "https":
                connection.sock = self._tls.wrap_socket(
                    connection.sock, server_hostname=place.host, do_handshake_on_connect=False
                )
            cut = threading.Timer(max(0.0, until - time.monotonic()), _cut_off, [connection.sock])
            cut.daemon = True
            cut.start()
            ending.callback(cut.cancel)
            if isinstance(connection.sock, ssl.SSLSocket):
                connection.sock.do_handshake()
            yield connection


class _Moved:
    def __init__(self, location: str) -> None:
        self.location = location


def _cut_off(connected: socket.socket) -> None:
    """Ends whatever another thread waits for on this connection."""
    with contextlib.suppress(OSError):
        connected.shutdown(socket.SHUT_RDWR)


def _connected(place: WebAddress, until: float) -> socket.socket:
    """Raises FetchError for a host with an address that may not be asked, OSError when none of them answers."""
    try:
        found = socket.getaddrinfo(place.host, place.port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        raise FetchError(f"the host {place.host} is not known") from error
    addresses = [str(entry[4][0]) for entry in found]
    if not place.named and (closed := next((one for one in addresses if not is_public(one)), None)):
        raise FetchError(
            f"the host {place.host} lies in a private network ({closed}); such hosts have to be listed by their names"
        )
    failure: OSError | None = None
    for address in addresses:
        left = until - time.monotonic()
        if left <= 0:
            raise TimeoutError
        try:
            return socket.create_connection((address, place.port), timeout=left)
        except OSError as error:
            failure = error
    raise failure or OSError("it has no address")


def is_public(address: str) -> bool:
    """Whether an IP address is everybody's: not private, loopback, link-local, shared, reserved or for many."""
    found = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(found, ipaddress.IPv6Address):
        if found.ipv4_mapped is not None:
            found = found.ipv4_mapped
        elif any(found in network for network in _TRANSLATED):
            return False
    return found.is_global and not (found.is_multicast or found.is_reserved)
