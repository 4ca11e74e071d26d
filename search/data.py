"""The packed pictures of a data set as training sees them: mapped from disk, resized once, augmented by the batch."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from functools import cache
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from search.space import Shape

_CHUNK = 1024  # pictures resized at a time: bounds the float copies
_STATISTICS_PIXELS = 5_000_000  # looked at for mean and deviation
BALANCED_OBJECTIVES = frozenset({"balanced_accuracy", "macro_f1"})


class Split(IntEnum):
    """How `index.npz` numbers the splits."""

    TRAIN = 0
    VALIDATION = 1
    TEST = 2


class UnusableDataError(ValueError):
    """The packed data cannot be trained on; the message names the file and what is wrong."""


@dataclass(frozen=True, slots=True, eq=False)
class Images:
    """pixels: uint8 (N, side, side, C), usually a memory map. targets: int64 (N,). splits: uint8 (N,), see `Split`.
    labels: the name of each class."""

    pixels: NDArray[np.uint8]
    targets: NDArray[np.int64]
    splits: NDArray[np.uint8]
    labels: tuple[str, ...]

    @classmethod
    def open(cls, folder: Path, labels: Sequence[str]) -> "Images":
        """Maps `images.npy` and reads `index.npz` in `folder`. Raises UnusableDataError when they do not fit."""
        pixels = np.load(folder / "images.npy", mmap_mode="r", allow_pickle=False)
        with np.load(folder / "index.npz", allow_pickle=False) as index:
            return cls.of(pixels, index["labels"], index["splits"], labels)

    @classmethod
    def of(
        cls, pixels: NDArray[np.uint8], targets: NDArray[np.integer], splits: NDArray[np.integer], labels: Sequence[str]
    ) -> "Images":
        """Checks what `open` has read, or arrays in memory."""
        if pixels.dtype != np.uint8 or pixels.ndim != 4 or pixels.shape[1] != pixels.shape[2]:
            raise UnusableDataError(
                f"pictures must be uint8 (N, side, side, C), these are {pixels.dtype} {pixels.shape}"
            )
        if pixels.shape[3] not in (1, 3):
            raise UnusableDataError(f"pictures must have 1 or 3 channels, these have {pixels.shape[3]}")
        if not len(pixels) == len(targets) == len(splits):
            raise UnusableDataError(
                f"{len(pixels)} pictures, {len(targets)} labels and {len(splits)} splits do not match"
            )
        if len(targets) and not 0 <= targets.min() <= targets.max() < len(labels):
            raise UnusableDataError(f"labels run from {targets.min()} to {targets.max()}, but {len(labels)} are named")
        images = cls(pixels, targets.astype(np.int64), splits.astype(np.uint8), tuple(labels))
        for split in (Split.TRAIN, Split.VALIDATION):
            if not len(images.rows(split)):
                raise UnusableDataError(f"no picture is in the {split.name.lower()} split; at least one is needed")
        return images

    def rows(self, split: Split) -> NDArray[np.int64]:
        """Positions of the pictures of one split."""
        return np.flatnonzero(self.splits == split)

    @property
    def train(self) -> NDArray[np.int64]:
        return self.rows(Split.TRAIN)

    @property
    def validation(self) -> NDArray[np.int64]:
        return self.rows(Split.VALIDATION)

    @property
    def test(self) -> NDArray[np.int64]:
        return self.rows(Split.TEST)

    @property
    def side(self) -> int:
        return int(self.pixels.shape[1])

    @property
    def channels(self) -> int:
        return int(self.pixels.shape[3])

    def shape(self, side: int | None = None) -> Shape:
        """What a network for these pictures has to fit, at their packed side or another."""
        return Shape(self.channels, side or self.side, len(self.labels))

    def statistics(self) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of each channel over training pictures, in pixel units: two float32 (C,)."""
        rows = self.train
        rows = rows[:: max(1, len(rows) * self.side**2 // _STATISTICS_PIXELS)]
        sums = np.zeros((2, self.channels))
        for start in range(0, len(rows), _CHUNK):
            values = self.pixels[rows[start : start + _CHUNK]].astype(np.float32).reshape(-1, self.channels)
            sums += values.sum(0, dtype=np.float64), np.square(values).sum(0, dtype=np.float64)
        mean, square = sums / (len(rows) * self.side**2)
        deviation = np.sqrt(np.maximum(square - mean**2, 1.0))  # a constant channel has no deviation to divide by
        return torch.from_numpy(mean).float(), torch.from_numpy(deviation).float()


@cache
def resize_matrix(source: int, target: int) -> Tensor:
    """Weights of an antialiased linear resize along one side: float32 (target, source), rows sum to one.

    A resize as two matrix products is the same arithmetic in torch and in ONNX Runtime; their own resize operators
    differ in the last digits and in what they support.
    """
    scale = source / target
    reach = max(scale, 1.0)  # the triangle widens when shrinking: that is the antialiasing
    centres = (torch.arange(target, dtype=torch.float64) + 0.5) * scale - 0.5
    distance = (torch.arange(source, dtype=torch.float64)[None] - centres[:, None]).abs() / reach
    weights = (1 - distance).clamp(min=0)
    return (weights / weights.sum(1, keepdim=True)).float()


def resize(images: Tensor, matrix: Tensor) -> Tensor:
    """images: float (N, C, H, H); matrix: (S, H) of `resize_matrix`. Returns (N, C, S, S)."""
    return torch.matmul(torch.matmul(matrix, images), matrix.T)


class Pool:
    """The pictures of some rows at one resolution, on one device: uint8 (n, side, side, C).

    Resized once and kept where the memory allows; otherwise every batch is resized anew.
    """

    def __init__(self, images: Images, rows: NDArray[np.int64], side: int, device: torch.device, budget_bytes: int):
        self.side = side
        self.device = device
        self._images = images
        self._rows = rows
        self._matrix = resize_matrix(images.side, side).to(device) if side != images.side else None
        self._kept: Tensor | None = None
        if len(rows) * side * side * images.channels <= budget_bytes:
            kept = torch.empty((len(rows), side, side, images.channels), dtype=torch.uint8, device=device)
            for start in range(0, len(rows), _CHUNK):
                kept[start : start + _CHUNK] = self._load(rows[start : start + _CHUNK])
            self._kept = kept

    def __len__(self) -> int:
        return len(self._rows)

    def take(self, positions: Tensor) -> Tensor:
        """uint8 (B, side, side, C) of int64 (B,) positions in the rows."""
        if self._kept is not None:
            return self._kept[positions]
        return self._load(self._rows[positions.cpu().numpy()]).contiguous()

    def augmented(self, positions: Tensor, moves: "Moves") -> Tensor:
        """Like `take`, each picture mirrored and shifted as `moves` says: one gather does it all."""
        if self._kept is None:
            return moved(self.take(positions), torch.arange(len(positions), device=self.device), moves)
        return moved(self._kept, positions, moves)

    def _load(self, rows: NDArray[np.int64]) -> Tensor:
        pixels = torch.from_numpy(np.ascontiguousarray(self._images.pixels[rows])).to(self.device)
        if self._matrix is None:
            return pixels
        resized = resize(pixels.permute(0, 3, 1, 2).float(), self._matrix)
        return resized.round_().clamp_(0, 255).to(torch.uint8).permute(0, 2, 3, 1)


@dataclass(frozen=True, slots=True)
class Moves:
    """How each picture of a batch is placed. mirrored: bool (B,). shifts: int64 (B, 2), pixels down and right."""

    mirrored: Tensor
    shifts: Tensor


def moved(pixels: Tensor, positions: Tensor, moves: Moves) -> Tensor:
    """uint8 (n, S, S, C) and int64 (B,) to uint8 (B, S, S, C); what a shift uncovers is filled by reflection."""
    side, channels = pixels.shape[1], pixels.shape[3]
    line = torch.arange(side, device=pixels.device)
    across = torch.where(moves.mirrored[:, None], side - 1 - line, line) - moves.shifts[:, 1:]  # (B, S)
    down = line - moves.shifts[:, :1]  # (B, S)
    across, down = _reflected(across, side), _reflected(down, side)
    flat = (positions[:, None, None] * side + down[:, :, None]) * side + across[:, None, :]  # (B, S, S)
    return pixels.reshape(-1, channels).index_select(0, flat.reshape(-1)).reshape(len(positions), side, side, channels)


def _reflected(line: Tensor, side: int) -> Tensor:
    line = line.abs()
    return torch.where(line > side - 1, 2 * (side - 1) - line, line)


def generator(*parts: str | int) -> torch.Generator:
    """A generator that is a function of stored values alone, so that no generator state has to be saved."""
    digest = hashlib.sha256("/".join(map(str, parts)).encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)


class Order:
    """The endless stream of training examples: epoch after epoch, each in an order of its own.

    A function of the seed and the position alone. With `balance` classes come up more equally: an example's chance
    is (count of its class) ** -balance, so 1 shows all classes alike often and 0 shows every example once an epoch.
    """

    def __init__(self, targets: NDArray[np.int64], seed: int, balance: float = 0.0):
        self._seed = seed
        self._epoch = -1
        self._current = torch.empty(0, dtype=torch.int64)
        self._count = len(targets)
        sizes = np.bincount(targets).astype(np.float64)
        chances = sizes[targets] ** -balance
        self._shares = torch.from_numpy(np.cumsum(chances / chances.sum()))
        self._balanced = balance > 0 and len(np.unique(sizes[sizes > 0])) > 1

    def take(self, start: int, count: int) -> tuple[Tensor, Tensor]:
        """Positions and epoch numbers, both int64 (count,), of the stream from `start` on."""
        positions, epochs = [], []
        while count > 0:
            epoch, offset = divmod(start, self._count)
            part = self._permutation(epoch)[offset : offset + count]
            positions.append(part)
            epochs.append(torch.full((len(part),), epoch))
            start, count = start + len(part), count - len(part)
        return torch.cat(positions), torch.cat(epochs)

    def _permutation(self, epoch: int) -> Tensor:
        if epoch != self._epoch:
            random = generator(self._seed, "order", epoch)
            self._current = torch.randperm(self._count, generator=random)
            if self._balanced:  # systematic sampling: an example comes up as often as its share says, to within one
                ticks = (
                    torch.arange(self._count) + torch.rand((), generator=random, dtype=torch.float64)
                ) / self._count
                self._current = torch.searchsorted(self._shares, ticks).clamp(max=self._count - 1)[self._current]
            self._epoch = epoch
        return self._current
