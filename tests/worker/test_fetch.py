"""Pictures by address: which are fetched, from a real server, and who is kept from reaching what."""

import http.server
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from store.uris import Allowed, UriRefusedError
from tests.support.pictures import png, some_digits
from worker import fetch
from worker.fetch import Fetcher, FetchError, is_public
from worker.rows import of_uris

PICTURE = png(some_digits(per_class=1)[0][0])


class Pages(http.server.BaseHTTPRequestHandler):
    """Answers by path."""

    def do_GET(self) -> None:
        match self.path.partition("?")[0]:
            case "/picture.png" | "/a%20b.png":
                self._send(200, PICTURE)
            case "/large":
                self._send(200, bytes(100_000))
            case "/lies":
                self._send(200, PICTURE, length=10**6)
            case "/drips":
                self._send(200, b"", length=1000)
                for _ in range(10):
                    time.sleep(0.1)
                    self.wfile.write(b"x")
                    self.wfile.flush()
            case "/loop":
                self._move("/loop")
            case "/near":
                self._move("picture.png")
            case "/away":
                self._move("http://127.0.0.1:1/picture.png")
            case "/file":
                self._move("file:///etc/passwd")
            case "/html":
                self._send(200, b"<!doctype html>")
            case _:
                self._send(404, b"")

    def _send(self, status: int, body: bytes, length: int | None = None) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body) if length is None else length))
        self.end_headers()
        self.wfile.write(body)

    def _move(self, to: str) -> None:
        self.send_response(302)
        self.send_header("Location", to)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        """Not into the tests' output."""


class Server(http.server.ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: object, client_address: object) -> None:
        """Clients that hang up are what some tests are about."""


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    with Server(("127.0.0.1", 0), Pages) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        yield server.server_address[1]
        server.shutdown()
        thread.join()


def fetched(port: int, path: str, listed: str = "127.0.0.1:{port}", deadline_s: float = 10.0) -> bytes:
    allowed = Allowed.parse(listed.format(port=port))
    return Fetcher(allowed, 50_000, deadline_s=deadline_s).fetch(f"http://127.0.0.1:{port}{path}")


@pytest.mark.parametrize("path", ["/picture.png", "/picture.png?size=1", "/a%20b.png", "/near"])
def test_a_picture_of_a_listed_host_is_fetched(port: int, path: str) -> None:
    assert fetched(port, path) == PICTURE


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("/nothing", "the server answered 404"),
        ("/large", "more than 50,000 bytes"),
        ("/lies", "bytes early"),
        ("/loop", "redirected more than 3 times"),
        ("/away", "is of 127.0.0.1:1, which is not listed"),
        ("/file", "is not below a listed folder"),
    ],
)
def test_what_is_no_picture_or_leads_elsewhere_says_why(port: int, path: str, said: str) -> None:
    with pytest.raises(FetchError, match=said):
        fetched(port, path)


def test_a_server_that_drips_is_cut_off_at_the_deadline(port: int) -> None:
    with pytest.raises(FetchError, match=r"within 0\.5 s"):
        fetched(port, "/drips", deadline_s=0.5)


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "2130706433", "0x7f000001"])
def test_a_host_in_a_network_of_ones_own_has_to_be_listed_by_its_name(port: int, host: str) -> None:
    fetcher = Fetcher(Allowed.parse(f"*:{port}"), 50_000)
    with pytest.raises(FetchError, match="lies in a private network"):
        fetcher.fetch(f"http://{host}:{port}/picture.png")
    assert Fetcher(Allowed.parse(f"*:{port},{host}:{port}"), 50_000).fetch(f"http://{host}:{port}/near") == PICTURE


def test_a_host_that_is_not_there_is_named() -> None:
    with pytest.raises(FetchError, match=r"the host nowhere\.invalid is not known"):
        Fetcher(Allowed.parse("nowhere.invalid"), 100).fetch("https://nowhere.invalid/a.png")


@pytest.mark.parametrize(
    ("address", "public"),
    [
        ("93.184.216.34", True), ("2606:2800:220:1::", True), ("10.0.0.1", False), ("192.168.1.1", False),
        ("172.16.0.1", False), ("127.0.0.53", False), ("169.254.169.254", False), ("100.64.0.1", False),
        ("0.0.0.0", False), ("224.0.0.1", False), ("255.255.255.255", False), ("::1", False), ("fe80::1%eth0", False),
        ("fd00::1", False), ("::ffff:10.0.0.1", False), ("64:ff9b::a00:1", False), ("2002:a00:1::", False),
        ("ff02::1", False), ("::", False),
    ],
)  # fmt: skip
def test_addresses_are_public_or_not(address: str, public: bool) -> None:
    assert is_public(address) is public


def test_a_folder_of_an_object_store_gives_what_lies_below_it(tmp_path: Path) -> None:
    folder = tmp_path / "photos"
    (folder / "inner").mkdir(parents=True)
    (folder / "inner" / "a b.png").write_bytes(PICTURE)
    (tmp_path / "secret").write_bytes(b"secret")
    fetcher = Fetcher(Allowed.parse(f"file://{folder}/"), 50_000)
    assert fetcher.fetch(f"file://{folder}/inner/a%20b.png") == PICTURE
    for beyond in ("../secret", "%2e%2e/secret", "inner/..%2f..%2fsecret", "none.png"):
        with pytest.raises(FetchError):
            fetcher.fetch(f"file://{folder}/{beyond}")
    with pytest.raises(FetchError, match="is not below a listed folder"):
        fetcher.fetch(f"file://{tmp_path}/secret")
    with pytest.raises(FetchError, match="the limit is 10"):
        Fetcher(Allowed.parse(f"file://{folder}/"), 10).fetch(f"file://{folder}/inner/a%20b.png")


def test_the_rows_keep_the_order_of_the_addresses_and_skip_what_was_answered(port: int, tmp_path: Path) -> None:
    names = [f"/{'picture.png' if place % 3 else 'nothing'}?{place}" for place in range(40)]
    uris = [f"http://127.0.0.1:{port}{name}" for name in names]
    fetcher = Fetcher(Allowed.parse(f"127.0.0.1:{port}"), 50_000)
    rows = list(of_uris(uris, fetcher, tmp_path, 7, lambda: None))
    assert [row.names["uri"] for row in rows] == uris[7:]
    assert [row.error is None for row in rows] == [place % 3 != 0 for place in range(7, 40)]
    (html,) = of_uris([f"http://127.0.0.1:{port}/html"], fetcher, tmp_path, 0, lambda: None)
    assert html.error is not None
    assert "is not a picture" in html.error


# The list


@pytest.mark.parametrize(
    ("listed", "uri", "named"),
    [
        ("images.example.org", "https://images.example.org/a.jpg", True),
        ("images.example.org", "http://IMAGES.example.org:80/a.jpg", True),
        ("*.example.org", "https://a.b.example.org/", False),
        ("*", "https://anything.example/", False),
        ("minio:9000", "http://minio:9000/a?b", True),
        ("[::1]:8080", "http://[::1]:8080/", True),
        ("*, 10.0.0.7", "http://10.0.0.7/", True),
    ],
)
def test_a_listed_address_is_allowed(listed: str, uri: str, named: bool) -> None:
    place = Allowed.parse(listed).check(uri)
    assert getattr(place, "named", None) is named


@pytest.mark.parametrize(
    ("listed", "uri", "said"),
    [
        (None, "https://example.org/", "not listed"),
        ("example.org", "https://images.example.org/", "not listed"),
        ("*.example.org", "https://example.org/", "not listed"),
        ("*.example.org", "https://badexample.org/", "not listed"),
        ("example.org", "https://example.org:8443/", "example.org:8443, which is not listed"),
        ("minio:9000", "http://minio/", "not listed"),
        ("*", "http://me:secret@example.org/", "user name or a password"),
        ("*", "http://example.org@evil.example:99999/", "cannot be read"),
        ("*", "http:///a.png", "names no host"),
        ("*", "http://bücher.example/", "not ASCII"),
        ("*", "http://example.org/a b.png", "spaces or control characters"),
        ("*", "http://example.org/\r\nHost: x", "spaces or control characters"),
        ("*", "ftp://example.org/a.png", "begins with 'ftp'"),
        ("*", "gopher://127.0.0.1:6379/_FLUSHALL", "begins with 'gopher'"),
        ("*", "a.png", "begins with ''"),
        ("*", "file:///etc/passwd", "not below a listed folder"),
        ("s3://bucket/photos/", "s3://bucket/other.png", "not below a listed folder"),
        ("s3://bucket/photos/", "s3://bucket/photos/../other.png", "'..' in its path"),
        ("s3://bucket/photos/", "s3://bucket/photos/", "not below a listed folder"),
        ("*", "http://example.org/" + "a" * 2048, "the limit is 2048"),
    ],
)
def test_an_address_that_is_not_listed_is_refused(listed: str | None, uri: str, said: str) -> None:
    with pytest.raises(UriRefusedError, match=said.replace(".", r"\.")):
        Allowed.parse(listed).check(uri)


@pytest.mark.parametrize("listed", ["https://example.org", "s3://bucket", "a b", "host:port", "*.*", "http:"])
def test_an_entry_that_is_none_is_named_when_the_process_starts(listed: str) -> None:
    with pytest.raises(ValueError, match=r"is no host|must end in a slash"):
        Allowed.parse(listed)


def test_nothing_is_sent_to_a_port_before_the_name_is_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    """A name that leads to one public and one private address is not asked at all."""
    mixed = [(2, 1, 6, "", ("93.184.216.34", 80)), (2, 1, 6, "", ("10.0.0.1", 80))]
    monkeypatch.setattr(fetch.socket, "getaddrinfo", lambda *_, **__: mixed)
    monkeypatch.setattr(fetch.socket, "create_connection", lambda *_, **__: pytest.fail("it was connected to"))
    with pytest.raises(FetchError, match=r"private network \(10\.0\.0\.1\)"):
        Fetcher(Allowed.parse("*"), 100).fetch("http://rebinding.example/")
