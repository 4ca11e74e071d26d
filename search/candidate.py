"""What is tried and what came of it: the values that strategies, the schedule and the worker exchange."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from search.space import Genotype, Json

_COMPARABLE = 1.25  # seconds of two trainings may differ by this factor and their scores still compare


class Purpose(StrEnum):
    """Why a trial runs: the network every search must beat, weights that a whole space shares, a question to the space,
    or the training that ships."""

    FLOOR = "floor"
    SUPERNET = "supernet"
    EXPLORE = "explore"
    FINAL = "final"


@dataclass(frozen=True, slots=True)
class Fidelity:
    """What one training may cost: exactly one of wall-clock `seconds` and `epochs`.

    side: largest training resolution in pixels, as far as the network runs there; None leaves the recipe's. fraction: share of the training pictures,
    above 0 and up to 1. rung: share of a full candidate's length that this one gets, above 0 and up to 1; below 1 on
    the lower rungs of successive halving. Of shared weights (Purpose.SUPERNET) it is the share of the time for all
    candidates. Raises ValueError for anything else.
    """

    seconds: float | None = None
    epochs: float | None = None
    side: int | None = None
    fraction: float = 1.0
    rung: float = 1.0

    def __post_init__(self) -> None:
        if (self.seconds is None) == (self.epochs is None):
            raise ValueError(f"a fidelity needs exactly one of seconds ({self.seconds}) and epochs ({self.epochs})")
        length = self.seconds if self.seconds is not None else self.epochs
        if length is None or not math.isfinite(length) or length <= 0:
            raise ValueError(f"a fidelity of {length} seconds or epochs is not a length; give a number above 0")
        if not 0 < self.fraction <= 1:
            raise ValueError(f"fraction {self.fraction} is not in (0, 1]")
        if not 0 < self.rung <= 1:
            raise ValueError(f"rung {self.rung} is not in (0, 1]")
        if self.side is not None and self.side < 1:
            raise ValueError(f"side {self.side} is not a number of pixels; give 1 or more")

    def compares_with(self, other: "Fidelity") -> bool:
        """Whether scores at these two fidelities say which architecture is better."""
        if (self.side, self.fraction, self.rung) != (other.side, other.fraction, other.rung):
            return False
        if self.seconds is not None and other.seconds is not None:
            return max(self.seconds, other.seconds) <= _COMPARABLE * min(self.seconds, other.seconds)
        return self.epochs == other.epochs

    def to_json(self) -> dict[str, Json]:
        return {
            "seconds": self.seconds,
            "epochs": self.epochs,
            "side": self.side,
            "fraction": self.fraction,
            "rung": self.rung,
        }

    @classmethod
    def from_json(cls, document: Mapping[str, Json]) -> "Fidelity":
        return cls(
            seconds=document.get("seconds"),
            epochs=document.get("epochs"),
            side=document.get("side"),
            fraction=document.get("fraction", 1.0),
            rung=document.get("rung", 1.0),
        )


@dataclass(frozen=True, slots=True)
class Proxy:
    """A smaller task that candidates are compared on, as NASNet's were (Zoph et al. 2018, arXiv:1707.07012): a share of the
    training pictures, at most so many pixels a side as far as the network runs there. What is trained to the end sees everything."""

    fraction: float = 1.0
    side: int | None = None

    def at(self, *, seconds: float | None = None, epochs: float | None = None) -> Fidelity:
        """A fidelity of that length on this task."""
        return Fidelity(seconds=seconds, epochs=epochs, side=self.side, fraction=self.fraction)

    def of(self, fidelity: Fidelity, *, seconds: float | None, epochs: float | None) -> Fidelity:
        """The fidelity that a strategy asked for, on this task and at that length."""
        sides = [side for side in (self.side, fidelity.side) if side is not None]
        fraction = self.fraction * fidelity.fraction
        return Fidelity(seconds, epochs, min(sides, default=None), fraction, fidelity.rung)


@dataclass(frozen=True, slots=True)
class Candidate:
    """A genotype proposed at a fidelity. parent: id of the trial whose genotype it was made from, or whose shared weights
    pointed to it, if any. inherit: its training starts from the parent's weights, as far as these are kept and fit."""

    genotype: Genotype
    fidelity: Fidelity
    parent: str | None = None
    inherit: bool = False

    def to_json(self) -> dict[str, Json]:
        return {
            "genotype": self.genotype.to_json(),
            "fidelity": self.fidelity.to_json(),
            "parent": self.parent,
            "inherit": self.inherit,
        }

    @classmethod
    def from_json(cls, document: Mapping[str, Json]) -> "Candidate":
        return cls(
            genotype=Genotype.from_json(document["genotype"]),
            fidelity=Fidelity.from_json(document["fidelity"]),
            parent=document.get("parent"),
            inherit=document.get("inherit", False),
        )


@dataclass(frozen=True, slots=True)
class Observation:
    """What came of a candidate. score: higher is better, None when it failed or was stopped before it had one.

    seconds: wall-clock it took. trial: its id. report: of shared weights, what they say of the space; see
    search/supernet.py. None of all others, and when they failed. refused: it was not worth starting and there is no such
    trial.
    """

    candidate: Candidate
    score: float | None
    seconds: float
    trial: str
    report: Mapping[str, Json] | None = None
    refused: bool = False


@dataclass(frozen=True, slots=True)
class Note:
    """Something that a strategy learned and a reader wants to see drawn: a controller's entropy, a surrogate's rank
    correlation. step: where in the search, counted by the strategy; with `kind` it names the note."""

    step: int
    kind: str
    data: Mapping[str, Json]
