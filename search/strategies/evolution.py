"""Regularised evolution."""

from collections.abc import Mapping, Sequence
from random import Random

from search.candidate import Candidate
from search.space import Genotype, Json, Space
from search.strategies.history import History, Remembering


class Evolution(Remembering):
    """Real et al. 2019, arXiv:1802.01548: the best of a random few is changed once, and the oldest dies.

    Alive are the `population` youngest that came back with a score, young meaning proposed late: workers of unequal
    speed then do not change who lives. Until `population` have been proposed, draws are uniform. Departures from the
    paper: no architecture is trained twice, so its identity mutation is absent; defaults are those that win below a
    few hundred trials (10 and 3 instead of 100 and 25).
    """

    def __init__(self, space: Space, options: Mapping[str, Json], seed: int) -> None:
        self._space = space
        self._population = int(options["population"])
        self._sample = int(options["sample"])
        super().__init__(
            History("evolution", space, seed, keep=self._population, worth=lambda member: (member.number, 0))
        )

    def ask(self, count: int, pending: Sequence[Candidate]) -> list[Candidate]:
        return self._history.propose(count, pending, self._draw)

    def _draw(self, random: Random) -> tuple[Genotype, str | None]:
        alive = self._history.members
        if self._history.asked < self._population or not alive:
            return self._space.sample(random), None
        rivals = random.sample(alive, min(self._sample, len(alive)))
        parent = max(rivals, key=lambda member: (member.score, -member.number))
        return self._space.mutate(parent.genotype, random), parent.trial
