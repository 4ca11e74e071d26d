"""Every state and every legal move between states. Nothing else in the code knows an edge."""

from collections.abc import Mapping
from enum import StrEnum
from typing import TypeVar


class DatasetState(StrEnum):
    EMPTY = "empty"
    IMPORTING = "importing"
    READY = "ready"
    FAILED = "failed"


class SearchState(StrEnum):
    QUEUED = "queued"
    RUNNING = "running"
    PAUSED = "paused"
    FINISHING = "finishing"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"


class TrialState(StrEnum):
    QUEUED = "queued"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    PRUNED = "pruned"


class JobState(StrEnum):
    QUEUED = "queued"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"


class DeploymentState(StrEnum):
    DEPLOYED = "deployed"
    UNDEPLOYED = "undeployed"


State = DatasetState | SearchState | TrialState | JobState | DeploymentState
S = TypeVar("S", bound=StrEnum)

EDGES: Mapping[type[StrEnum], Mapping[StrEnum, frozenset[StrEnum]]] = {
    DatasetState: {
        DatasetState.EMPTY: frozenset({DatasetState.IMPORTING}),
        DatasetState.IMPORTING: frozenset({DatasetState.READY, DatasetState.FAILED}),
        DatasetState.READY: frozenset({DatasetState.IMPORTING}),
        DatasetState.FAILED: frozenset({DatasetState.IMPORTING}),
    },
    SearchState: {
        SearchState.QUEUED: frozenset(
            {SearchState.RUNNING, SearchState.PAUSED, SearchState.FAILED, SearchState.CANCELLED}
        ),
        SearchState.RUNNING: frozenset(
            {SearchState.PAUSED, SearchState.FINISHING, SearchState.FAILED, SearchState.CANCELLED}
        ),
        SearchState.PAUSED: frozenset({SearchState.RUNNING, SearchState.FAILED, SearchState.CANCELLED}),
        # back to running: extended while its last steps were on the way
        SearchState.FINISHING: frozenset(
            {SearchState.RUNNING, SearchState.SUCCEEDED, SearchState.FAILED, SearchState.CANCELLED}
        ),
        SearchState.SUCCEEDED: frozenset(),
        SearchState.FAILED: frozenset(),
        SearchState.CANCELLED: frozenset(),
    },
    TrialState: {
        TrialState.QUEUED: frozenset({TrialState.RUNNING, TrialState.PRUNED, TrialState.FAILED}),
        # back to the queue: its worker died, or its search was paused
        TrialState.RUNNING: frozenset({TrialState.QUEUED, TrialState.SUCCEEDED, TrialState.FAILED, TrialState.PRUNED}),
        TrialState.SUCCEEDED: frozenset(),
        TrialState.FAILED: frozenset(),
        TrialState.PRUNED: frozenset(),
    },
    JobState: {
        JobState.QUEUED: frozenset({JobState.RUNNING, JobState.CANCELLED, JobState.FAILED}),
        JobState.RUNNING: frozenset({JobState.QUEUED, JobState.SUCCEEDED, JobState.FAILED, JobState.CANCELLED}),
        JobState.SUCCEEDED: frozenset(),
        JobState.FAILED: frozenset(),
        JobState.CANCELLED: frozenset(),
    },
    DeploymentState: {
        DeploymentState.DEPLOYED: frozenset({DeploymentState.UNDEPLOYED}),
        DeploymentState.UNDEPLOYED: frozenset({DeploymentState.DEPLOYED}),
    },
}


def sources(to: S) -> list[S]:
    """The states from which `to` may be reached."""
    kind = type(to)
    return [state for state in kind if to in EDGES[kind][state]]


def is_final(state: StrEnum) -> bool:
    """Nothing follows this state."""
    return not EDGES[type(state)][state]
