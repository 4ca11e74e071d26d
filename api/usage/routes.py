"""What the service holds and has spent."""

from fastapi import APIRouter
from pydantic import Field

from api.deps import Viewer, Work
from api.routing import Route
from api.schemas import View
from store import usage

router = APIRouter(prefix="/v1/usage", tags=["operation"], route_class=Route)


class Usage(View):
    datasets: int
    examples: int
    dataset_bytes: int = Field(description="In the object store, by all versions.")
    searches: int
    trials: int
    trial_seconds: float = Field(description="Of training, by all trials.")
    models: int
    deployments: int
    blob_bytes: int = Field(description="Weights, ONNX files and checkpoints in Postgres.")


@router.get("")
def get_usage(work: Work, _: Viewer) -> Usage:
    return Usage.model_validate(usage.totals(work))
