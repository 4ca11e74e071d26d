"""Bayesian optimisation: a Gaussian process says where improvement is to be expected."""

from collections.abc import Mapping, Sequence
from random import Random

import numpy as np
from numpy.typing import NDArray

from search.candidate import Candidate, Note
from search.proxies import synflow
from search.space import Genotype, Json, Space
from search.strategies.history import History, Remembering
from search.surrogates.gaussian import GaussianProcess

_KEEP = 300  # observations modelled, the best ones: fitting takes their third power
_PARENTS = 20  # the best, whose neighbours are candidates
_LEAST = 3  # scores before there is something to model
_WARM_DRAWS = 10  # of which the most promising is proposed; a turn waits for all of them to be built
_WARM_PARAMS = 20_000_000  # of all of these together: of large networks fewer are drawn


class Bayesian(Remembering):
    """Expected improvement over the changes of the best 20 and a random part of the space, by a Gaussian process on
    features and ranks.

    Of BANANAS (White et al. 2021, arXiv:1910.11858) the candidates, changes of the best; instead of its ensemble of
    networks a Gaussian process, on graph features (GRAF, Kadlecová et al. 2024, arXiv:2404.16551) that each space offers.
    Candidates that are under way count as found as expected. The first `initial` are drawn uniformly; with `warm_start`
    each is the one of 10 draws that synflow, a zero-cost proxy, ranks highest (Abdelfattah et al. 2021, arXiv:2101.08134, warm
    up with proxies, too). Proxies are no features: beside the counts over the graph they tell the model nothing new.
    """

    name = "bayesian"

    def __init__(self, space: Space, options: Mapping[str, Json], seed: int) -> None:
        self._space = space
        self._seed = seed
        self._initial = int(options["initial"])
        self._pool = int(options["pool"])
        self._warm_start = bool(options.get("warm_start", False))
        super().__init__(
            History(self.name, space, seed, keep=_KEEP, worth=lambda member: (member.score, -member.number))
        )
        self._features: dict[
            str, NDArray[np.float32]
        ] = {}  # by genes, of this strategy's life; not a part of the state

    def ask(self, count: int, pending: Sequence[Candidate]) -> list[Candidate]:
        first = min(count, max(0, self._initial - self._history.asked))
        if len(self._history.members) < _LEAST:
            first = count
        asked = self._history.propose(first, pending, self._unmodelled)
        if len(asked) < count and first < count:
            steps = self._steps(count - len(asked), [*pending, *asked])
            draws = iter(steps)
            asked += self._history.propose(len(steps), [*pending, *asked], lambda _: next(draws))
        if len(asked) < count:  # the pool had nothing new
            asked += self._history.propose(count - len(asked), [*pending, *asked], self._unmodelled)
        return asked

    def _unmodelled(self, random: Random) -> tuple[Genotype, str | None]:
        """What is proposed without a model, and the trial it is a change of."""
        draws = [self._space.sample(random)]
        if self._warm_start and self._history.asked < self._initial:
            room = _WARM_PARAMS // max(1, self._space.cost(draws[0]).params)
            draws += [self._space.sample(random) for _ in range(min(_WARM_DRAWS, room) - 1)]
            draws.sort(key=lambda each: synflow(self._space, each))
        return draws[-1], None

    def _steps(self, count: int, pending: Sequence[Candidate]) -> list[tuple[Genotype, str | None]]:
        """Up to `count` new architectures, the most promising first."""
        busy = {
            self._space.key(each.genotype): each.genotype for each in pending if each.genotype.space == self._space.name
        }
        candidates = self._candidates(set(busy))
        if not candidates:
            return []
        process = self._process()
        posterior = process.posterior(self._rows([*(genotype for genotype, _ in candidates), *busy.values()]))
        for place in range(len(busy)):
            posterior.imagine(len(candidates) + place)
        chosen: list[int] = []
        for _ in range(min(count, len(candidates))):
            gain = posterior.improvement()[: len(candidates)]
            gain[chosen] = -1.0
            index = int(gain.argmax())
            self._note(
                self._history.asked + len(chosen),
                process,
                float(posterior.mean[index]),
                float(posterior.deviation[index]),
                float(gain[index]),
            )
            posterior.imagine(index)
            chosen.append(index)
        return [candidates[index] for index in chosen]

    def _candidates(self, busy: set[str]) -> list[tuple[Genotype, str | None]]:
        """New architectures, each once: at most `pool` changes of the best, the best first, and `pool` draws."""
        random, found = Random(f"{self._seed}/pool/{self._history.asked}"), dict[str, tuple[Genotype, str | None]]()
        parents = self._history.members[: -_PARENTS - 1 : -1]
        changes = ((each, parent.trial) for parent in parents for each in self._space.neighbours(parent.genotype))
        for neighbour, trial in changes:
            if len(found) == self._pool:
                break
            self._add(found, busy, neighbour, trial)
        for _ in range(self._pool):
            self._add(found, busy, self._space.sample(random), None)
        return list(found.values())

    def _add(
        self, found: dict[str, tuple[Genotype, str | None]], busy: set[str], genotype: Genotype, parent: str | None
    ) -> None:
        key = self._space.key(genotype)
        if key not in busy and not self._history.knows(key):
            found.setdefault(key, (genotype, parent))

    def _process(self) -> GaussianProcess:
        members = self._history.members
        return GaussianProcess.fitted(
            self._rows([member.genotype for member in members]), [member.score for member in members]
        )

    def _rows(self, genotypes: Sequence[Genotype]) -> NDArray[np.float32]:
        for genotype in genotypes:
            if genotype.genes_json not in self._features:
                self._features[genotype.genes_json] = self._space.features(genotype)
        return np.stack([self._features[genotype.genes_json] for genotype in genotypes])

    def _note(self, step: int, process: GaussianProcess, mean: float, deviation: float, gain: float) -> None:
        """step: the number of the proposal. In scores where that can be said: `predicted` with the scores that one deviation below and above would be."""
        low, predicted, high = process.as_scores(np.array([mean - deviation, mean, mean + deviation])).tolist()
        data = {
            "incumbent": self._history.members[-1].score,
            "predicted": predicted,
            "low": low,
            "high": high,
            "improvement": gain,  # expected, in deviations of the ranks
            "length": process.length,
            "noise": process.noise,
        }
        self._notes.append(Note(step, "surrogate", data))

    def estimates(self, genotypes: Sequence[Genotype]) -> list[float] | None:
        """Scores expected of these, freed of what was chance in single trainings; None before the model decides."""
        if len(self._history.members) < max(_LEAST, self._initial):
            return None
        process = self._process()
        return [float(score) for score in process.as_scores(process.posterior(self._rows(genotypes)).mean)]
