"""A trained network as files that outlive the server: ONNX and safetensors."""

import json
from collections.abc import Mapping, Sequence

import numpy as np
import onnx
import onnxruntime
import torch
from numpy.typing import NDArray
from safetensors.torch import load, save
from torch import Tensor

from search.classifier import Classifier, Served
from search.onnx_graph import write
from search.runtime import INPUT, OUTPUT, session_options
from search.space import Genotype, Json, Space


def to_onnx(
    space: Space,
    genotype: Genotype,
    weights: Mapping[str, Tensor],
    *,
    packed_side: int,
    mirror_at_test: bool,
    labels: Sequence[str],
) -> bytes:
    """The network with all it needs, as ONNX.

    Input `images`: uint8 (N, packed_side, packed_side, C), N free. Output `scores`: float32 (N, classes), rows sum to
    one, in the order of `labels`, which the file carries as metadata beside the genotype.
    """
    return _written(served_of(space, genotype, weights, mirror_at_test), space, genotype, packed_side, labels)


def untrained_onnx(space: Space, genotype: Genotype, labels: Sequence[str]) -> bytes:
    """The network before any training, as large and as slow as after it: for pictures packed at the space's side.

    Mirrored averaging, which a training may find to help, is included where the recipe allows for it.
    """
    recipe, shape = space.recipe(genotype), space.shape
    ones = torch.ones(shape.channels)
    classifier = Classifier.around(space.build(genotype), shape.classes, ones, ones, shape.side, recipe.side)
    served = Served(classifier, mirror=recipe.flip).eval()
    return _written(served, space, genotype, shape.side, labels)


def _written(served: Served, space: Space, genotype: Genotype, packed_side: int, labels: Sequence[str]) -> bytes:
    model = write(
        served,
        input_name=INPUT,
        input_shape=(packed_side, packed_side, space.shape.channels),
        output_name=OUTPUT,
        classes=space.shape.classes,
    )
    metadata: dict[str, Json] = {"labels": list(labels), "genotype": genotype.to_json()}
    onnx.helper.set_model_props(model, {name: json.dumps(value) for name, value in metadata.items()})
    return bytes(model.SerializeToString())


def served_of(space: Space, genotype: Genotype, weights: Mapping[str, Tensor], mirror_at_test: bool) -> Served:
    """The module that `to_onnx` writes, in torch."""
    return Served(Classifier.load(space, genotype, weights), mirror_at_test).eval()


@torch.inference_mode()
def parity(model: bytes, served: Served, samples: NDArray[np.uint8]) -> float:
    """Largest absolute difference between the scores of ONNX Runtime and of torch on `samples`: uint8 (N, S, S, C)."""
    options = session_options(torch.get_num_threads())
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    (scores,) = session.run([OUTPUT], {INPUT: samples})
    return float(np.abs(scores - served(torch.from_numpy(samples.copy())).numpy()).max())


def save_weights(weights: Mapping[str, Tensor]) -> bytes:
    return bytes(save({name: value.contiguous() for name, value in weights.items()}))


def load_weights(document: bytes) -> dict[str, Tensor]:
    return dict(load(document))
