"""What the race tries: made for the few trials that minutes allow, and for the many of hours."""

from collections.abc import Mapping
from random import Random

from search.space import Genotype, Json, Space
from search.strategies.bayesian import Bayesian

_SECOND_CHANGE = 0.3  # chance that a child differs from its parent in two places


class Race(Bayesian):
    """Changes of the best so far, the floor among them; every few proposals something from the whole space. From
    `initial` architectures on, `Bayesian` decides.

    With a handful of trials a model of the space has nothing to learn from, while the floor is a good network already:
    its surroundings are the best place to look. The better an elite member, the more children it has (1, 1/2, 1/3 …).
    Until something has come back, draws are uniform.
    """

    name = "race"

    def __init__(self, space: Space, options: Mapping[str, Json], seed: int) -> None:
        self._novelty = float(options["novelty"])
        self._elite = int(options["elite"])
        super().__init__(space, options, seed)

    def _unmodelled(self, random: Random) -> tuple[Genotype, str | None]:
        elite = self._history.members[: -self._elite - 1 : -1]
        if not elite or self._is_novel_turn():
            return self._space.sample(random), None
        parent = random.choices(elite, [1 / rank for rank in range(1, len(elite) + 1)])[0]
        child = self._space.mutate(parent.genotype, random)
        if random.random() < _SECOND_CHANGE:
            child = self._space.mutate(child, random)
        return child, parent.trial

    def _is_novel_turn(self) -> bool:
        """Spread evenly instead of by chance: a search of four trials should not spend three of them on novelty."""
        return int((self._history.asked + 1) * self._novelty) > int(self._history.asked * self._novelty)
