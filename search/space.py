"""What a space of architectures offers: the protocol every space keeps and the values it speaks in."""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray
from torch import nn

from search.catalog import GENOTYPE_VERSION

Json = Any  # a value that `json` writes and reads back unchanged


_LONGEST = 400  # characters of a message


class InvalidGenotypeError(ValueError):
    """A genotype names something its space does not have; the message names the place and the legal choices.

    It repeats what stood there, which may be anything and of any length; then its middle is left out.
    """

    def __str__(self) -> str:
        message, half = super().__str__(), _LONGEST // 2
        return message if len(message) <= _LONGEST else f"{message[:half]} … {message[-half:]}"


@dataclass(frozen=True, slots=True)
class Shape:
    """What a network has to fit: pictures of `channels` × `side` × `side` in, `classes` logits out."""

    channels: int
    side: int
    classes: int


@dataclass(frozen=True, slots=True)
class Cost:
    """What a network costs, known before it is built.

    params: trainable numbers. flops: multiply-adds of one forward pass of one picture.
    activations: numbers kept for the backward pass of one picture.
    """

    params: int
    flops: int
    activations: int


@dataclass(frozen=True, slots=True)
class Genotype:
    """An architecture as data: the space it belongs to and its genes, as canonical JSON so that equal means equal."""

    space: str
    genes_json: str

    @classmethod
    def of(cls, space: str, genes: Mapping[str, Json]) -> "Genotype":
        return cls(space, json.dumps(genes, sort_keys=True, separators=(",", ":")))

    @property
    def genes(self) -> dict[str, Json]:
        return dict(json.loads(self.genes_json))

    def to_json(self) -> dict[str, Json]:
        return {"version": GENOTYPE_VERSION, "space": self.space, "genes": self.genes}

    @classmethod
    def from_json(cls, document: Mapping[str, Json]) -> "Genotype":
        """Raises InvalidGenotypeError for another version or a missing field; the space checks the genes."""
        if document.get("version") != GENOTYPE_VERSION:
            raise InvalidGenotypeError(
                f"genotype version {document.get('version')!r} is unknown; this engine reads {GENOTYPE_VERSION}"
            )
        if not isinstance(document.get("space"), str) or not isinstance(document.get("genes"), Mapping):
            raise InvalidGenotypeError("a genotype needs `space` (a name) and `genes` (an object)")
        return cls.of(document["space"], document["genes"])

    def digest(self) -> str:
        return hashlib.sha256(f"{self.space}:{self.genes_json}".encode()).hexdigest()[:16]


@dataclass(frozen=True, slots=True)
class Recipe:
    """How a network is trained. Some spaces make it a part of the genotype; `cell` uses one for all.

    side: training resolution in pixels (pictures are resized from the packed ones). start_side: resolution of the
    first steps, growing to `side`; equal means constant. learning_rate: peak of the one-cycle schedule as a multiple
    of the trainer's own. flip: mirrored copies are the same class. translate: largest shift as a fraction of the
    side. cutout: side of the erased square as a fraction of the picture's. balance: 0 shows every example once an
    epoch, 1 every class equally often.
    """

    side: int
    start_side: int
    batch_size: int = 128
    learning_rate: float = 1.0
    weight_decay: float = 1.0
    label_smoothing: float = 0.1
    flip: bool = True
    translate: float = 0.0625
    cutout: float = 0.0
    balance: float = 0.0


@dataclass(frozen=True, slots=True)
class Decision:
    """One choice of a genotype's token form.

    name: its place (`normal[0].inputs[1]`). kind: decisions of one kind (`input`, `op`) mean the same, so that a
    controller can share what it learns of them. choices: what each token stands for, in the order of the tokens.
    """

    name: str
    kind: str
    choices: tuple[str, ...]


@runtime_checkable
class Space(Protocol):
    """A set of architectures for one `Shape`. Pure: the same arguments give the same answer."""

    name: str
    shape: Shape

    def sample(self, random: Random) -> Genotype: ...
    def mutate(self, genotype: Genotype, random: Random) -> Genotype: ...
    def neighbours(self, genotype: Genotype) -> Iterator[Genotype]: ...
    def key(self, genotype: Genotype) -> str: ...  # isomorphic architectures share it
    def features(self, genotype: Genotype) -> NDArray[np.float32]: ...  # (F,), fixed F per space and shape
    def check(self, genotype: Genotype) -> None: ...  # raises InvalidGenotypeError
    def cost(self, genotype: Genotype) -> Cost: ...  # at the recipe's resolution
    def recipe(self, genotype: Genotype) -> Recipe: ...
    def least_side(self, genotype: Genotype) -> int: ...  # pixels from which on its network runs; at most start_side
    def build(self, genotype: Genotype) -> nn.Module: ...  # (B, C, side, side) normalised -> (B, classes)
    def describe(self, genotype: Genotype) -> str: ...  # one sentence for a reader
    def to_python(self, genotype: Genotype) -> str: ...  # source of `Network`, alike to what `build` makes; see writing


def side_of(space: Space, genotype: Genotype, largest: int | None) -> int:
    """Resolution to train at: the recipe's, or `largest` where that is smaller, as far as the network runs there."""
    side = space.recipe(genotype).side
    return side if largest is None else min(side, max(largest, space.least_side(genotype)))


@runtime_checkable
class Tokenised(Protocol):
    """A space whose genotypes can be written as a sequence of choices of fixed length, as controllers make them."""

    def decisions(self) -> tuple[Decision, ...]: ...
    def tokens(self, genotype: Genotype) -> tuple[int, ...]: ...  # the nearest, where a value is not among the choices
    def from_tokens(self, tokens: Sequence[int]) -> Genotype: ...  # legal whatever the tokens


@runtime_checkable
class Progressive(Protocol):
    """A space whose genotypes grow block by block, as PNAS builds them: those of fewer blocks are legal, too."""

    blocks: int

    def smallest(self) -> Iterator[Genotype]: ...  # every genotype of one block, isomorphic ones once
    def grown(self, genotype: Genotype) -> Iterator[Genotype]: ...  # every genotype that continues it by one block
    def continued(self, genotype: Genotype, random: Random) -> Genotype | None: ...  # one of those by chance, if any
    def size(self, genotype: Genotype) -> int: ...  # blocks it has


@runtime_checkable
class OneShot(Protocol):
    """A space whose networks can share their weights: one network in which tokens choose a path.

    Its weights are indexed [node][input][operation], as in ENAS (Pham et al. 2018, arXiv:1802.03268).
    """

    def supernet(self) -> nn.Module: ...  # forward(images, tokens) -> (B, classes); images as of `build`


@runtime_checkable
class Scalable(Protocol):
    """A space whose architectures keep their meaning in a larger or smaller skeleton (cells found on a proxy)."""

    def scaled(self, genotype: Genotype, flops: int) -> Genotype: ...  # at most about so many multiply-adds


__all__: Sequence[str] = (
    "Cost",
    "Decision",
    "Genotype",
    "InvalidGenotypeError",
    "Json",
    "OneShot",
    "Progressive",
    "Recipe",
    "Scalable",
    "Shape",
    "Space",
    "Tokenised",
    "side_of",
)
