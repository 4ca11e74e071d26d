"""What a score hangs on, found by covering one place of a picture after another (Zeiler and Fergus 2014, arXiv:1311.2901).

Loads no torch, since the serving process reads it, too. It needs nothing but scores, so any runtime will do.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from ingest.overlay import smoothed

COPIES_MAX = 1024  # of one picture: bounds what a request may cost
TELLING = 0.05  # a drop of the score from which on it is drawn in full colour
_PATCHES_ACROSS = 6  # by default a patch has this share of the side: a sixth

Fill = Literal["mean", "blur"]


class OcclusionError(ValueError):
    """A picture cannot be covered so; the message says what could be. `field` is the number that is wrong."""

    def __init__(self, field: str, message: str, value: int) -> None:
        super().__init__(message)
        self.field = field
        self.value = value


@dataclass(frozen=True, slots=True)
class Occlusion:
    """How pictures of `side` × `side` are covered: by squares of `patch` pixels whose corners are `stride` apart, so that
    every pixel is under one at least. What covers is the picture's mean colour, or the picture blurred beyond knowing:
    that changes its colours less, and finds what hangs on shapes.
    """

    side: int
    patch: int
    stride: int
    fill: Fill

    @classmethod
    def of(cls, side: int, patch: int | None = None, stride: int | None = None, fill: Fill = "mean") -> "Occlusion":
        """With a patch of a sixth of the side and a stride of half a patch where they are not given: about 100 copies.

        Raises OcclusionError for a patch larger than the picture, a stride that leaves gaps, and more than COPIES_MAX
        copies.
        """
        if patch is None:
            patch = max(1, round(side / _PATCHES_ACROSS))
        if not 1 <= patch <= side:
            raise OcclusionError(
                "patch", f"the model sees pictures of {side}×{side} pixels; a patch may have 1 to {side}", patch
            )
        if stride is None:
            stride = (patch + 1) // 2
        if not 1 <= stride <= patch:
            raise OcclusionError("stride", f"with a patch of {patch} pixels it may be 1 to {patch}", stride)
        plan = cls(side, patch, stride, fill)
        if plan.count > COPIES_MAX:
            least = next(
                (each for each in range(stride, patch + 1) if cls(side, patch, each, fill).count <= COPIES_MAX), 0
            )
            hint = f"a stride of {least} would do" if least else "take a larger patch"
            raise OcclusionError(
                "stride" if least else "patch",
                f"a patch of {patch} and a stride of {stride} make {plan.count:,} covered copies; the limit is "
                f"{COPIES_MAX:,}, {hint}",
                stride if least else patch,
            )
        return plan

    @property
    def starts(self) -> list[int]:
        """Where patches begin along one side; the last ends at the border."""
        last = self.side - self.patch
        return [*range(0, last, self.stride), last]

    @property
    def count(self) -> int:
        """Of covered copies."""
        return len(self.starts) ** 2

    def copies(self, picture: NDArray[np.uint8], cover: NDArray[np.uint8], first: int, size: int) -> NDArray[np.uint8]:
        """Up to `size` covered copies from number `first` on, in the order of reading: uint8 (n, side, side, C).

        picture, and `cover` of it: uint8 (side, side, C).
        """
        corners = [(top, left) for top in self.starts for left in self.starts][first : first + size]
        copies = np.repeat(picture[None], len(corners), axis=0)
        for copy, (top, left) in zip(copies, corners, strict=True):
            place = np.s_[top : top + self.patch, left : left + self.patch]
            copy[place] = cover[place]
        return copies

    def cover(self, picture: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """What is seen in place of `picture`, uint8 (side, side, C), under a patch."""
        if self.fill == "mean":
            return np.broadcast_to(np.rint(picture.mean((0, 1))).astype(np.uint8), picture.shape)
        channels = [smoothed(picture[..., each].astype(np.float32), self.patch) for each in range(picture.shape[2])]
        return np.rint(np.stack(channels, axis=-1)).astype(np.uint8)

    def heat(self, drops: NDArray[np.floating]) -> NDArray[np.float64]:
        """The mean drop of the score over the patches that cover a pixel: (side, side). drops: (count,), in order.

        Above zero speaks for the label, below zero against it.
        """
        total, covered = np.zeros((2, self.side, self.side))
        for number, drop in enumerate(drops.tolist()):
            top, left = self.starts[number // len(self.starts)], self.starts[number % len(self.starts)]
            place = np.s_[top : top + self.patch, left : left + self.patch]
            total[place] += drop
            covered[place] += 1
        heat: NDArray[np.float64] = total / covered
        return heat

    def grid(self, heat: NDArray[np.float64]) -> NDArray[np.float64]:
        """`heat` as means over cells of `stride` × `stride` pixels; those at the right and lower border may be smaller."""
        edges = list(range(0, self.side, self.stride))
        sums = np.add.reduceat(np.add.reduceat(heat, edges, 0), edges, 1)
        lengths = np.diff([*edges, self.side])
        grid: NDArray[np.float64] = sums / np.outer(lengths, lengths)
        return grid
