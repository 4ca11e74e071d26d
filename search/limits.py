"""Hard limits of a search: what a network may have at most, and a space without the networks that have more.

Parameters and arithmetic are known before anything is built, so that nothing beyond them is proposed. The size of the
ONNX file and the time of an answer are measured on the untrained network: neither depends on the weights.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from random import Random
from statistics import median
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from search import catalog
from search.export import untrained_onnx
from search.runtime import measured_latency_ms
from search.space import (
    Cost,
    Decision,
    Genotype,
    InvalidGenotypeError,
    Json,
    OneShot,
    Progressive,
    Recipe,
    Scalable,
    Space,
    Tokenised,
)

THIS = "this network has"
_NAMES = tuple(option.name for option in catalog.LIMITS.options)

_BYTES = 4  # of a parameter in the file, float32
_MB = 1_000_000
_TRIES = 12  # draws or changes in search of a network inside the limits; then one outside is brought inside
_KEPT, _WALK = 16, 12  # networks brought inside from which draws go on, and how many changes these make at most
_STARTS = 8  # of the search for the smallest network
_SHRINKINGS = 30  # of a skeleton, each to what its excess suggests
_MEASURED = 8  # networks that show what size and time come with how many parameters and multiply-adds


class OverLimitError(InvalidGenotypeError):
    """A network that is legal in its space and has more than the search allows; names limit, value and what would do."""


@dataclass(frozen=True, slots=True)
class Measured:
    """Of the untrained network. size_bytes: of the ONNX file. latency_ms: see `measured_latency_ms`."""

    size_bytes: int
    latency_ms: float


@dataclass(frozen=True, slots=True)
class Limits:
    """What a network may have at most; None where there is no limit. size_mb: of the ONNX file, in 1,000,000 bytes.

    latency_ms: of one picture in ONNX Runtime, as the server runs it, on the machine that trains it.
    """

    params: int | None = None
    flops: int | None = None
    size_mb: float | None = None
    latency_ms: float | None = None

    @classmethod
    def of(cls, document: Mapping[str, Json]) -> "Limits":
        """From the options of `catalog.LIMITS`."""
        return cls(*(document.get(name) for name in _NAMES))

    def to_json(self) -> dict[str, Json]:
        values = (self.params, self.flops, self.size_mb, self.latency_ms)
        return {name: value for name, value in zip(_NAMES, values, strict=True) if value is not None}

    def __bool__(self) -> bool:
        return self != Limits()

    @property
    def is_measured(self) -> bool:
        """Whether arithmetic alone does not tell who is inside."""
        return self.size_mb is not None or self.latency_ms is not None

    def shares(self, cost: Cost) -> Iterator[tuple[float, str]]:
        """Of each limit that can be foretold: which share of it is used, and that in words. A file holds at least its
        parameters."""
        if self.params is not None:
            yield cost.params / self.params, f"max_params: {self.params:,}; {{}} {cost.params:,} parameters"
        if self.flops is not None:
            yield cost.flops / self.flops, f"max_flops: {self.flops:,}; {{}} {cost.flops:,} multiply-adds"
        if self.size_mb is not None:
            size_mb = _BYTES * cost.params / _MB
            yield size_mb / self.size_mb, f"max_size_mb: {self.size_mb:g}; {{}} {size_mb:.4g} MB of weights alone"

    def measured_shares(self, measured: Measured) -> Iterator[tuple[float, str]]:
        if self.size_mb is not None:
            size_mb = measured.size_bytes / _MB
            yield size_mb / self.size_mb, f"max_size_mb: {self.size_mb:g}; {{}} {size_mb:.4g} MB as an ONNX file"
        if self.latency_ms is not None:
            took = f"{measured.latency_ms:.3g} ms for a picture"
            yield measured.latency_ms / self.latency_ms, f"max_latency_ms: {self.latency_ms:g}; {{}} {took}"

    def excess(self, cost: Cost) -> float:
        """The largest share of a limit that is used; above 1 is outside."""
        return max((share for share, _ in self.shares(cost)), default=0.0)

    def foresee(self, cost: Cost, *, subject: str = THIS) -> None:
        """Raises OverLimitError for a cost outside the limits that can be foretold."""
        share, words = max(self.shares(cost), default=(0.0, ""))
        if share > 1:
            raise OverLimitError(words.format(subject))

    def measure(
        self, space: Space, genotype: Genotype, labels: Sequence[str], *, subject: str = THIS
    ) -> Measured | None:
        """What can only be measured; None where nothing has to be. Raises OverLimitError for what is outside."""
        if not self.is_measured:
            return None
        measured = measured_of(space, genotype, labels)
        self.heed(measured, subject=subject)
        return measured

    def heed(self, measured: Measured, *, subject: str = THIS) -> None:
        """Raises OverLimitError for what was measured and is outside."""
        share, words = max(self.measured_shares(measured), default=(0.0, ""))
        if share > 1:
            raise OverLimitError(words.format(subject))


def measured_of(space: Space, genotype: Genotype, labels: Sequence[str]) -> Measured:
    """labels: the file carries them."""
    with torch.random.fork_rng(devices=[]):
        model = untrained_onnx(space, genotype, labels)
    return Measured(len(model), measured_latency_ms(model))


# ---------------------------------------------------------------------------------------------- what can be reached


def nearest(space: Space, limits: Limits, start: Genotype) -> Genotype:
    """Changes `start` until it is inside the limits, or no single change makes it smaller any more.

    The order in which changes are looked at is drawn from the genotype, and the first that is nearer is taken: so the
    answer depends on the genotype alone, and no kind of change is preferred as it would be by going down most steeply.
    """
    here, excess, random = start, limits.excess(space.cost(start)), Random(start.digest())
    while excess > 1:
        rated = ((limits.excess(space.cost(each)), each) for each in _changes(space, here, random))
        nearer = next((each for each in rated if each[0] < excess), None)
        if nearer is None:
            break
        excess, here = nearer
    return here


def _changes(space: Space, genotype: Genotype, random: Random) -> Iterator[Genotype]:
    """A few by chance, which mostly suffice, then all."""
    for _ in range(_TRIES):
        yield space.mutate(genotype, random)
    neighbours = list(space.neighbours(genotype))
    random.shuffle(neighbours)
    yield from neighbours


def reachable(space: Space, limits: Limits) -> Genotype:
    """A network inside the limits that can be foretold, found by going down from several draws.

    Raises OverLimitError, with the nearest of all that were found.
    """
    found = list[Genotype]()
    for number in range(_STARTS):
        found.append(nearest(space, limits, space.sample(Random(f"smallest/{number}"))))
        if limits.excess(space.cost(found[-1])) <= 1:
            return found[-1]
    closest = min(found, key=lambda each: limits.excess(space.cost(each)))
    limits.foresee(space.cost(closest), subject=_smallest(space))
    return closest


def _smallest(space: Space) -> str:
    return f"the smallest network of space {space.name!r} with these options that was found has"


def foretold(space: Space, limits: Limits, labels: Sequence[str]) -> Limits:
    """Limits in parameters and multiply-adds alone, beyond which a network is most likely outside the measured ones.

    From a few networks that are measured: a file has as many bytes beside its weights as half of these have at most, and
    an answer takes as long for its arithmetic. Raises OverLimitError when none can be reached.
    """
    inside = reachable(space, limits)
    if not limits.is_measured:
        return limits
    fewest = nearest(space, Limits(params=1), inside)
    replace(limits, latency_ms=None).measure(space, fewest, labels, subject=_smallest(space))
    least = nearest(space, Limits(flops=1), inside)
    replace(limits, size_mb=None).measure(space, least, labels, subject=_smallest(space))
    allowed = within(space, limits)
    draws = [allowed.sample(Random(f"measured/{number}")) for number in range(_MEASURED)]
    seen = [(space.cost(each), measured_of(space, each, labels)) for each in draws]
    params, flops = limits.params, limits.flops
    if limits.size_mb is not None:
        beside = median(measured.size_bytes - _BYTES * cost.params for cost, measured in seen)
        most = int((limits.size_mb * _MB - beside) / _BYTES)
        params = min(params or most, max(most, space.cost(fewest).params))
    if limits.latency_ms is not None:
        ms_per_flop = median(measured.latency_ms / cost.flops for cost, measured in seen)
        most = int(limits.latency_ms / ms_per_flop)
        flops = min(flops or most, max(most, space.cost(least).flops))
    likely = Limits(params=params, flops=flops)
    try:
        reachable(space, likely)
    except OverLimitError:  # each alone can be reached and both together cannot: let each trial show what it has
        return replace(limits, latency_ms=None)
    return likely


# ---------------------------------------------------------------------------------------------- spaces within limits


@runtime_checkable
class _Whole(Space, Tokenised, Scalable, Protocol):
    """What every space is."""


@runtime_checkable
class _Sharing(_Whole, OneShot, Protocol):
    """A space whose networks can share their weights."""


@runtime_checkable
class _Growing(_Sharing, Progressive, Protocol):
    """A space whose networks also grow block by block."""


def within(space: Space, limits: Limits, likely: Limits | None = None) -> Space:
    """The space without the networks that are outside the limits that can be foretold; it keeps the space's protocols.

    likely: `foretold` of these limits; what is beyond them is not proposed, yet legal where it comes from elsewhere.
    Raises TypeError for a space that has no token form or cannot be scaled: each of ours can.
    """
    if not limits:
        return space
    if isinstance(space, _Growing):
        return _LimitedGrowing(space, limits, likely or limits)
    if isinstance(space, _Sharing):
        return _LimitedSharing(space, limits, likely or limits)
    if isinstance(space, _Whole):
        return _Limited(space, limits, likely or limits)
    raise TypeError(f"space {space.name!r} cannot be kept within limits: it has no tokens or cannot be scaled")


class _Limited:
    """Draws until something is inside, and goes on from what was brought inside when nothing is; all else is the space's
    own answer."""

    def __init__(self, space: _Whole, limits: Limits, likely: Limits) -> None:
        self.name = space.name
        self.shape = space.shape
        self._space = space
        self._limits = limits
        self._likely = likely
        self._brought: dict[int, Genotype] = {}

    def _is_inside(self, genotype: Genotype) -> bool:
        return self._likely.excess(self._space.cost(genotype)) <= 1

    def _inside(self, genotype: Genotype) -> Genotype:
        """Itself, or what `nearest` finds, or else the one that is known to be inside."""
        found = nearest(self._space, self._likely, genotype)
        return found if self._is_inside(found) else self._known

    @cached_property
    def _known(self) -> Genotype:
        return reachable(self._space, self._likely)

    def sample(self, random: Random) -> Genotype:
        for _ in range(_TRIES):
            genotype = self._space.sample(random)
            if self._is_inside(genotype):
                return genotype
        genotype = self._brought_inside(random.randrange(_KEPT))
        for _ in range(random.randint(1, _WALK)):
            genotype = self.mutate(genotype, random)
        return genotype

    def _brought_inside(self, place: int) -> Genotype:
        """The same for each place, and made once: to bring every draw inside would take a tenth of a second each."""
        if place not in self._brought:
            self._brought[place] = self._inside(self._space.sample(Random(f"inside/{place}")))
        return self._brought[place]

    def mutate(self, genotype: Genotype, random: Random) -> Genotype:
        """Where hardly any change stays inside one of those that do; something else inside where none does."""
        for _ in range(_TRIES):
            changed = self._space.mutate(genotype, random)
            if self._is_inside(changed):
                return changed
        neighbours = list(self.neighbours(genotype))
        return random.choice(neighbours) if neighbours else self._brought_inside(random.randrange(_KEPT))

    def neighbours(self, genotype: Genotype) -> Iterator[Genotype]:
        return filter(self._is_inside, self._space.neighbours(genotype))

    def least_side(self, genotype: Genotype) -> int:
        return self._space.least_side(genotype)

    def decisions(self) -> tuple[Decision, ...]:
        return self._space.decisions()

    def tokens(self, genotype: Genotype) -> tuple[int, ...]:
        return self._space.tokens(genotype)

    def from_tokens(self, tokens: Sequence[int]) -> Genotype:
        """What the tokens say where that is inside, else what `nearest` makes of it.

        Tokens so always mean the same network, and a controller's reward is that of the network they mean; to refuse
        them would spend a trial on each sequence from which the controller learns nothing.
        """
        return self._inside(self._space.from_tokens(tokens))

    def scaled(self, genotype: Genotype, flops: int) -> Genotype:
        """About the largest skeleton that is inside; the genotype as it is where that is inside and larger.

        Raises OverLimitError when neither is inside.
        """
        own = self._space.cost(genotype)
        most = wanted = min(flops, self._likely.flops or flops)
        smaller = genotype
        for _ in range(_SHRINKINGS):
            before, smaller = smaller, self._space.scaled(genotype, wanted)
            cost = self._space.cost(smaller)
            excess = self._likely.excess(cost)
            if excess <= 1:
                stays = cost.flops < own.flops <= most and self._is_legal(genotype)
                return genotype if stays else smaller
            if smaller == before:
                break
            wanted = int(min(wanted, cost.flops) * min(0.98, 1 / excess))
        self.check(genotype)
        return genotype

    def _is_legal(self, genotype: Genotype) -> bool:
        try:
            self.check(genotype)
        except InvalidGenotypeError:
            return False
        return True

    def check(self, genotype: Genotype) -> None:
        self._space.check(genotype)
        try:
            self._limits.foresee(self._space.cost(genotype))
        except OverLimitError as error:
            nearer = self._space.describe(nearest(self._space, self._limits, genotype))
            raise OverLimitError(f"{error}; the nearest that was found: {nearer}") from None

    def key(self, genotype: Genotype) -> str:
        return self._space.key(genotype)

    def features(self, genotype: Genotype) -> NDArray[np.float32]:
        return self._space.features(genotype)

    def cost(self, genotype: Genotype) -> Cost:
        return self._space.cost(genotype)

    def recipe(self, genotype: Genotype) -> Recipe:
        return self._space.recipe(genotype)

    def build(self, genotype: Genotype) -> nn.Module:
        return self._space.build(genotype)

    def describe(self, genotype: Genotype) -> str:
        return self._space.describe(genotype)

    def to_python(self, genotype: Genotype) -> str:
        return self._space.to_python(genotype)


class _LimitedSharing(_Limited):
    def __init__(self, space: _Sharing, limits: Limits, likely: Limits) -> None:
        super().__init__(space, limits, likely)
        self._sharing = space

    def supernet(self) -> nn.Module:
        """Of all networks of the space: shared weights are never served, so limits do not concern them."""
        return self._sharing.supernet()


class _LimitedGrowing(_LimitedSharing):
    def __init__(self, space: _Growing, limits: Limits, likely: Limits) -> None:
        super().__init__(space, limits, likely)
        self.blocks = space.blocks
        self._growing = space

    def smallest(self) -> Iterator[Genotype]:
        return filter(self._is_inside, self._growing.smallest())

    def grown(self, genotype: Genotype) -> Iterator[Genotype]:
        return filter(self._is_inside, self._growing.grown(genotype))

    def continued(self, genotype: Genotype, random: Random) -> Genotype | None:
        for _ in range(_TRIES):
            continued = self._growing.continued(genotype, random)
            if continued is not None and self._is_inside(continued):
                return continued
        grown = list(self.grown(genotype))
        return random.choice(grown) if grown else None

    def size(self, genotype: Genotype) -> int:
        return self._growing.size(genotype)
