"""Documents with one thing wrong, for tests of whoever reads them."""

import copy
from collections.abc import Iterator
from random import Random

from search.space import Json

Place = tuple[str | int, ...]
VALUES: tuple[Json, ...] = (
    None, True, False, -1, 0, 1, 2, 3, 7, 16, 10**9, 2**70, 10**400, 0.5, -2.5, 2.0, 1e6, "", "0", "conv3x3", "identity",
    "\u2028", "|none~0|", [], {}, [0, 1], [["identity"]], {"op": "identity"}, [[[[0]]]],
)  # fmt: skip


def places(document: Json, at: Place = ()) -> Iterator[Place]:
    """Of everything in a document, itself excluded."""
    for key, value in document.items() if isinstance(document, dict) else enumerate(document):
        yield (*at, key)
        if isinstance(value, dict | list):
            yield from places(value, (*at, key))


def damaged(document: dict[str, Json], random: Random) -> tuple[dict[str, Json], Place]:
    """The document with something replaced, taken out, doubled or added, and where; what is added is called `odd`."""
    document = copy.deepcopy(document)
    place = random.choice(list(places(document)))
    inner: Json = document
    for step in place[:-1]:
        inner = inner[step]
    key, value = place[-1], copy.deepcopy(random.choice(VALUES))
    act = random.choice(["replace", "replace", "take", "double", "add"])
    if act == "replace":
        inner[key] = value
    elif act == "take":
        del inner[key]
    elif isinstance(inner, list):
        inner.insert(key, inner[key] if act == "double" else value)
    else:
        inner["odd"] = value
    return document, place
