"""Between rows and the engine: what the search's JSON means in the values of `search/`."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any, Literal

from search.candidate import Candidate, Proxy, Purpose
from search.classifier import Served
from search.export import load_weights, served_of
from search.limits import Limits, within
from search.oneshot import SUPERNET, SupernetGenes
from search.race import Budget, Done, Work
from search.space import Genotype, Shape, Space
from search.spaces import space_for
from search.train import Point
from store.states import TrialState
from store.tables import DatasetVersion, Model, Search, Trial

OVER_LIMIT = "over_limit"  # kind of the error of a trial whose network is larger or slower than the search allows

STATES: dict[TrialState, Literal["succeeded", "failed", "pruned"]] = {
    TrialState.SUCCEEDED: "succeeded",
    TrialState.FAILED: "failed",
    TrialState.PRUNED: "pruned",
}


def shape_of(source: DatasetVersion | Model) -> Shape:
    """What a network for this data has to fit, or the model's does, at the packed resolution."""
    preprocessing = source.preprocessing
    return Shape(int(preprocessing["channels"]), int(preprocessing["side"]), len(source.labels))


def served_model(model: Model, weights: bytes) -> Served:
    """The model in torch, as it answers. weights: its safetensors. The search it came of need not be there any more.

    Raises WeightsError when the weights belong to another model.
    """
    genotype = Genotype.from_json(model.genotype)
    space = space_for(genotype.space, shape_of(model), model.space_options)
    return served_of(space, genotype, load_weights(weights), model.mirror_at_test)


def space_of(genotype: Genotype, shape: Shape, space: str, options: Mapping[str, Any]) -> Space:
    """The space a genotype belongs to, or that shares weights: the search's own with its options, or the floor's.

    Raises InvalidGenotypeError for shared weights of no space.
    """
    name = SupernetGenes.read(genotype).of if genotype.space == SUPERNET else genotype.space
    return space_for(name, shape, options if name == space else {})


def searched_space(search: Search, shape: Shape, floor: Genotype) -> Space:
    """The space that the search draws from, around its floor and within what its limits let expect."""
    space = space_for(search.space, shape, search.space_options, centre=floor)
    return limited(space, search.limits)


def limited(space: Space, limits: Mapping[str, Any]) -> Space:
    """The space within a search's limits and, once these are settled, what they let expect."""
    return within(space, Limits.of(limits), Limits.of(limits.get("foretold", limits)))


def handicap(purpose: Purpose, objective: str, score: float, validated: int) -> float:
    """What a final's score is raised by when trials are ranked: one standard error of a share of `validated` pictures.

    A final trained several times as long as what it is compared with; only a difference beyond the noise of the
    validation pictures tells against it. Otherwise the luckiest of many short trainings would ship.
    """
    if purpose is not Purpose.FINAL or objective == "log_loss" or validated < 1:
        return 0.0
    share = min(max(score, 0.0), 1.0)
    return math.sqrt(share * (1 - share) / validated)


def proxy_of(search: Search) -> Proxy:
    return Proxy(**search.proxy)


def budget_of(search: Search) -> Budget:
    return Budget(seconds=search.budget_s, trials=search.budget_trials)


def work_of(trial: Trial) -> Work:
    return Work(Purpose(trial.purpose), Candidate.from_json(trial.candidate), trial.seed, trial.warm_start_id)


def done_of(trial: Trial) -> Done:
    return Done(
        purpose=Purpose(trial.purpose),
        candidate=Candidate.from_json(trial.candidate),
        score=trial.score,
        seconds=trial.held_s or trial.seconds or 0.0,
        trial=trial.id,
        state=STATES[trial.state],
        over_limit=(trial.error or {}).get("kind") == OVER_LIMIT,
        curve=curve_of(trial.curve),
        report=trial.report,
    )


def curve_of(points: Sequence[Mapping[str, Any]]) -> list[Point]:
    return [Point(**point) for point in points]


def point_json(point: Point) -> dict[str, Any]:
    return asdict(point)
