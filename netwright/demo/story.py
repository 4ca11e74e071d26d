"""What the demo does, step by step."""

import base64
import json
import re
import shlex
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import httpx
from rich.console import Console
from rich.live import Live
from rich.text import Text

from netwright.demo.digits import Picture, split_digits, write_zip
from netwright.demo.stack import Stack, stack
from netwright.demo.watch import Watch, clock
from store.settings import Settings

BATCH = 100
PLAIN_EVERY_S = 10.0  # between two lines of progress where there is no terminal
ASKED_MAX = 500
JOB_WAIT_S = 2
SILENCE_S = 60.0  # the server sends something every 15 s
RECONNECTS = 30
RECONNECT_S = 1.0


class DemoError(RuntimeError):
    """The story did not come to its end; the message says where it broke off."""


def run(settings: Settings, console: Console, data: Path | None, minutes: float) -> None:
    """Tells the whole story. Raises DemoError, SupervisorError or EngineError."""
    tell = Teller(console)
    folder = settings.home / "demo"
    tell.step("Starting Netwright")
    with stack(settings) as service:
        folder.mkdir(exist_ok=True)
        tell.service(service)
        headers = {"Authorization": f"Bearer {service.key}"}
        with httpx.Client(base_url=service.url, headers=headers, timeout=60) as client:
            try:
                Story(client, tell, folder, data, minutes).play()
            except httpx.HTTPStatusError as error:
                raise DemoError(
                    f"{error.request.method} {error.request.url.path}: {problem(error.response)}"
                ) from error
            except httpx.TransportError as error:
                raise DemoError(f"the service at {service.url} does not answer any more: {error}") from error
        if service.is_own:
            tell.step("Stopping")
    if service.is_own:
        tell.say("Nothing is left running. `make up` starts the service again, with all of this still there.")


@dataclass(frozen=True, slots=True)
class Story:
    """The steps of one run. `folder` keeps the files that its commands name, so that they can be typed again."""

    client: httpx.Client
    tell: "Teller"
    folder: Path
    data: Path | None
    minutes: float

    def play(self) -> None:
        if self.data is None:
            name = "digits"
            upload, kept_back = split_digits()
            archive = self.folder / "digits.zip"
            write_zip(upload, archive)
            for picture in kept_back:
                (self.folder / picture.name).write_bytes(picture.data)
            self.tell.say(
                f"{len(upload):,} handwritten digits to learn from; {len(kept_back)} kept back, to ask about later."
            )
        else:
            name, archive, kept_back = name_of(self.data), self.data, []
        self.upload(name, archive)
        watch, model = self.search(name)
        self.deploy(name, model)
        pictures = kept_back or self.test_pictures(name)
        if pictures:
            self.ask(name, pictures)
            self.compare(watch, model, pictures)
        else:
            self.tell.say("There were too few pictures to keep any from training, so there is none to ask about.")
        self.describe(model)

    def upload(self, name: str, archive: Path) -> None:
        self.tell.step("Uploading the pictures")
        path = f"/v1/datasets/{name}/data?create=true&task=image_classification"
        self.tell.command(f'curl -T {quote(archive)} "$URL{path}" -H "Authorization: Bearer $KEY"')
        with archive.open("rb") as stream:
            job = self.result(
                self.client.put(path, content=stream, headers={"Content-Length": str(archive.stat().st_size)})
            )
        began = time.monotonic()
        with self.tell.live() as show:
            while job["state"] in ("queued", "running"):
                progress = job["progress"]
                total = progress.get("total")
                of = f"{progress.get('done', 0):,}" + (f" of {total:,}" if total else "")
                show(f"{progress['stage']} {of}" if "stage" in progress else "waiting for a worker")
                job = self.get(f"/v1/jobs/{job['id']}?wait={JOB_WAIT_S}")
        if job["state"] != "succeeded":
            raise DemoError(f"the import {job['state']}: {(job['error'] or {}).get('message', 'no reason given')}")
        result = job["result"]
        self.tell.say(
            f"{result['examples']:,} pictures of {result['labels']} labels are ready, {time.monotonic() - began:.1f} s later."
        )

    def search(self, name: str) -> tuple[Watch, Mapping[str, Any]]:
        self.tell.step(f"Searching for a network, for {self.minutes:g} minutes")
        body = {"dataset": name, "budget": {"minutes": self.minutes}}
        self.tell.command(
            f"curl $URL/v1/searches -H \"Authorization: Bearer $KEY\" -H 'Content-Type: application/json' -d '{json.dumps(body)}'"
        )
        search = self.result(self.client.post("/v1/searches", json=body))
        self.tell.command(f'curl -N $URL/v1/searches/{search["name"]}/events -H "Authorization: Bearer $KEY"')
        watch = Watch()
        began = time.monotonic()
        with self.tell.live(watch) as show:
            for kind, data in self.events(search["id"]):
                watch.hear(kind, data)
                show(watch.line(), at_once=kind == "model")
        search = self.get(f"/v1/searches/{search['id']}")
        if search["state"] != "succeeded":
            raise DemoError(f"search {search['name']} {search['state']}: {search['error'] or 'no reason given'}")
        self.tell.say(
            f"{watch.done} trials in {clock(time.monotonic() - began)}; {watch.standing()}, on validation pictures."
        )
        return watch, self.get(f"/v1/models/{search['model']['id']}")

    def events(self, search: str) -> Iterator[tuple[str, dict[str, Any]]]:
        """(kind, data) of each event until the search has ended, across breaks of the connection."""
        last, breaks = "0", 0
        while True:
            try:
                for number, kind, data in self.stream(search, last):
                    last, breaks = number or last, 0
                    if kind == "end":
                        return
                    yield kind, data
            except httpx.TransportError:
                breaks += 1
                if breaks > RECONNECTS:
                    raise
                time.sleep(RECONNECT_S)

    def stream(self, search: str, last: str) -> Iterator[tuple[str, str, dict[str, Any]]]:
        headers = {"Accept": "text/event-stream", "Last-Event-ID": last}
        with self.client.stream("GET", f"/v1/searches/{search}/events", headers=headers, timeout=SILENCE_S) as response:
            if response.is_error:
                response.read()
                response.raise_for_status()
            fields: dict[str, str] = {}
            for line in response.iter_lines():
                name, _, value = line.partition(":")
                if line:
                    fields[name] = value.removeprefix(" ")
                elif "data" in fields:
                    yield fields.get("id", ""), fields.get("event", "message"), json.loads(fields["data"])
                    fields = {}
            if response.status_code == httpx.codes.NO_CONTENT:
                yield "", "end", {}

    def deploy(self, name: str, model: Mapping[str, Any]) -> None:
        self.tell.step("Deploying the winner")
        targets: dict[str, Any] = {"targets": [{"model": model["id"]}]}
        path, body, method = "/v1/deployments", {"name": name, **targets}, "POST"
        if self.client.get(f"{path}/{name}").is_success:  # of a demo before: point it at the new network
            path, body, method = f"{path}/{name}", targets, "PATCH"
        said = "" if method == "POST" else f"-X {method} "
        self.tell.command(
            f"curl {said}$URL{path} -H \"Authorization: Bearer $KEY\" -H 'Content-Type: application/json' -d '{json.dumps(body)}'"
        )
        self.result(self.client.request(method, path, json=body))

    def ask(self, name: str, pictures: Sequence[Picture]) -> None:
        asked = "a picture" if len(pictures) == 1 else f"{len(pictures)} pictures"
        self.tell.step(f"Asking about {asked} that it has never seen")
        first = self.folder / pictures[0].name
        first.write_bytes(pictures[0].data)
        self.tell.command(
            f'curl --data-binary @{quote(first)} $URL/v1/deployments/{name}/predict -H "Authorization: Bearer $KEY"'
        )
        took_ms: list[float] = []
        right, reply = 0, dict[str, Any]()
        for picture in pictures:
            began = time.perf_counter()
            response = self.client.post(
                f"/v1/deployments/{name}/predict",
                content=picture.data,
                headers={"Content-Type": "application/octet-stream"},
            )
            took_ms.append((time.perf_counter() - began) * 1000)
            answer = self.result(response)
            reply = reply or answer
            right += answer["predictions"][0]["label"] == picture.label
        best = reply["predictions"][0]
        self.tell.say(
            f"{pictures[0].name} shows {pictures[0].label!r}; the answer: {best['label']!r}, score {best['score']:.3f}."
        )
        self.tell.result(f"Accuracy on {len(pictures)} unseen pictures", f"{right / len(pictures):.2%}")
        self.tell.result("Time per request, median", f"{median(took_ms):.1f} ms")

    def compare(self, watch: Watch, model: Mapping[str, Any], pictures: Sequence[Picture]) -> None:
        """The winner against the floor: on the test split, and on the pictures that were asked about."""
        evaluation = self.get(f"/v1/models/{model['id']}/evaluation")
        tested = f"{evaluation['metrics']['accuracy']:.2%} of {evaluation['examples']:,}"
        self.tell.result("Accuracy on the test split, looked at once, at the end", tested)
        floor = watch.floor_model
        if floor is None or floor["id"] == model["id"]:
            self.tell.say(
                "The floor, a fixed network that every search must beat, was not beaten: it is what was deployed."
            )
            return
        answers = self.labels_of(floor["id"], pictures)
        right = sum(answer == picture.label for answer, picture in zip(answers, pictures, strict=True))
        self.tell.result("The floor on the same pictures, a fixed network", f"{right / len(pictures):.2%}")

    def describe(self, model: Mapping[str, Any]) -> None:
        self.tell.step("The network that was found")
        path = f"/v1/models/{model['name']}/versions/{model['version']}"
        self.tell.command(f'curl $URL{path} -H "Authorization: Bearer $KEY"')
        self.tell.say(model["description"])
        self.tell.result("Parameters", f"{model['params']:,}")
        self.tell.result("Size as ONNX", f"{model['size_bytes'] / 1e6:.2f} MB")
        self.tell.result("Largest difference between PyTorch and ONNX Runtime", f"{model['parity']:.1e}")

    def labels_of(self, model: str, pictures: Sequence[Picture]) -> list[str]:
        """What a model says of the pictures, many in one request."""
        labels: list[str] = []
        for start in range(0, len(pictures), BATCH):
            instances = [{"b64": base64.b64encode(one.data).decode()} for one in pictures[start : start + BATCH]]
            answer = self.result(
                self.client.post(f"/v1/models/{model}/predict", json={"instances": instances, "top_k": 1})
            )
            labels += [prediction["label"] for prediction in answer["predictions"]]
        return labels

    def test_pictures(self, name: str) -> list[Picture]:
        """Pictures of the test split, which no training has touched, as they were uploaded."""
        query = f"split=test&page_size={min(ASKED_MAX, 200)}"
        page = self.get(f"/v1/datasets/{name}/examples?{query}")
        examples = page["items"]
        while page["next_page_token"] and len(examples) < ASKED_MAX:
            page = self.get(f"/v1/datasets/{name}/examples?{query}&page_token={page['next_page_token']}")
            examples += page["items"]
        return [
            Picture(Path(example["path"]).name, self.raw(example["links"]["content"]), example["label"])
            for example in examples[:ASKED_MAX]
        ]

    def get(self, path: str) -> dict[str, Any]:
        return self.result(self.client.get(path))

    def raw(self, path: str) -> bytes:
        return self.client.get(path).raise_for_status().content

    def result(self, response: httpx.Response) -> dict[str, Any]:
        """The JSON of an answer. Raises httpx.HTTPStatusError for a refusal."""
        answer: dict[str, Any] = response.raise_for_status().json()
        return answer


def problem(response: httpx.Response) -> str:
    """What a refusal says."""
    try:
        said = response.json()
        return f"{response.status_code}, {said.get('detail') or said.get('title')}"
    except (ValueError, AttributeError):
        return f"{response.status_code}, {response.text[:200]}"


def quote(path: Path) -> str:
    """A path as a shell takes it, from where the user stands if that is shorter."""
    return shlex.quote(str(path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path))


def name_of(path: Path) -> str:
    """A data set's name made of a file's."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", path.name.split(".")[0]).strip("-._")[:60] or "pictures"


class Teller:
    """Says things in a terminal, or in plain lines where there is none."""

    def __init__(self, console: Console) -> None:
        self.console = console

    def step(self, title: str) -> None:
        self.console.print()
        self.line(Text(title, style="bold cyan"))

    def say(self, message: str) -> None:
        self.line(Text(message))

    def command(self, line: str) -> None:
        """What a user would type for this step, ready to be pasted: never wrapped."""
        self.line(Text.assemble(("$ ", "dim"), (line, "green")))

    def result(self, name: str, value: str) -> None:
        self.line(Text.assemble(f"{name}: ", (value, "bold")))

    def service(self, service: Stack) -> None:
        self.say("Netwright answers. Every line that begins with $ is what you would type:")
        self.command(f"URL={service.url}")
        self.command(f"KEY={service.key}")
        self.say(f"What it can do is described at {service.url}/docs.")
        if service.is_admin_key:
            self.say("This is the admin key, shown this once; `netwright key create` makes more.")

    def line(self, text: Text) -> None:
        self.console.print(text, soft_wrap=True)
        self.console.file.flush()

    @contextmanager
    def live(self, watch: Watch | None = None) -> Iterator["Show"]:
        """A place that shows how something goes on: redrawn in a terminal, else a line now and then."""
        if not self.console.is_terminal:
            yield Show(self)
            return
        status = Text()
        with Live(watch or status, console=self.console, refresh_per_second=4, transient=True):
            yield Show(self, status)


@dataclass(slots=True)
class Show:
    """Takes what is to be shown now."""

    tell: Teller
    status: Text | None = None
    due: float = 0.0

    def __call__(self, line: str, *, at_once: bool = False) -> None:
        if self.status is not None:
            self.status.plain = line
        elif at_once or time.monotonic() >= self.due:
            self.due = time.monotonic() + PLAIN_EVERY_S
            self.tell.say(line)
