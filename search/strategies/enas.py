"""Efficient neural architecture search: shared weights point out what is worth training."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from random import Random

from search.candidate import Candidate, Note, Observation
from search.oneshot import SUPERNET, Shortlisted, SupernetGenes
from search.space import Genotype, InvalidGenotypeError, Json, OneShot, Space
from search.strategies.history import DAMAGE, WHOLE, History, Remembering, StateError
from search.surrogates.ranks import kendall

_ATTEMPTS = 2  # trainings of the shared weights that may fail
_LEAST_PAIRS = 3  # of which a rank correlation says something


@dataclass(frozen=True, slots=True)
class _Report:
    """What shared weights came to. trial: that trained them. shortlist: the best first."""

    trial: str
    shortlist: tuple[Shortlisted, ...]


class Enas(Remembering):
    """Pham et al. 2018, arXiv:1802.03268: one network whose weights all architectures share is trained first, and nothing
    is proposed meanwhile; then the architectures that are best with shared weights are trained on their own, the best
    first. What happens inside, in the published and in a repaired form, is told in search/supernet.py.

    Departures: the paper trains the one best architecture in the end; here a shortlist goes through the same candidate
    trainings as any other strategy's proposals. Shared weights that failed are asked for once more, then draws are
    uniform. So they are when the shortlist has been proposed and there is still time, and as long as there is no time for
    shared weights.

    Notes. `supernet`, one for each of the report's `steps`: what the controller, or the best by shared score, looked like
    (score, entropy, preferences). `shared_scores`, whenever the shortlist has another stand-alone score: see `_note_pairs`.
    `supernet_failed`, one for each failure: the trial.
    """

    def __init__(self, space: Space, options: Mapping[str, Json], seed: int) -> None:
        if not isinstance(space, OneShot):
            raise TypeError(f"networks of space {space.name!r} cannot share weights")
        self._space = space
        self._share = float(options["share"])
        self._genes = SupernetGenes(
            of=space.name,
            form=str(options["form"]),
            shortlist=int(options["shortlist"]),
            entropy=float(options["entropy"]),
        )
        # The shortlist's scores are compared, whenever they came, so every member is kept.
        super().__init__(History("enas", space, seed, keep=10**9, worth=lambda member: (member.number, 0)))
        self._report: _Report | None = None
        self._failures: set[str] = set()  # trials
        self._is_refused = False  # this turn; a longer budget may change that, so it is not a part of the state

    def ask(self, count: int, pending: Sequence[Candidate]) -> list[Candidate]:
        if count < 1:
            return []
        if self._report is None and len(self._failures) < _ATTEMPTS and not self._is_refused:
            if any(self._is_supernet(each) for each in pending):
                return []
            return [Candidate(self._genes.to_genotype(), replace(WHOLE, rung=self._share))]
        asked = self._shortlisted(count, pending)
        if len(asked) < count:
            asked += self._history.propose(count - len(asked), [*pending, *asked], self._anywhere)
        return asked

    def _is_supernet(self, candidate: Candidate) -> bool:
        return candidate.genotype.space == SUPERNET and candidate.genotype.genes.get("of") == self._space.name

    def _shortlisted(self, count: int, pending: Sequence[Candidate]) -> list[Candidate]:
        if self._report is None:
            return []
        genotypes = (each.genotype for each in self._report.shortlist)
        proposals = self._history.propose_of(genotypes, count, pending)
        return [replace(each, parent=self._report.trial) for each in proposals]

    def _anywhere(self, random: Random) -> tuple[Genotype, str | None]:
        return self._space.sample(random), None

    def tell(self, seen: Sequence[Observation]) -> None:
        before = self._pairs()
        for observation in sorted(seen, key=lambda each: each.trial):
            if self._is_supernet(observation.candidate):
                self._hear(observation)
        super().tell(seen)
        pairs = self._pairs()
        if pairs != before:
            self._note_pairs(pairs)

    def _hear(self, observation: Observation) -> None:
        if observation.refused:
            self._is_refused = True
        elif observation.report is None:
            if observation.trial not in self._failures:
                self._failures.add(observation.trial)
                self._notes.append(Note(len(self._failures), "supernet_failed", {"trial": observation.trial}))
        elif self._report is None or observation.trial < self._report.trial:  # whatever the order they come in
            shortlist = observation.report["shortlist"]
            self._report = _Report(observation.trial, tuple(Shortlisted.from_json(each) for each in shortlist))
            self._notes += [
                Note(int(step["step"]), "supernet", {name: value for name, value in step.items() if name != "step"})
                for step in observation.report["steps"]
            ]

    def _pairs(self) -> list[tuple[float, float]]:
        """Shared and stand-alone score of those of the shortlist that have both."""
        if self._report is None:
            return []
        alone = {self._space.key(each.genotype): each.score for each in self._history.members}
        keys = [(self._space.key(each.genotype), each.shared_score) for each in self._report.shortlist]
        return [(shared, alone[key]) for key, shared in keys if key in alone]

    def _note_pairs(self, pairs: Sequence[tuple[float, float]]) -> None:
        """n: how many of the shortlist have come back with a score. tau: Kendall's, between their scores with shared
        weights and on their own; None below three. A shortlist is alike in its shared scores: over the whole space they
        rank better than this says."""
        shared, alone = [pair[0] for pair in pairs], [pair[1] for pair in pairs]
        tau = kendall(shared, alone) if len(pairs) >= _LEAST_PAIRS else None
        data = {"n": len(pairs), "tau": tau, "pairs": [list(pair) for pair in pairs]}
        self._notes.append(Note(len(pairs), "shared_scores", data))

    def dump(self) -> dict[str, Json]:
        report = self._report
        return super().dump() | {
            "failures": sorted(self._failures),
            "report": None
            if report is None
            else {"trial": report.trial, "shortlist": [each.to_json() for each in report.shortlist]},
        }

    def load(self, state: Mapping[str, Json]) -> None:
        super().load(state)
        try:
            self._failures = set(map(str, state["failures"]))
            self._report = None if state["report"] is None else self._read(state["report"])
        except DAMAGE as damage:
            raise StateError(f"state of 'enas' cannot be read: {damage}") from damage

    def _read(self, document: Mapping[str, Json]) -> _Report:
        shortlist = tuple(Shortlisted.from_json(each) for each in document["shortlist"])
        for each in shortlist:
            if each.genotype.space != self._space.name:
                raise InvalidGenotypeError(f"a genotype of space {each.genotype.space!r} over {self._space.name!r}")
            self._space.check(each.genotype)
        return _Report(str(document["trial"]), shortlist)
