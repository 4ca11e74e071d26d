"""No search: the seeds alone."""

from collections.abc import Sequence

from search.candidate import Candidate
from search.space import Space
from search.strategies.history import History, Remembering


class Fixed(Remembering):
    """Proposes nothing. The schedule plans the seeds of a search by itself, so exactly these are trained."""

    def __init__(self, space: Space, seed: int) -> None:
        super().__init__(History("fixed", space, seed, keep=0, worth=lambda member: (member.score, 0)))

    def ask(self, count: int, pending: Sequence[Candidate]) -> list[Candidate]:  # noqa: ARG002  the protocol's names
        return []
