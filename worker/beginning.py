"""What a search starts from, settled at its first turn, before anything is trained: the floor and the given seeds."""

from dataclasses import dataclass
from typing import Any

from search.candidate import Candidate
from search.catalog import AS_TIME_ALLOWS
from search.floor import affordable_flops, expected_epoch_s, floor
from search.limits import Limits, OverLimitError, foretold, within
from search.race import rungs_for
from search.space import Genotype, InvalidGenotypeError, Scalable, Space
from search.spaces import space_for
from search.strategies.history import WHOLE
from store.tables import DatasetVersion, Search
from worker.engine import budget_of, proxy_of, shape_of

# What is sized under a budget in trials must not depend on the machine: as for a laptop's minute.
TRIALS_BUDGET_FLOPS_PER_S, TRIALS_BUDGET_S = 20e9, 60.0


class UnfitSearchError(ValueError):
    """What the search was given cannot be trained; the message says what could be."""


@dataclass(frozen=True, slots=True)
class Settlement:
    """Floor, seeds and what the user left open, as they stand in the row from the first turn on: they must not change
    with the machines of the next one."""

    floor: dict[str, Any]
    seeds: list[dict[str, Any]]
    limits: dict[str, Any]
    strategy_options: dict[str, Any]

    def write(self, search: Search) -> None:
        search.floor, search.seeds = self.floor, self.seeds
        search.limits, search.strategy_options = self.limits, self.strategy_options


def settle(search: Search, version: DatasetVersion, flops_per_s: float, devices: int) -> Settlement:
    """What a search begins with. Changes nothing and may take some seconds, since networks are measured where a file's
    size or an answer's time is limited: so nobody has to wait for the row meanwhile.

    flops_per_s: multiply-adds per second of the slowest worker. devices: how many work. Seeds from another shape of
    data are brought to the size that this search can train. Raises UnfitSearchError for a seed that its space does not
    have or its limits forbid, and for limits that no network meets.
    """
    n_train = sum(version.stats["splits"]["train"].values())
    timed = search.budget_s is not None
    speed, seconds = (flops_per_s, search.budget_s or 0.0) if timed else (TRIALS_BUDGET_FLOPS_PER_S, TRIALS_BUDGET_S)
    shape = shape_of(version)
    limits = Limits.of(search.limits)
    try:
        chosen = floor(shape, n_train, flops_per_s=speed, seconds=seconds, limits=limits, labels=version.labels)
        space = space_for(search.space, shape, search.space_options, centre=chosen)
        likely = foretold(space, limits, version.labels) if limits else limits
    except OverLimitError as error:
        raise UnfitSearchError(
            f"no network is within limits.{error}; raise the limit, or make the space's options smaller"
        ) from error
    space = within(space, limits)
    affordable = affordable_flops(n_train, flops_per_s=speed, seconds=seconds)
    options = search.strategy_options
    if options.get("rungs") == AS_TIME_ALLOWS:
        flops = space_for(chosen.space, shape, {}).cost(chosen).flops
        epoch_s = expected_epoch_s(n_train, flops, flops_per_s=speed)
        rungs = rungs_for(
            budget_of(search),
            pictures=n_train,
            epoch_s=epoch_s,
            devices=devices,
            eta=int(options["eta"]),
            proxy=proxy_of(search),
        )
        options = options | {"rungs": rungs}
    return Settlement(
        floor=chosen.to_json(),
        seeds=[_settled(number, seed, space, affordable) for number, seed in enumerate(search.seeds)],
        limits=search.limits | {"foretold": likely.to_json()},
        strategy_options=options,
    )


def _settled(number: int, seed: dict[str, Any], space: Space, flops: int) -> dict[str, Any]:
    try:
        genotype = Genotype.from_json(seed["genotype"])
        if seed["refit"] and isinstance(space, Scalable):
            genotype = space.scaled(genotype, flops)
        space.check(genotype)
    except InvalidGenotypeError as error:
        place = f"seed {number + 1}" if seed["trial"] is None else f"the genotype of trial {seed['trial']}"
        raise UnfitSearchError(f"{place} is not one that this search can train: {error}") from error
    return seed | {"genotype": genotype.to_json(), "refit": False}


def floor_of(search: Search) -> Genotype:
    """The floor of a settled search."""
    assert search.floor is not None
    return Genotype.from_json(search.floor)


def seeds_of(search: Search) -> list[Candidate]:
    """The seeds as candidates, in the order they were given."""
    return [Candidate(Genotype.from_json(seed["genotype"]), WHOLE, seed["trial"]) for seed in search.seeds]
