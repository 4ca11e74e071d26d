"""All pairs of states: the edges in the code are the edges in the rows."""

from enum import StrEnum
from itertools import product

import pytest
from sqlalchemy.orm import Session

from store import searches
from store.errors import ConflictError
from store.states import EDGES, SearchState, is_final, sources
from store.tables import Search
from tests.support.rows import a_search


@pytest.mark.parametrize("kind", EDGES)
def test_every_state_has_its_edges_listed(kind: type[StrEnum]) -> None:
    assert set(EDGES[kind]) == set(kind)


@pytest.mark.parametrize("kind", EDGES)
def test_every_state_can_be_reached_or_is_the_first(kind: type[StrEnum]) -> None:
    first = next(iter(kind))
    assert all(sources(state) for state in kind if state is not first)


@pytest.mark.parametrize(("start", "to"), list(product(SearchState, SearchState)))
def test_a_search_moves_along_an_edge_and_along_nothing_else(
    session: Session, start: SearchState, to: SearchState
) -> None:
    search = a_search(session, state=start)
    if to in EDGES[SearchState][start]:
        searches.move(session, search, to, error="for the failed", model_id="mo_x")
        assert session.get_one(Search, search.id).state is to
        assert (search.ended_at is not None) == is_final(to)
    else:
        with pytest.raises(ConflictError, match=f"is {start} and cannot become {to}"):
            searches.move(session, search, to)
        assert session.get_one(Search, search.id).state is start
