"""One small instance of every space, for the contract suites. A new space joins by an entry in `SMALL`."""

from collections.abc import Mapping

from search.space import Json, Shape, Space
from search.spaces import space_for

SHAPE = Shape(channels=3, side=16, classes=5)
SMALL: Mapping[str, Mapping[str, Json]] = {
    "cell": {"blocks": 3, "ops": "fast", "filters": 4, "side": 16},
    "macro": {"layers": 5, "filters": 4, "side": 16},
    "nb201": {"channels": 4, "side": 16},
    "stages": {},
}


def small_space(name: str) -> Space:
    return space_for(name, SHAPE, SMALL[name])
