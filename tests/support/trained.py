"""A model that was really trained on digits, and its row."""

from dataclasses import dataclass
from functools import cache

from sqlalchemy.orm import Session

from search.candidate import Fidelity
from search.data import Images
from search.device import Device
from search.export import parity, save_weights, served_of, to_onnx
from search.source import source_of
from search.space import Genotype, Recipe
from search.spaces.stages import Genes, Stage, StagesSpace
from search.train import train
from store import models, searches
from store.datasets import require_version
from store.states import SearchState
from store.tables import Dataset, Model
from tests.support.pictures import some_digits
from tests.support.rows import a_trial
from tests.support.versions import placed

SIDE, PER_CLASS = 28, 50
GENES = Genes(
    stem_kernel=3,
    stem_stride=1,
    stages=(Stage(8, 1, 3, "plain"), Stage(16, 1, 3, "plain")),
    activation="relu",
    pooling="max",
    recipe=Recipe(side=20, start_side=16, batch_size=32, flip=False),
)


@dataclass(frozen=True, slots=True)
class Answer:
    """What a training left behind. images: what it saw, as `digits_version` stores them."""

    genotype: Genotype
    weights: bytes
    onnx: bytes
    source: str
    parity: float
    metrics: dict[str, float]
    mirror_at_test: bool
    images: Images


@cache
def trained_digits() -> Answer:
    """A network of a few thousand weights, trained for eight passes over 400 digits: a second or two."""
    pixels, labels = some_digits(PER_CLASS)
    images = Images.of(pixels[..., None], labels, placed(len(labels), PER_CLASS), [str(digit) for digit in range(10)])
    space, genotype = StagesSpace(images.shape()), GENES.to_genotype()
    result = train(space, genotype, images, Fidelity(epochs=8), seed=1, device=Device.cpu())
    how = {"packed_side": SIDE, "mirror_at_test": result.mirror_at_test}
    document = to_onnx(space, genotype, result.weights, labels=images.labels, **how)  # type: ignore[arg-type]  # two names
    served = served_of(space, genotype, result.weights, result.mirror_at_test)
    return Answer(
        genotype,
        save_weights(result.weights),
        document,
        source_of(space.to_python(genotype), images.labels, channels=1, **how),  # type: ignore[arg-type]  # as above
        parity(document, served, images.pixels[images.validation]),
        result.metrics,
        result.mirror_at_test,
        images,
    )


def trained_model(session: Session, dataset: Dataset, name: str = "digits-net", **changed: bytes) -> Model:
    """A row for `trained_digits`, as a search on `dataset` (of `digits_version`) would have made it; `changed` puts other
    weights or another onnx in place of its own."""
    answer = trained_digits()
    version = require_version(session, dataset)
    search = searches.create(
        session, dataset, version, name=name, objective="accuracy", space="stages", space_options={}, strategy="random",
        strategy_options={}, seed=0, budget_s=None, budget_trials=1,
    )  # fmt: skip
    searches.move(session, search, SearchState.RUNNING)
    trial = a_trial(session, search)
    return models.register(
        session,
        search,
        trial,
        models.Trained(
            weights=changed.get("weights", answer.weights),
            onnx=changed.get("onnx", answer.onnx),
            parity=answer.parity,
            genotype=answer.genotype.to_json(),
            description="two stages of plain convolutions",
            preprocessing=version.preprocessing,
            labels=version.labels,
            metrics=answer.metrics,
            source=answer.source,
            params=1,
            flops=1,
            lineage={},
            space_options={},
            mirror_at_test=answer.mirror_at_test,
        ),
    )
