"""ONNX and safetensors of a model, answering as torch does."""

import json
import time
from random import Random

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import nn

from search.classifier import Classifier
from search.export import load_weights, parity, save_weights, served_of, to_onnx
from search.onnx_graph import UnsupportedOperationError, write
from search.space import Genotype, Shape
from search.spaces import space_for
from search.spaces.stages import StagesSpace

PACKED = 24
SPACE = StagesSpace(Shape(3, PACKED, 4), flops=300_000)


def weights_of(genotype: Genotype, side: int) -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    network = SPACE.build(genotype)
    mean, deviation = torch.tensor([100.0, 120.0, 90.0]), torch.tensor([50.0, 60.0, 70.0])
    weights = Classifier.around(network, 4, mean, deviation, PACKED, side).state_dict()
    return dict(weights) | {"temperature": torch.tensor(0.6)}


@pytest.mark.parametrize(("side", "mirror"), [(24, False), (16, True)])
def test_the_onnx_file_answers_as_torch_for_any_number_of_pictures(side: int, mirror: bool) -> None:
    genotype = SPACE.sample(Random(side))
    weights = weights_of(genotype, side)
    labels = ["cat", "dog", "hen", "naïve 猫"]
    document = to_onnx(SPACE, genotype, weights, packed_side=PACKED, mirror_at_test=mirror, labels=labels)
    served = served_of(SPACE, genotype, weights, mirror)
    for count in (1, 5):
        samples = np.random.default_rng(count).integers(0, 256, (count, PACKED, PACKED, 3), dtype=np.uint8)
        assert parity(document, served, samples) < 1e-4
    session = onnxruntime.InferenceSession(document, providers=["CPUExecutionProvider"])
    scores = session.run(["scores"], {"images": samples})[0]
    np.testing.assert_allclose(scores.sum(1), 1, rtol=1e-5)
    properties = {p.key: json.loads(p.value) for p in onnx.load_from_string(document).metadata_props}
    assert properties["labels"] == labels
    assert Genotype.from_json(properties["genotype"]) == genotype


@pytest.mark.parametrize("ops", ["fast", "enas", "pnas", "nasnet"])
def test_networks_of_cells_are_exported_quickly_too(ops: str) -> None:
    space = space_for("cell", Shape(3, 16, 4), {"ops": ops, "blocks": 3, "filters": 4, "side": 16})
    for seed in range(3):
        genotype = space.sample(Random(seed))
        network = space.build(genotype)
        mean, deviation = torch.full((3,), 100.0), torch.full((3,), 50.0)
        weights = Classifier.around(network, 4, mean, deviation, 16, 16).state_dict()
        started = time.perf_counter()
        document = to_onnx(space, genotype, weights, packed_side=16, mirror_at_test=True, labels=list("abcd"))
        assert time.perf_counter() - started < 2.0
        samples = np.random.default_rng(seed).integers(0, 256, (3, 16, 16, 3), dtype=np.uint8)
        assert parity(document, served_of(space, genotype, weights, True), samples) < 1e-4


@pytest.mark.parametrize("side", [7, 9, 10, 16])
def test_networks_of_cells_are_exported_at_a_lower_resolution_than_their_own(side: int) -> None:
    for name in ("cell", "macro", "nb201"):
        space = space_for(name, Shape(3, 16, 4), {})
        genotype = space.sample(Random(side))
        mean, deviation = torch.full((3,), 100.0), torch.full((3,), 50.0)
        weights = Classifier.around(space.build(genotype), 4, mean, deviation, 16, side).state_dict()
        document = to_onnx(space, genotype, weights, packed_side=16, mirror_at_test=False, labels=list("abcd"))
        samples = np.random.default_rng(side).integers(0, 256, (3, 16, 16, 3), dtype=np.uint8)
        assert parity(document, served_of(space, genotype, weights, False), samples) < 1e-4


def test_an_operation_that_cannot_be_written_is_named() -> None:
    class Odd(nn.Module):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return torch.fft.fft(images.float()).real

    with pytest.raises(UnsupportedOperationError, match="fft"):
        write(Odd(), input_name="images", input_shape=(4,), output_name="scores", classes=4)


def test_mirroring_makes_a_picture_and_its_mirror_image_answer_alike() -> None:
    genotype = SPACE.sample(Random(1))
    served = served_of(SPACE, genotype, weights_of(genotype, 16), True)
    pictures = torch.randint(0, 256, (3, PACKED, PACKED, 3), dtype=torch.uint8)
    torch.testing.assert_close(served(pictures), served(pictures.flip(2)))


def test_weights_survive_safetensors() -> None:
    genotype = SPACE.sample(Random(2))
    weights = weights_of(genotype, 16)
    again = load_weights(save_weights(weights))
    assert weights.keys() == again.keys()
    assert all(torch.equal(weights[name], again[name]) for name in weights)
