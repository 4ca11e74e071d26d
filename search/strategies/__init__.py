"""Strategies: what to try next. Each decides alone from what was tried; clock, loop and storage are others' work."""

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol, runtime_checkable

from search import catalog
from search.candidate import Candidate, Note, Observation
from search.space import Genotype, Json, Space
from search.strategies.asha import Asha
from search.strategies.bayesian import Bayesian
from search.strategies.enas import Enas
from search.strategies.evolution import Evolution
from search.strategies.fixed import Fixed
from search.strategies.history import StateError
from search.strategies.local import LocalSearch
from search.strategies.pnas import Pnas
from search.strategies.race import Race
from search.strategies.random import RandomSearch
from search.strategies.reinforce import Reinforce


@runtime_checkable
class Strategy(Protocol):
    """Decides what to try next. Owns no clock, thread, session or loop.

    `ask` may return fewer than `count`: nothing else for now. `pending` are the candidates planned and not finished,
    from the table. A proposal's fidelity names what the strategy cares about, `side` and `fraction`; the schedule
    sets its length. `tell` takes what ended, in any order, failures (score None) included; telling a trial again
    changes nothing. `dump` is small JSON and `load` its inverse, which raises StateError for what it cannot read.
    `notes` hands over what was learned since the last call of it; notes that were not fetched are not part of the dump.
    """

    def ask(self, count: int, pending: Sequence[Candidate]) -> list[Candidate]: ...
    def tell(self, seen: Sequence[Observation]) -> None: ...
    def notes(self) -> list[Note]: ...
    def dump(self) -> dict[str, Json]: ...
    def load(self, state: Mapping[str, Json]) -> None: ...


_MAKERS: Mapping[str, Callable[[Space, Mapping[str, Json], int], Strategy]] = {
    "bayesian": Bayesian,
    "enas": Enas,
    "evolution": Evolution,
    "fixed": lambda space, _, seed: Fixed(space, seed),
    "local": lambda space, _, seed: LocalSearch(space, seed),
    "pnas": Pnas,
    "race": Race,
    "random": lambda space, _, seed: RandomSearch(space, seed),
    "reinforce": Reinforce,
}


def strategy_for(
    name: str, space: Space, options: Mapping[str, Json], seed: int, state: Mapping[str, Json] | None
) -> Strategy:
    """The strategy called `name`; `state` is a dump of it, or None at the start. With `rungs` above 1, under ASHA.

    Raises catalog.OptionError for an unknown name or option and for a space that the strategy cannot search,
    StateError for a state that it cannot read (make it anew from None and tell it everything again).
    """
    resolved = catalog.entry(catalog.STRATEGIES, name, "strategy").resolve(options, "strategy_options")
    catalog.check_pair(name, space.name)
    strategy: Strategy = _MAKERS[name](space, resolved, seed)
    if resolved.get("rungs", 1) > 1:
        strategy = Asha(strategy, space, int(resolved["rungs"]), int(resolved["eta"]))
    if state is not None:
        strategy.load(state)
    return strategy


def estimates_of(strategy: Strategy, genotypes: Sequence[Genotype]) -> list[float] | None:
    """The scores that a strategy with a model of the space expects of these; None when it has none (yet)."""
    inner = strategy.inner if isinstance(strategy, Asha) else strategy
    return inner.estimates(genotypes) if isinstance(inner, Bayesian) else None


__all__ = ["StateError", "Strategy", "estimates_of", "strategy_for"]
