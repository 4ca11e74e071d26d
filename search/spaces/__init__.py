"""Spaces of architectures by name."""

from collections.abc import Mapping
from typing import Any

from search import catalog
from search.space import Genotype, Json, Shape, Space
from search.spaces import cell, macro, nb201
from search.spaces.cell import CellSpace
from search.spaces.macro import MacroSpace
from search.spaces.nb201 import Nb201Space
from search.spaces.stages import StagesSpace


def space_for(name: str, shape: Shape, options: Mapping[str, Json], *, centre: Genotype | None = None) -> Space:
    """The space called `name` for networks of that shape.

    centre: the network, of about the wanted size, around which a space that is not drawn from uniformly (`stages`)
    is sampled: the floor. Others ignore it.
    Raises catalog.OptionError for an unknown name, an unknown option or a value outside its range.
    """
    resolved: dict[str, Any] = catalog.entry(catalog.SPACES, name, "space").resolve(options, "space_options")
    if name == cell.NAME:
        return CellSpace(shape, **resolved)
    if name == macro.NAME:
        return MacroSpace(shape, **resolved)
    if name == nb201.NAME:
        return Nb201Space(shape, **resolved)
    space = StagesSpace(shape, **resolved)
    if centre is None or centre.space != name:
        return space
    return StagesSpace(shape, **resolved | {"flops": space.cost(centre).flops, "centre": centre})
