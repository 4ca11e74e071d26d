"""Random search: the baseline."""

from collections.abc import Sequence
from random import Random

from search.candidate import Candidate
from search.space import Genotype, Space
from search.strategies.history import History, Remembering


class RandomSearch(Remembering):
    """Uniform draws without repeats. What came of them changes nothing.

    Li & Talwalkar 2019, arXiv:1902.07638, on why it must be measured beside everything else.
    """

    def __init__(self, space: Space, seed: int) -> None:
        self._space = space
        super().__init__(History("random", space, seed, keep=0, worth=lambda member: (member.score, 0)))

    def ask(self, count: int, pending: Sequence[Candidate]) -> list[Candidate]:
        return self._history.propose(count, pending, self._draw)

    def _draw(self, random: Random) -> tuple[Genotype, str | None]:
        return self._space.sample(random), None
