"""What in one picture speaks for a label, through the session that also predicts: covered piece by piece."""

import asyncio
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pydantic import ValidationError
from starlette.datastructures import Headers
from starlette.types import Receive

from ingest.errors import UnreadableImageError
from ingest.limits import Limits
from ingest.overlay import LONGEST_PX, overlay
from ingest.preprocess import preview
from search.occlusion import TELLING, Occlusion, OcclusionError
from serve.capacity import Capacity, Room
from serve.inputs import INLINE_BYTES, VALUES_MAX, Layout, decoded_base64, layout_of, read_form, some_picture, values_in
from serve.predictor import unreadable_picture, while_client_waits
from serve.registry import Version
from serve.runtime import Loaded, NotSmall, Runtime, Scores
from serve.schemas import ExplainOptions, ExplainRequest
from web.problems import Fault, from_validation, invalid

AT_ONCE = 16  # explanations that are being made or wait for their turn; more are sent away
CHUNK_SHARE = 4  # of the largest batch, this part at most is covered copies at a time: the rest is left to predictions
CHUNK_S = 0.01  # for which a prediction may have to wait: as many copies at a time as are answered within it
LABELS_LISTED = 50

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Question:
    """field: what the caller calls the picture."""

    picture: bytes
    field: str
    options: ExplainOptions


@dataclass(frozen=True, slots=True, eq=False)
class Explained:
    """label, predicted: places in the model's labels. score: of `label`. grid: drops of the score, (cells, cells)."""

    label: int
    predicted: int
    score: float
    plan: Occlusion
    grid: NDArray[np.float64]
    overlay: bytes


async def parse(body: bytes, headers: Headers, query: Mapping[str, str], executor: Executor) -> Question:
    """One picture and how to cover it; options stand beside the picture, or in the URL. Raises ProblemError 415 or 422."""
    layout = layout_of(headers)
    if layout is Layout.JSON:
        if query:
            raise invalid([Fault(name, "give it in the JSON body, not in the URL", query[name]) for name in query])
        if len(body) <= INLINE_BYTES:
            return _from_json(body)
        return await asyncio.get_running_loop().run_in_executor(executor, _from_json, body)
    picture, field, texts = b"", "body", dict(query)
    if layout is Layout.FORM:
        form = await read_form(body, headers, tuple(ExplainOptions.model_fields))
        if len(form.pictures) > 1:
            raise invalid([Fault(form.names[1], "is one picture too many: one is explained at a time")])
        picture, field, texts = form.pictures[0], form.names[0], texts | dict(form.texts)
    else:
        picture = some_picture(body)
    try:
        options = ExplainOptions.model_validate_strings(texts)
    except ValidationError as error:
        raise from_validation(error) from None
    return Question(picture, field, options)


def _from_json(body: bytes) -> Question:
    if (found := values_in(body)) > VALUES_MAX:
        raise invalid(
            [Fault("", f"one picture is explained at a time; the JSON has {found:,} lists, objects and commas")]
        )
    try:
        asked = ExplainRequest.model_validate_json(body)
    except ValidationError as error:
        raise from_validation(error) from None
    decoded = decoded_base64(asked, "")
    if isinstance(decoded, Fault):
        raise invalid([decoded])
    return Question(decoded, "image.b64" if asked.image else "b64", asked)


class Explainer:
    """Explains one picture after another. Predictions go first.

    The covered copies of all explanations wait in the same line as pictures to predict, but a part of a batch at a
    time, and the next part only when that one is answered. So a prediction waits for one such part at most, which takes
    some CHUNK_S, however many explanations are asked for.
    """

    def __init__(self, runtime: Runtime, decoders: Executor, pictures: Room, capacity: Capacity) -> None:
        """`pictures` bounds the pictures in work. Made on the event loop."""
        self._runtime = runtime
        self._decoders = decoders
        self._pictures = pictures
        self._limits = Limits(max_pixels=capacity.picture_max_pixels)
        self._room = Room(AT_ONCE, "explanations")
        self._turn = asyncio.Semaphore(1)

    async def explain(self, version: Version, question: Question, receive: Receive) -> Explained:
        """`receive` is the request's, its body read.

        Raises ProblemError (422 for an unknown label, a picture that cannot be read or covered so; 503 when there is
        enough to do) and ClientDisconnect.
        """
        wanted = question.options.label
        label = None if wanted is None else _place(version, wanted)
        with self._room.hold(1), self._pictures.hold(1):
            async with while_client_waits(receive):
                loaded = await self._runtime.get(version)
                plan = _planned(loaded.network.side, question.options)
                try:
                    packed, shown = await self._in_thread(lambda: self._read(loaded, question.picture))
                except UnreadableImageError as error:
                    raise unreadable_picture(question.field, error) from None
                whole = await _score(loaded, packed)
                predicted = int(whole.argmax())
                label = predicted if label is None else label
                drops = whole[label] - await self._covered(loaded, plan, packed, label)
                heat = plan.heat(drops)
                drawn = await self._in_thread(lambda: overlay(shown, heat, plan.stride / 2, TELLING))
        return Explained(label, predicted, float(whole[label]), plan, plan.grid(heat), drawn)

    async def _covered(
        self, loaded: Loaded, plan: Occlusion, packed: NDArray[np.uint8], label: int
    ) -> NDArray[np.float32]:
        """The score of `label` for each covered copy."""
        most, size = max(1, loaded.network.batch_max // CHUNK_SHARE), 1
        cover = plan.cover(packed)
        scores = list[Scores]()
        while len(scores) < plan.count:
            async with self._turn:
                began = time.perf_counter()
                copies = plan.copies(packed, cover, len(scores), size)
                scores += await asyncio.gather(*(_score(loaded, copy) for copy in copies))
            took_s = time.perf_counter() - began
            if took_s > CHUNK_S:
                size = max(1, size // 2)
            elif took_s < CHUNK_S / 2:
                size = min(most, 2 * size)
        return np.stack(scores)[:, label]

    def _read(self, loaded: Loaded, picture: bytes) -> tuple[NDArray[np.uint8], Image.Image]:
        return loaded.network.decode(picture), preview(picture, LONGEST_PX, self._limits)

    async def _in_thread(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._decoders, work)


async def _score(loaded: Loaded, packed: NDArray[np.uint8]) -> Scores:
    scores = await loaded.batcher.submit(packed)
    assert not isinstance(scores, NotSmall)
    return scores


def _planned(side: int, options: ExplainOptions) -> Occlusion:
    try:
        return Occlusion.of(side, options.patch, options.stride, options.fill)
    except OcclusionError as error:
        raise invalid([Fault(error.field, str(error), error.value)]) from None


def _place(version: Version, label: str) -> int:
    if label in version.labels:
        return version.labels.index(label)
    known = ", ".join(version.labels[:LABELS_LISTED]) + (", …" if len(version.labels) > LABELS_LISTED else "")
    raise invalid([Fault("label", f"the model {version.spoken} knows no such label; it knows {known}", label)])


def wants_png(accept: str) -> bool:
    """Whether an Accept header asks for a PNG rather than for JSON; what names neither gets JSON."""
    png = json = 0.0
    for part in accept.split(","):
        name, _, rest = part.partition(";")
        quality = _quality(rest)
        match name.strip().lower():
            case "image/png" | "image/*":
                png = max(png, quality)
            case "application/json" | "application/*":
                json = max(json, quality)
    return png > json


def _quality(parameters: str) -> float:
    """The `q` of a media range; 1 without one, 0 for one that is no number."""
    for parameter in parameters.split(";"):
        name, _, value = parameter.partition("=")
        if name.strip().lower() == "q":
            try:
                return float(value)
            except ValueError:
                return 0.0
    return 1.0
