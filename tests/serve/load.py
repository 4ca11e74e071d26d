"""A client in a process of its own: as many predictions as asked for, over several connections at once.

    python -m tests.serve.load HOST PORT PATH KEY REQUESTS CONNECTIONS < PICTURE

Goes on until REQUESTS are answered and its standard input has ended, whichever comes later: the picture is the first line, in base64.
Prints JSON: how many requests were sent, what came of them, and how often the answering version changed as one connection saw it.
"""

import asyncio
import base64
import json
import sys
from collections import Counter
from typing import Any


class Tally:
    """What came of the requests, over all connections."""

    def __init__(self, wanted: int) -> None:
        self.wanted = wanted
        self.sent = 0
        self.outcomes: Counter[str] = Counter()
        self.wrong: list[str] = []
        self.changes = 0
        self.told_to_end = False

    @property
    def goes_on(self) -> bool:
        return self.sent < self.wanted or not self.told_to_end


async def ask(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, request: bytes) -> tuple[int, bytes]:
    """(status, body) of one request on a connection that stays open."""
    writer.write(request)
    head = await reader.readuntil(b"\r\n\r\n")
    length = int(head.lower().partition(b"content-length:")[2].partition(b"\r\n")[0])
    return int(head[9:12]), await reader.readexactly(length)


async def hammer(host: str, port: int, request: bytes, tally: Tally, first: bool) -> None:
    reader, writer = await asyncio.open_connection(host, port)
    last = None
    while tally.goes_on:
        tally.sent += 1
        try:
            status, body = await ask(reader, writer, request)
        except (OSError, asyncio.IncompleteReadError) as error:
            tally.wrong.append(repr(error))
            reader, writer = await asyncio.open_connection(host, port)
            continue
        if status != 200:
            tally.wrong.append(f"{status} {body.decode()}")
            continue
        answer: dict[str, Any] = json.loads(body)
        version = answer["model"]["version"]
        tally.outcomes[f"{version} {answer['predictions'][0]['label']}"] += 1
        if first and last not in (None, version):
            tally.changes += 1
        last = version
    writer.close()


async def main(host: str, port: str, path: str, key: str, requests: str, connections: str) -> None:
    picture = base64.b64decode(sys.stdin.readline())
    head = f"POST {path} HTTP/1.1\r\nHost: x\r\nX-API-Key: {key}\r\nContent-Length: {len(picture)}\r\n\r\n"
    tally = Tally(int(requests))

    async def listen() -> None:
        await asyncio.to_thread(sys.stdin.read)
        tally.told_to_end = True

    ears = asyncio.create_task(listen())
    request = head.encode() + picture
    await asyncio.gather(*(hammer(host, int(port), request, tally, number == 0) for number in range(int(connections))))
    await ears
    said = {"sent": tally.sent, "outcomes": tally.outcomes, "changes": tally.changes, "wrong": tally.wrong[:5]}
    sys.stdout.write(json.dumps(said | {"failures": len(tally.wrong)}))


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
