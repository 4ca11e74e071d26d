"""No search: the seeds alone."""

from collections.abc import Mapping, Sequence

from search.candidate import Candidate, Note, Observation
from search.space import Json, Space
from search.strategies.history import History


class Fixed:
    """Proposes nothing. The schedule plans the seeds of a search by itself, so exactly these are trained."""

    def __init__(self, space: Space, seed: int) -> None:
        self._history = History("fixed", space, seed, keep=0, worth=lambda member: (member.score, 0))

    def ask(self, count: int, pending: Sequence[Candidate]) -> list[Candidate]:  # noqa: ARG002  the protocol's names
        return []

    def tell(self, seen: Sequence[Observation]) -> None:
        self._history.tell(seen)

    def notes(self) -> list[Note]:
        return []

    def dump(self) -> dict[str, Json]:
        return self._history.dump()

    def load(self, state: Mapping[str, Json]) -> None:
        self._history.load(state)
