"""What every strategy remembers: which architectures it has proposed, which came back, how many draws it has made."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from random import Random

from search.candidate import Candidate, Fidelity, Note, Observation
from search.space import Genotype, InvalidGenotypeError, Json, Space

STATE_VERSION = 1
WHOLE = Fidelity(epochs=1.0)  # all pictures at the recipe's resolution; the schedule sets the length
_TRIES = 50  # draws in search of an architecture that is new; then the space counts as exhausted
_PATIENCE = 25  # of these, how many follow the strategy's own draw before any new architecture is welcome


DAMAGE = (KeyError, IndexError, TypeError, ValueError, AttributeError, OverflowError)  # of a state that is read


class StateError(ValueError):
    """A strategy's state cannot be read; the strategy can be made anew and told everything again."""


@dataclass(frozen=True, slots=True)
class Member:
    """An architecture that came back with a score. number: its place in the order of proposals."""

    number: int
    trial: str
    genotype: Genotype
    score: float


def keys_of(space: Space, candidates: Sequence[Candidate]) -> set[str]:
    """Keys of those that are of this space."""
    return {space.key(each.genotype) for each in candidates if each.genotype.space == space.name}


class History:
    """Proposals without repeats, and the members that a strategy still needs.

    worth: sorts members; the `keep` that come last stay. A draw is a function of the seed and the number of proposals
    so far, and what is kept does not depend on the order in which results arrive.
    """

    def __init__(
        self, strategy: str, space: Space, seed: int, keep: int, worth: Callable[[Member], tuple[float, float]]
    ) -> None:
        self._strategy = strategy
        self._space = space
        self._seed = seed
        self._keep = keep
        self._worth = worth
        self._numbers: dict[str, int] = {}  # key → number
        self._members: dict[str, Member] = {}  # key → member
        self.asked = 0

    @property
    def members(self) -> list[Member]:
        """Sorted by worth, the most worth last."""
        return sorted(self._members.values(), key=self._worth)

    def knows(self, key: str) -> bool:
        """Whether the architecture of that key was proposed or told."""
        return key in self._numbers

    def propose(
        self, count: int, pending: Sequence[Candidate], draw: Callable[[Random], tuple[Genotype, str | None]]
    ) -> list[Candidate]:
        """Up to `count` architectures that were never proposed and are not pending; fewer when none are found."""
        taken = keys_of(self._space, pending)
        proposals: list[Candidate] = []
        while len(proposals) < count:
            candidate = self._draw_new(taken, draw)
            if candidate is None:
                break
            proposals.append(candidate)
        return proposals

    def propose_of(self, genotypes: Iterable[Genotype], count: int, pending: Sequence[Candidate]) -> list[Candidate]:
        """The first `count` of these that were never proposed and are not pending."""
        taken = keys_of(self._space, pending)
        proposals: list[Candidate] = []
        for genotype in genotypes:
            if len(proposals) == count:
                break
            key = self._space.key(genotype)
            if key not in self._numbers and key not in taken:
                self._number(key)
                proposals.append(Candidate(genotype, WHOLE))
        return proposals

    def _draw_new(self, taken: set[str], draw: Callable[[Random], tuple[Genotype, str | None]]) -> Candidate | None:
        for attempt in range(_TRIES):
            random = Random(f"{self._seed}/{self.asked}/{attempt}")
            genotype, parent = draw(random) if attempt < _PATIENCE else (self._space.sample(random), None)
            key = self._space.key(genotype)
            if key not in self._numbers and key not in taken:
                self._number(key)
                return Candidate(genotype, WHOLE, parent)
        return None

    def tell(self, seen: Sequence[Observation]) -> None:
        """Architectures it did not propose itself count as proposed now: seeds, the floor, a replay."""
        for observation in sorted(seen, key=lambda each: each.trial):
            genotype = observation.candidate.genotype
            if genotype.space != self._space.name:
                continue
            key = self._space.key(genotype)
            number = self._number(key)
            if observation.score is not None:
                self._members[key] = Member(number, observation.trial, genotype, observation.score)
        kept = {member.number for member in self.members[max(0, len(self._members) - self._keep) :]}
        self._members = {key: member for key, member in self._members.items() if member.number in kept}

    def _number(self, key: str) -> int:
        if key not in self._numbers:
            self._numbers[key] = self.asked
            self.asked += 1
        return self._numbers[key]

    def dump(self) -> dict[str, Json]:
        return {
            "version": STATE_VERSION,
            "strategy": self._strategy,
            "keys": list(self._numbers),
            "members": [
                {"key": key, "trial": member.trial, "genotype": member.genotype.to_json(), "score": member.score}
                for key, member in self._members.items()
            ],
        }

    def load(self, state: Mapping[str, Json]) -> None:
        """Takes up a dump. Raises StateError for one that is damaged or of another version, strategy or space."""
        if state.get("version") != STATE_VERSION or state.get("strategy") != self._strategy:
            raise StateError(
                f"state is version {state.get('version')!r} of {state.get('strategy')!r}; "
                f"needed: version {STATE_VERSION} of {self._strategy!r}"
            )
        try:
            self._numbers = {str(key): number for number, key in enumerate(state["keys"])}
            self.asked = len(self._numbers)
            self._members = {
                each["key"]: Member(
                    self._numbers[each["key"]],
                    each["trial"],
                    self._checked(Genotype.from_json(each["genotype"])),
                    float(each["score"]),
                )
                for each in state["members"]
            }
        except DAMAGE as damage:
            raise StateError(f"state of {self._strategy!r} cannot be read: {damage}") from damage

    def _checked(self, genotype: Genotype) -> Genotype:
        if genotype.space != self._space.name:
            raise InvalidGenotypeError(f"a genotype of space {genotype.space!r} in a state over {self._space.name!r}")
        self._space.check(genotype)
        return genotype


class Remembering:
    """What strategies have in common whose state is a history, and more where they extend `dump` and `load`."""

    def __init__(self, history: History) -> None:
        self._history = history
        self._notes: list[Note] = []

    def tell(self, seen: Sequence[Observation]) -> None:
        self._history.tell(seen)

    def notes(self) -> list[Note]:
        notes, self._notes = self._notes, []
        return notes

    def dump(self) -> dict[str, Json]:
        return self._history.dump()

    def load(self, state: Mapping[str, Json]) -> None:
        self._history.load(state)
