"""Random search: the baseline."""

from collections.abc import Mapping, Sequence
from random import Random

from search.candidate import Candidate, Note, Observation
from search.space import Genotype, Json, Space
from search.strategies.history import History


class RandomSearch:
    """Uniform draws without repeats. What came of them changes nothing.

    Li & Talwalkar 2019, arXiv:1902.07638, on why it must be measured beside everything else.
    """

    def __init__(self, space: Space, seed: int) -> None:
        self._space = space
        self._history = History("random", space, seed, keep=0, worth=lambda member: (member.score, 0))

    def ask(self, count: int, pending: Sequence[Candidate]) -> list[Candidate]:
        return self._history.propose(count, pending, self._draw)

    def _draw(self, random: Random) -> tuple[Genotype, str | None]:
        return self._space.sample(random), None

    def tell(self, seen: Sequence[Observation]) -> None:
        self._history.tell(seen)

    def notes(self) -> list[Note]:
        return []

    def dump(self) -> dict[str, Json]:
        return self._history.dump()

    def load(self, state: Mapping[str, Json]) -> None:
        self._history.load(state)
