"""What the race tries: made for the few trials that minutes allow."""

from collections.abc import Mapping, Sequence
from random import Random

from search.candidate import Candidate
from search.space import Genotype, Json, Space
from search.strategies.history import History, Remembering

_SECOND_CHANGE = 0.3  # chance that a child differs from its parent in two places


class Race(Remembering):
    """Changes of the best so far, the floor among them; every few proposals something from the whole space.

    With a handful of trials a model of the space has nothing to learn from, while the floor is a good network already:
    its surroundings are the best place to look. The better an elite member, the more children it has (1, 1/2, 1/3 …).
    Until something has come back, draws are uniform.
    """

    def __init__(self, space: Space, options: Mapping[str, Json], seed: int) -> None:
        self._space = space
        self._novelty = float(options["novelty"])
        super().__init__(
            History(
                "race", space, seed, keep=int(options["elite"]), worth=lambda member: (member.score, -member.number)
            )
        )

    def ask(self, count: int, pending: Sequence[Candidate]) -> list[Candidate]:
        return self._history.propose(count, pending, self._draw)

    def _draw(self, random: Random) -> tuple[Genotype, str | None]:
        elite = self._history.members[::-1]
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
