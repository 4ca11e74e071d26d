"""The batches of one training: which pictures, in which order, how augmented."""

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from search.data import Images, Moves, Order, Pool, generator
from search.device import Device
from search.space import Recipe

_SMALLEST_BATCHES = 4  # an epoch has at least this many
_POOL_SHARE = 0.25  # of the free memory may hold resized pictures


class Feed:
    """A function of the seed and the step.

    rows: positions of the training pictures. normalised: from float (B, C, S, S) in pixel units to what the network
    takes.
    """

    def __init__(
        self,
        images: Images,
        rows: NDArray[np.int64],
        recipe: Recipe,
        seed: int,
        device: Device,
        normalised: Callable[[Tensor], Tensor],
    ) -> None:
        self.rows, self.batch_size = rows, batch_size_of(recipe, len(rows))
        self._images, self._recipe, self._seed, self._device = images, recipe, seed, device
        self._normalised = normalised
        self._pools: dict[int, Pool] = {}
        targets = images.targets[rows]
        self._order = Order(targets, seed, recipe.balance)
        self._targets = torch.from_numpy(targets).to(device.torch_device)
        self._mirrored = torch.rand(len(rows), generator=generator(seed, "mirror")) < 0.5

    def few(self, count: int, side: int, purpose: str) -> Tensor:
        """Up to so many training pictures as they are, float (n, C, side, side). purpose: names the draw."""
        few = torch.randperm(len(self.rows), generator=generator(self._seed, purpose))[:count]
        return self._pictures(self._pool(side).take(few.to(self._device.torch_device)))

    def batch(self, step: int, side: int) -> tuple[Tensor, Tensor]:
        """Augmented, normalised pictures of that step, float (B, C, side, side), and their targets, int64 (B,)."""
        positions, epochs = self._order.take(step * self.batch_size, self.batch_size)
        recipe, random = self._recipe, generator(self._seed, "batch", step)
        # Every other epoch shows a picture mirrored, which half begins at random: more different pictures than chance.
        mirrored = self._mirrored[positions] ^ (epochs % 2 == 1) if recipe.flip else torch.zeros_like(positions).bool()
        reach = min(side - 1, round(recipe.translate * side))
        shifts = torch.randint(-reach, reach + 1, (len(positions), 2), generator=random)
        place = self._device.torch_device
        moves = Moves(mirrored.to(place), shifts.to(place))
        positions = positions.to(place)
        pixels = self._pictures(self._pool(side).augmented(positions, moves))
        size = round(recipe.cutout * side)
        if size:
            corners = torch.randint(1 - size, side, (len(positions), 2), generator=random).to(place)
            line = torch.arange(side, device=place)
            inside = (line >= corners[:, :, None]) & (line < corners[:, :, None] + size)  # (B, 2, S)
            pixels = pixels.masked_fill((inside[:, 0, :, None] & inside[:, 1, None, :])[:, None], 0.0)
        return pixels, self._targets[positions]

    def _pool(self, side: int) -> Pool:
        if side not in self._pools:
            self._pools.clear()  # one resolution at a time
            budget = int(_POOL_SHARE * self._device.free_bytes())
            self._pools[side] = Pool(self._images, self.rows, side, self._device.torch_device, budget)
        return self._pools[side]

    def _pictures(self, pixels: Tensor) -> Tensor:
        """uint8 (B, S, S, C) to float (B, C, S, S)."""
        return self._normalised(pixels.permute(0, 3, 1, 2).float())


def batch_size_of(recipe: Recipe, pictures: int) -> int:
    """The recipe's, or less where pictures are few."""
    return max(1, min(recipe.batch_size, pictures // _SMALLEST_BATCHES))


def share_of(rows: NDArray[np.int64], targets: NDArray[np.int64], fraction: float, seed: int) -> NDArray[np.int64]:
    """That share of the rows, of every class at least one."""
    if fraction >= 1.0:
        return rows
    shuffled = rows[torch.randperm(len(rows), generator=generator(seed, "share")).numpy()]
    chosen = [
        of[: max(1, round(fraction * len(of)))]
        for c in np.unique(targets[rows])
        for of in [shuffled[targets[shuffled] == c]]
    ]
    return np.sort(np.concatenate(chosen))
