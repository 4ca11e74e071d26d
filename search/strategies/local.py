"""Local search: climb from neighbour to neighbour, and begin elsewhere on every summit."""

import math
from collections.abc import Mapping, Sequence
from random import Random

from search.candidate import Candidate
from search.space import Genotype, Json, Space
from search.strategies.history import History, Member, Remembering, StateError, keys_of


class LocalSearch(Remembering):
    """White et al. 2020, arXiv:2005.02960: try the neighbours of the best of this climb in random order, move on to the
    first that is better, and when none is left start a new climb at random.

    A climb begins with uniform draws until one of them has come back with a score. Departure from the paper, which
    trains one at a time: with several workers neighbours of the same place are tried side by side, and a new climb
    begins once all of them have come back.
    """

    def __init__(self, space: Space, seed: int) -> None:
        self._space = space
        self._seed = seed
        self._began = 0  # number of the first proposal of this climb
        super().__init__(History("local", space, seed, keep=1, worth=self._worth))

    def _worth(self, member: Member) -> tuple[float, float]:
        return (member.score if member.number >= self._began else -math.inf, -member.number)

    def ask(self, count: int, pending: Sequence[Candidate]) -> list[Candidate]:
        place = self._place()
        if place is None:
            return self._history.propose(count, pending, self._anywhere)
        fresh = self._fresh_neighbours(place, pending)[:count]
        if fresh:
            steps = iter(fresh)
            return self._history.propose(len(fresh), pending, lambda _: (next(steps), place.trial))
        if any(each.parent == place.trial for each in pending):
            return []
        self._began = self._history.asked
        return self._history.propose(count, pending, self._anywhere)

    def _place(self) -> Member | None:
        """The best of this climb."""
        return next((member for member in self._history.members if member.number >= self._began), None)

    def _anywhere(self, random: Random) -> tuple[Genotype, str | None]:
        return self._space.sample(random), None

    def _fresh_neighbours(self, place: Member, pending: Sequence[Candidate]) -> list[Genotype]:
        taken = keys_of(self._space, pending)
        fresh: dict[str, Genotype] = {}
        for neighbour in self._space.neighbours(place.genotype):
            key = self._space.key(neighbour)
            if key not in taken and not self._history.knows(key):
                fresh.setdefault(key, neighbour)
        order = sorted(fresh)
        Random(f"{self._seed}/{self._space.key(place.genotype)}").shuffle(order)
        return [fresh[key] for key in order]

    def dump(self) -> dict[str, Json]:
        return super().dump() | {"began": self._began}

    def load(self, state: Mapping[str, Json]) -> None:
        super().load(state)
        began = state.get("began")
        if not isinstance(began, int) or began < 0:
            raise StateError(f"state of 'local' cannot be read: its climb began at {began!r}")
        self._began = began
