"""Progressive neural architecture search."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from random import Random

from search.candidate import Candidate, Note, Observation
from search.space import Genotype, Json, Progressive, Space, Tokenised
from search.strategies.history import DAMAGE, History, Remembering, StateError
from search.surrogates.ensemble import Ensemble, Tokens
from search.surrogates.ranks import rank_correlation

_MOST_GROWN = 4000  # continuations of one parent that are looked at one by one
_DRAWN = 1500  # of the continuations of all parents, where one has more


@dataclass(frozen=True, slots=True)
class Planned:
    """An architecture of the level. prediction: what the surrogate expects of it, None where there was none."""

    tokens: Tokens
    prediction: float | None


class Pnas(Remembering):
    """Liu et al. 2018, arXiv:1712.00559: all cells of one block are trained, a surrogate learns from every score so far,
    ranks all that continue them by a block, and the `beam` best are trained, up to cells of all blocks.

    A level is over when all of it has come back; failures have, too. How well the surrogate ranked a level is noted when
    it is over. Departures: of the cells of one block `beam` are drawn by chance where there are more (the paper has
    136; untied cells of our operations 3,025). Where a parent has more than 4,000 continuations, as untied cells
    have, 1,500 are drawn instead of looking at all. When the largest cells have come back, the next best of them follow,
    as predicted by a surrogate that knows the former, as long as there are any. A level of failures alone is followed
    by another one of the same size. Nothing is noted of scores that others brought.

    Notes, `surrogate`, one a level: see `_end_level`.
    """

    def __init__(self, space: Space, options: Mapping[str, Json], seed: int) -> None:
        if not isinstance(space, Progressive) or not isinstance(space, Tokenised):
            raise TypeError(f"architectures of space {space.name!r} cannot grow block by block")
        self._space = space
        self._progressive: Progressive = space
        self._tokenised: Tokenised = space
        self._beam = int(options["beam"])
        self._form = options["surrogate"]
        self._seed = seed
        # Every score teaches the surrogate, so every member is kept.
        super().__init__(History("pnas", space, seed, keep=10**9, worth=lambda member: (member.number, 0)))
        self._failed: set[str] = set()
        self._level = 0  # levels begun
        self._size = 0  # blocks of this level's architectures
        self._plan: list[Planned] = []

    def ask(self, count: int, pending: Sequence[Candidate]) -> list[Candidate]:
        proposals: list[Candidate] = []
        while len(proposals) < count:
            level = (self._tokenised.from_tokens(each.tokens) for each in self._plan)
            proposals += self._history.propose_of(level, count - len(proposals), pending)
            if len(proposals) == count or not self._is_over() or not self._next_level():
                break
        return proposals

    def _key(self, tokens: Tokens) -> str:
        return self._space.key(self._tokenised.from_tokens(tokens))

    def _scores(self) -> dict[str, tuple[Genotype, float]]:
        """By key, in an order that does not depend on when results arrived."""
        scores = {self._space.key(each.genotype): (each.genotype, each.score) for each in self._history.members}
        return dict(sorted(scores.items(), key=lambda each: each[0]))

    def _is_over(self) -> bool:
        back = self._failed | {self._space.key(each.genotype) for each in self._history.members}
        return all(self._key(each.tokens) in back for each in self._plan)

    def _next_level(self) -> bool:
        """Whether there was one to begin."""
        scores = self._scores()
        sizes = {key: self._progressive.size(genotype) for key, (genotype, _) in scores.items()}
        if self._level == 0:
            again, size = False, 1
        else:
            survivors = any(self._key(each.tokens) in scores for each in self._plan)
            again = not survivors or self._size == self._progressive.blocks
            size = self._size if again else self._size + 1
        random = Random(f"{self._seed}/{self._level}")
        if size == 1:
            frontier = self._unlike(self._progressive.smallest())
        else:
            parents = [genotype for key, (genotype, _) in scores.items() if sizes[key] == size - 1]
            frontier = self._unlike(self._continuations(parents, random))
        if again:
            frontier = {key: each for key, each in frontier.items() if not self._history.knows(key)}
        if not frontier:
            return False
        self._end_level(scores)
        self._level, self._size = self._level + 1, size
        self._plan = self._chosen(list(frontier.values()), scores, random)
        return True

    def _unlike(self, genotypes: Iterator[Genotype]) -> dict[str, Tokens]:
        """Isomorphic ones once, by key."""
        return {self._space.key(each): self._tokenised.tokens(each) for each in genotypes}

    def _continuations(self, parents: Sequence[Genotype], random: Random) -> Iterator[Genotype]:
        if parents and len(list(islice(self._progressive.grown(parents[0]), _MOST_GROWN + 1))) > _MOST_GROWN:
            for _ in range(_DRAWN):
                child = self._progressive.continued(random.choice(parents), random)
                if child is not None:
                    yield child
        else:
            for parent in parents:
                yield from self._progressive.grown(parent)

    def _chosen(
        self, frontier: list[Tokens], scores: Mapping[str, tuple[Genotype, float]], random: Random
    ) -> list[Planned]:
        """The best by prediction. Cells of one block come first, and there is nothing yet to predict them from."""
        if (self._size == 1 and self._level == 1) or not scores:
            return [Planned(each, None) for each in random.sample(frontier, min(self._beam, len(frontier)))]
        ensemble = Ensemble(
            self._tokenised.decisions(), self._progressive.blocks, self._form, f"{self._seed}/{self._level}"
        )
        ensemble.fit(
            [self._tokenised.tokens(genotype) for genotype, _ in scores.values()],
            [score for _, score in scores.values()],
        )
        predictions = ensemble.predict(frontier).tolist()
        best = sorted(zip(predictions, frontier, strict=True), key=lambda each: (-each[0], each[1]))
        return [Planned(tokens, prediction) for prediction, tokens in best[: self._beam]]

    def _end_level(self, scores: Mapping[str, tuple[Genotype, float]]) -> None:
        """Note the level: blocks, children, failures, scores, pairs of prediction and score, and their rank correlation,
        None where there was no prediction or too few."""
        if self._level == 0:
            return
        keys = [self._key(each.tokens) for each in self._plan]
        back = [scores[key][1] for key in keys if key in scores]
        pairs = [
            (each.prediction, scores[key][1])
            for key, each in zip(keys, self._plan, strict=True)
            if key in scores and each.prediction is not None
        ]
        self._notes.append(
            Note(
                self._level,
                "surrogate",
                {
                    "blocks": self._size,
                    "children": len(keys),
                    "failures": len(keys) - len(back),
                    "best": max(back, default=None),
                    "mean": sum(back) / len(back) if back else None,
                    "rank_correlation": rank_correlation([a for a, _ in pairs], [b for _, b in pairs]),
                    "pairs": [list(pair) for pair in pairs],
                },
            )
        )

    def tell(self, seen: Sequence[Observation]) -> None:
        own = [each for each in seen if each.candidate.genotype.space == self._space.name]
        super().tell(own)
        scored = {self._space.key(each.genotype) for each in self._history.members}
        self._failed |= {self._space.key(each.candidate.genotype) for each in own if each.score is None}
        self._failed -= scored

    def dump(self) -> dict[str, Json]:
        return super().dump() | {
            "failed": sorted(self._failed),
            "level": self._level,
            "size": self._size,
            "plan": [[list(each.tokens), each.prediction] for each in self._plan],
        }

    def load(self, state: Mapping[str, Json]) -> None:
        super().load(state)
        try:
            self._failed = set(map(str, state["failed"]))
            self._level, self._size = int(state["level"]), int(state["size"])
            self._plan = [self._planned(*each) for each in state["plan"]]
        except DAMAGE as damage:
            raise StateError(f"state of 'pnas' cannot be read: {damage}") from damage

    def _planned(self, tokens: Json, prediction: Json) -> Planned:
        self._space.check(self._tokenised.from_tokens(tokens))
        if prediction is not None and not math.isfinite(prediction):
            raise ValueError(f"prediction {prediction} is not a number")
        return Planned(tuple(map(int, tokens)), prediction)
