"""Asynchronous successive halving around another strategy: candidates begin short, and the best of each rung go on."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from search.candidate import Candidate, Fidelity, Note, Observation
from search.space import Genotype, InvalidGenotypeError, Json, Space
from search.strategies.history import DAMAGE, WHOLE, StateError, keys_of

if TYPE_CHECKING:
    from search.strategies import Strategy


@dataclass(frozen=True, slots=True)
class _Result:
    """What came of an architecture on one rung. score: None when it failed."""

    genotype: Genotype
    trial: str
    score: float | None

    @property
    def worth(self) -> tuple[bool, str]:
        """Of two results of one architecture on one rung, the one with a score counts, else the later trial's."""
        return self.score is not None, self.trial


class Asha:
    """ASHA, Li et al. 2018, arXiv:1810.05834. Rung 0 trains for eta^-(rungs - 1) of a candidate's length, each further
    rung for eta times as long, the last one whole.

    When something is asked for, an architecture that is among the best 1/eta of the results of its rung, counted from
    the top rung down, goes on to the next; when there is none, the wrapped strategy proposes a new one for rung 0.
    Every rung trains from the start, as a trial of its own, whose parent is the trial on the rung below.

    The wrapped strategy hears of an architecture what came of it on the highest rung where it has a score; it hears
    again when a higher rung's comes, and of a failure only when there is no score at all. Scores of different rungs
    thus stand side by side: those that went on are the best, and longer training raises them, so that the order among
    them and to the others stays mostly right. Results of another length (the floor's) count for the highest rung that
    is not longer. Failed results count in a rung's size and never go on.
    """

    def __init__(self, inner: "Strategy", space: Space, rungs: int, eta: int) -> None:
        self.inner = inner
        self._space = space
        self._eta = eta
        self._shares = [float(eta) ** -(rungs - 1 - rung) for rung in range(rungs)]
        self._results: list[dict[str, _Result]] = [{} for _ in self._shares]  # of each rung, by key
        self._promoted: list[set[str]] = [set() for _ in self._shares]  # keys that went on from each rung
        self._changed = False

    def ask(self, count: int, pending: Sequence[Candidate]) -> list[Candidate]:
        asked: list[Candidate] = []
        for rung in reversed(range(len(self._shares) - 1)):
            for key in self._promotable(rung, pending)[: count - len(asked)]:
                self._promoted[rung].add(key)
                result = self._results[rung][key]
                asked.append(Candidate(result.genotype, self._at(WHOLE, rung + 1), result.trial))
        if len(asked) < count:
            fresh = self.inner.ask(count - len(asked), [*pending, *asked])
            asked += [replace(each, fidelity=self._at(each.fidelity, 0)) for each in fresh]
        return asked

    def _at(self, fidelity: Fidelity, rung: int) -> Fidelity:
        return replace(fidelity, rung=self._shares[rung])

    def _promotable(self, rung: int, pending: Sequence[Candidate]) -> list[str]:
        """Keys that may go on from this rung, the best first."""
        results = self._results[rung]
        scored = [(result.score, key) for key, result in results.items() if result.score is not None]
        best = sorted(scored, key=lambda each: (-each[0], each[1]))[: len(results) // self._eta]
        above = {key for higher in self._results[rung + 1 :] for key in higher} | self._promoted[rung]
        above |= keys_of(self._space, [each for each in pending if self._rung_of(each.fidelity) > rung])
        return [key for _, key in best if key not in above]

    def _rung_of(self, fidelity: Fidelity) -> int:
        longest = [rung for rung, share in enumerate(self._shares) if share <= fidelity.rung * (1 + 1e-9)]
        return longest[-1] if longest else 0

    def tell(self, seen: Sequence[Observation]) -> None:
        passed: dict[str, Observation] = {}
        for observation in seen:
            genotype = observation.candidate.genotype
            if genotype.space != self._space.name:
                continue
            key, rung = self._space.key(genotype), self._rung_of(observation.candidate.fidelity)
            result, before = _Result(genotype, observation.trial, observation.score), self._results[rung].get(key)
            if before is not None and before.worth >= result.worth:
                continue
            self._results[rung][key] = result
            self._changed = True
            if self._heard(key) == result:
                passed[key] = observation
        self.inner.tell(list(passed.values()))

    def _heard(self, key: str) -> _Result:
        """What the wrapped strategy hears of an architecture."""
        results = [results[key] for results in reversed(self._results) if key in results]
        return next((result for result in results if result.score is not None), results[0])

    def notes(self) -> list[Note]:
        """Those of the wrapped strategy, and after new results how many each rung has and how many went on."""
        notes = self.inner.notes()
        if self._changed:
            self._changed = False
            sizes = [len(results) for results in self._results]
            data = {"shares": self._shares, "results": sizes, "promoted": [len(keys) for keys in self._promoted]}
            notes.append(Note(sum(sizes), "rungs", data))
        return notes

    def dump(self) -> dict[str, Json]:
        rungs = [
            {
                "promoted": sorted(promoted),
                "results": [
                    {"key": key, "trial": result.trial, "score": result.score, "genotype": result.genotype.to_json()}
                    for key, result in sorted(results.items())
                ],
            }
            for results, promoted in zip(self._results, self._promoted, strict=True)
        ]
        return self.inner.dump() | {"rungs": rungs}

    def load(self, state: Mapping[str, Json]) -> None:
        self.inner.load(state)
        try:
            rungs = state["rungs"]
            if len(rungs) != len(self._shares):
                raise ValueError(f"{len(rungs)} rungs; needed: {len(self._shares)}")
            self._promoted = [{str(key) for key in rung["promoted"]} for rung in rungs]
            self._results = [{each["key"]: self._read(each) for each in rung["results"]} for rung in rungs]
        except DAMAGE as damage:
            raise StateError(f"state of the rungs cannot be read: {damage}") from damage

    def _read(self, document: Mapping[str, Json]) -> _Result:
        genotype, score = Genotype.from_json(document["genotype"]), document["score"]
        self._space.check(genotype)
        if self._space.key(genotype) != document["key"]:
            raise InvalidGenotypeError(f"the key {document['key']!r} is not that of its genotype")
        if score is not None and not math.isfinite(score):
            raise ValueError(f"a score of {score!r}")
        return _Result(genotype, str(document["trial"]), score)
