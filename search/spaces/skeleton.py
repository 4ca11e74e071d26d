"""What spaces share whose architectures stand in a skeleton: its legal values, its scaling, its recipe."""

from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from search.catalog import Option
from search.space import InvalidGenotypeError, Recipe, Shape


def check_skeleton(skeleton: Mapping[str, Any], options: Mapping[str, Option], shape: Shape) -> None:
    """Raises InvalidGenotypeError for a value out of the range of the space's option of that name."""
    for field, value in skeleton.items():
        low, high = int(options[field].minimum), int(options[field].maximum)
        if field == "side":
            low, high = min(low, shape.side), min(high, shape.side)
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
            raise InvalidGenotypeError(f"skeleton.{field} is {value!r}; possible: {low} to {high}")


def largest_within(sizes: Sequence[int], flops: int, cost: Callable[[int], int]) -> int:
    """The largest of ascending `sizes` whose `cost` is at most `flops`; the smallest when all cost more."""
    return sizes[max(1, bisect_right(sizes, flops, key=cost)) - 1]


def recipe_at(side: int, shape: Shape) -> Recipe:
    """One for all of a space. Gray pictures are mostly writing and drawings, whose mirror images are another class."""
    return Recipe(side=side, start_side=side, flip=shape.channels == 3)
