"""Spaces of architectures by name."""

from collections.abc import Callable, Mapping
from typing import Any

from search import catalog
from search.space import Json, Shape, Space
from search.spaces.cell import CellSpace
from search.spaces.stages import StagesSpace

_MAKERS: Mapping[str, Callable[..., Space]] = {"cell": CellSpace, "stages": StagesSpace}


def space_for(name: str, shape: Shape, options: Mapping[str, Json]) -> Space:
    """The space called `name` for networks of that shape.

    Raises catalog.OptionError for an unknown name, an unknown option or a value outside its range.
    """
    resolved: dict[str, Any] = catalog.entry(catalog.SPACES, name, "space").resolve(options, "space_options")
    return _MAKERS[name](shape, **resolved)
