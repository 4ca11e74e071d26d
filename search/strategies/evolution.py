"""Regularised evolution."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
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

    With `inherit` a child starts from its parent's weights in all layers that the change left alone (Real et al. 2017,
    arXiv:1703.01041), as long as the parent's are kept; a parent that was lost gives its child fresh ones. As there, a
    score then tells of all the training in a line of descent: the young have had more of it, so that they are favoured
    over the first, who die soon. With rungs, what goes on to a higher one is trained from the start, as ever.
    """

    def __init__(self, space: Space, options: Mapping[str, Json], seed: int) -> None:
        self._space = space
        self._population = int(options["population"])
        self._sample = int(options["sample"])
        self._inherit = bool(options["inherit"])
        super().__init__(
            History("evolution", space, seed, keep=self._population, worth=lambda member: (member.number, 0))
        )

    def ask(self, count: int, pending: Sequence[Candidate]) -> list[Candidate]:
        proposals = self._history.propose(count, pending, self._draw)
        return [replace(each, inherit=self._inherit and each.parent is not None) for each in proposals]

    def _draw(self, random: Random) -> tuple[Genotype, str | None]:
        alive = self._history.members
        if self._history.asked < self._population or not alive:
            return self._space.sample(random), None
        rivals = random.sample(alive, min(self._sample, len(alive)))
        parent = max(rivals, key=lambda member: (member.score, -member.number))
        return self._space.mutate(parent.genotype, random), parent.trial
