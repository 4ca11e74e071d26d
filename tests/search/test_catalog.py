"""The catalogue of choices, as the API reads it."""

import math
import subprocess
import sys
from typing import Any

import pytest

from search import catalog
from search.catalog import OptionError
from search.strategies import strategy_for
from tests.search.spaces import SMALL, small_space


def test_it_loads_without_torch_and_numpy() -> None:
    code = "import sys, search.catalog; sys.exit(bool({'torch', 'numpy'} & set(sys.modules)))"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_defaults_are_within_their_own_limits_and_on_offer() -> None:
    for entries in (catalog.SPACES, catalog.STRATEGIES, catalog.OBJECTIVES):
        for name, entry in entries.items():
            assert entry.name == name
            assert entry.explanation.endswith((".", ")."))
            entry.resolve({option.name: option.default for option in entry.options})
    catalog.entry(catalog.OBJECTIVES, catalog.DEFAULT_OBJECTIVE, "objective")
    catalog.check_pair(catalog.DEFAULT_STRATEGY, catalog.DEFAULT_SPACE)


def test_every_strategy_on_offer_can_be_made_for_every_space_it_names() -> None:
    for name, entry in catalog.STRATEGIES.items():
        assert set(entry.spaces) <= set(SMALL)
        for space in entry.spaces:
            strategy_for(name, small_space(space), {}, 0, None)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"blocks": 0}, "space_options.blocks: 0 is not between 1 and 7"),
        ({"blocks": 2.5}, "space_options.blocks: 2.5 is not a whole number"),
        ({"blocks": True}, "space_options.blocks: True is not a whole number"),
        ({"blocks": None}, "space_options.blocks: None is not a whole number"),
        ({"ops": "darts"}, "space_options.ops: 'darts' is not one of fast, enas, pnas, nasnet"),
        ({"ops": ["fast"]}, "space_options.ops: ['fast'] is not one of fast, enas, pnas, nasnet"),
        ({"width": 2}, "space_options.width: 'cell' has no such option; it takes blocks, ops, tied, cells, filters"),
    ],
)
def test_options_are_refused_with_field_value_and_what_is_accepted(options: dict[str, Any], message: str) -> None:
    with pytest.raises(OptionError) as refusal:
        catalog.SPACES["cell"].resolve(options, "space_options")
    assert message in str(refusal.value)
    assert refusal.value.field == f"space_options.{next(iter(options))}"


def test_numbers_that_are_none_are_refused() -> None:
    for value in (math.nan, math.inf, -1, 1.5):
        with pytest.raises(OptionError, match="is not between 0 and 1"):
            catalog.STRATEGIES["race"].resolve({"novelty": value})


@pytest.mark.parametrize(
    ("budget", "message"),
    [
        ({}, "give exactly one of seconds and trials, not neither"),
        ({"seconds": 60, "trials": 5}, "give exactly one of seconds and trials, not seconds and trials"),
        ({"seconds": 0}, "budget.seconds: 0 is not between 30 and"),
        ({"seconds": -1}, "budget.seconds: -1 is not between 30 and"),
        ({"seconds": 10**9}, "budget.seconds: 1000000000 is not between 30 and"),
        ({"trials": 0}, "budget.trials: 0 is not between 1 and 100000"),
        ({"trials": 1.5}, "budget.trials: 1.5 is not a whole number"),
        ({"euros": 5, "trials": 1}, "budget.euros: 'budget' has no such option; it takes seconds, trials"),
    ],
)
def test_budgets_are_refused_with_the_reason(budget: dict[str, Any], message: str) -> None:
    with pytest.raises(OptionError) as refusal:
        catalog.check_budget(budget)
    assert message in str(refusal.value)


def test_budgets_within_the_limits_pass() -> None:
    catalog.check_budget({"seconds": 120, "trials": None})
    catalog.check_budget({"trials": 1})


def test_a_strategy_that_cannot_search_a_space_is_refused_with_those_that_can(monkeypatch: pytest.MonkeyPatch) -> None:
    only = catalog.Entry("grower", "Grows cells.", spaces=("cell",))
    monkeypatch.setattr(catalog, "STRATEGIES", {**catalog.STRATEGIES, "grower": only})
    with pytest.raises(OptionError, match="'grower' cannot search 'stages'; these can: race, random, local, evolution"):
        catalog.check_pair("grower", "stages")


@pytest.mark.parametrize(
    ("trials", "on_proxy", "fits"), [(4, False, False), (5, False, True), (5, True, False), (6, True, True)]
)
def test_fixed_has_room_for_every_seed_floor_and_final(trials: int, on_proxy: bool, fits: bool) -> None:
    if fits:
        catalog.check_seeds("fixed", 3, trials, on_proxy)
    else:
        with pytest.raises(OptionError, match=rf"{trials} is too few for 3 seeds, .* and a final: {trials + 1}"):
            catalog.check_seeds("fixed", 3, trials, on_proxy)
