"""What in a picture speaks for a label, found in networks of which it is known."""

from collections.abc import Iterator
from functools import cache
from random import Random

import numpy as np
import onnxruntime
import pytest
import torch
from captum.attr import LayerGradCam
from numpy.typing import NDArray

from search.candidate import Fidelity
from search.classifier import Classifier, Served
from search.data import Images
from search.device import Device
from search.explain import DELTA_MAX, NoLayerError, explain, last_spatial_layer
from search.export import served_of, to_onnx
from search.occlusion import Occlusion, OcclusionError
from search.runtime import INPUT, OUTPUT
from search.space import Recipe
from search.spaces.stages import Genes, Stage, StagesSpace
from search.train import train
from tests.search.spaces import SHAPE, SMALL, small_space

METHODS = ("integrated_gradients", "grad_cam", "occlusion")
SIDE = 32
PLACE = np.s_[4:12, 18:26]  # where there is a red or a blue square, or none; all else is noise and a green square
NEAR = np.s_[1:15, 15:29]  # that, and as far around it as a layer of 7 × 7 and a patch of 5 cannot tell
COLOURS = ((220, 30, 30), (30, 30, 220))


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@cache
def pictures() -> Images:
    """Gray noise with a green square anywhere. The label is the colour of the one in PLACE, or that there is none: with two
    labels a network could tell one by the absence of the other, which lies nowhere."""
    random = np.random.default_rng(0)
    targets = random.integers(0, 3, 400)
    pixels = random.integers(60, 190, (400, SIDE, SIDE, 1), dtype=np.uint8).repeat(3, axis=3)
    for picture, target in zip(pixels, targets, strict=True):
        top, left = random.integers(0, SIDE - 8, 2)
        picture[top : top + 8, left : left + 8] = (30, 220, 30)
        if target < len(COLOURS):
            picture[PLACE] = COLOURS[target]
    splits = np.repeat([0, 1, 2], [320, 40, 40])
    return Images.of(pixels, targets, splits, ["red", "blue", "none"])


@cache
def trained_twice() -> tuple[Served, bytes]:
    """The network in torch and as ONNX."""
    space = StagesSpace(pictures().shape())
    genotype = Genes(
        stem_kernel=3,
        stem_stride=1,
        stages=(Stage(8, 1, 3, "plain"), Stage(16, 1, 3, "plain")),
        activation="relu",
        pooling="max",
        recipe=Recipe(side=SIDE, start_side=SIDE, batch_size=32),
    ).to_genotype()
    done = train(space, genotype, pictures(), Fidelity(epochs=4), seed=1, device=Device.cpu())
    assert done.metrics["accuracy"] == 1.0
    return served_of(space, genotype, done.weights, mirror_at_test=True), to_onnx(
        space, genotype, done.weights, packed_side=SIDE, mirror_at_test=True, labels=pictures().labels
    )


def trained() -> Served:
    return trained_twice()[0]


def coloured() -> NDArray[np.int64]:
    """Test pictures with a square in PLACE."""
    return pictures().test[pictures().targets[pictures().test] < len(COLOURS)]


def share(heat: NDArray[np.float64]) -> float:
    """Of what speaks for the label, the part that lies in NEAR, which is a fifth of the picture."""
    speaks = heat.clip(0)
    return float(speaks[NEAR].sum() / speaks.sum())


@pytest.mark.parametrize("method", METHODS)
def test_what_decides_a_label_is_where_most_of_the_mass_lies(method: str) -> None:
    shares = []
    for row in coloured()[:10]:
        told = explain(trained(), pictures().pixels[row], method, None, {})
        assert told.found.heat.shape == (SIDE, SIDE)
        assert told.label == told.predicted == pictures().targets[row]
        assert told.score == told.predicted_score > 0.5
        shares.append(share(told.found.heat))
    assert np.mean(shares) > 0.6, shares


def test_integrated_gradients_add_up_to_the_difference_of_the_scores() -> None:
    for row in coloured()[:5]:
        for label in (0, 1):
            told = explain(trained(), pictures().pixels[row], "integrated_gradients", label, {})
            assert told.found.delta is not None
            assert abs(told.found.delta) <= DELTA_MAX
            assert told.found.heat.sum() - told.found.delta == pytest.approx(
                told.score - float(told.found.details["baseline_score"]), abs=1e-5
            )


def test_what_speaks_for_one_label_speaks_against_the_others() -> None:
    picture = pictures().pixels[coloured()[0]]
    for method in ("integrated_gradients", "occlusion"):
        heats = [explain(trained(), picture, method, label, {}).found.heat for label in range(3)]
        assert np.abs(heats).max() > 1e-3
        assert np.allclose(sum(heats), 0, atol=1e-4), method  # scores add up to one, so what one loses others gain


def test_the_temperature_and_the_mirror_image_are_part_of_what_is_explained() -> None:
    picture = pictures().pixels[coloured()[0]]
    assert trained().mirror
    assert float(trained().classifier.temperature) != 1.0
    with torch.inference_mode():
        expected = trained()(torch.from_numpy(picture[None].copy()))[0]
    told = explain(trained(), picture, "occlusion", 1, {"patch": 8, "stride": 8})
    assert told.score == pytest.approx(float(expected[1]), abs=1e-6)
    assert dict(told.found.details) == {"patch": 8, "stride": 8, "fill": "mean"}
    for method in METHODS:
        one, other = (explain(trained(), each, method, 0, {}).found.heat for each in (picture, picture[:, ::-1].copy()))
        assert np.allclose(one, other[:, ::-1], atol=1e-3 * np.abs(one).max()), method


def test_occlusion_finds_the_same_through_onnx_runtime() -> None:
    picture = pictures().pixels[coloured()[0]]
    session = onnxruntime.InferenceSession(trained_twice()[1], providers=["CPUExecutionProvider"])
    plan = Occlusion.of(SIDE)
    copies = plan.copies(picture, plan.cover(picture), 0, plan.count)
    (scores,) = session.run([OUTPUT], {INPUT: np.concatenate([picture[None], copies])})
    heat = plan.heat(scores[0, 0] - scores[1:, 0])
    assert np.allclose(heat, explain(trained(), picture, "occlusion", 0, {}).found.heat, atol=1e-4)


@pytest.mark.parametrize("mirror", [False, True])
@pytest.mark.parametrize("name", SMALL)
def test_every_space_has_a_layer_for_grad_cam_and_is_explained_by_all_methods(name: str, mirror: bool) -> None:
    space = small_space(name)
    picture = np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    for seed in range(2):
        torch.manual_seed(seed)
        network = space.build(space.sample(Random(seed)))
        mean, deviation = torch.full((3,), 100.0), torch.full((3,), 50.0)
        served = Served(Classifier.around(network, SHAPE.classes, mean, deviation, 16, 16), mirror)
        for method in METHODS:
            told = explain(served, picture, method, 2, {})
            assert told.found.heat.shape == (16, 16)
            assert np.isfinite(told.found.heat).all()
        height, width = explain(served, picture, "grad_cam", 2, {}).found.details["layer_size"]
        assert height * width > 1


def test_the_layer_is_the_last_that_answers_with_maps() -> None:
    name, layer = last_spatial_layer(trained(), torch.zeros(1, SIDE, SIDE, 3))
    assert (name, layer) == ("stages", trained().classifier.network.stages)
    maps = LayerGradCam(lambda images: trained().classifier(images), layer)
    assert maps.attribute(torch.zeros(1, SIDE, SIDE, 3, requires_grad=True), target=0).shape == (1, 1, 7, 7)


def test_a_network_without_maps_and_a_patch_that_does_not_fit_are_refused() -> None:
    flat = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(16 * 16 * 3, 5))
    ones = torch.ones(3)
    picture = np.zeros((16, 16, 3), np.uint8)
    served = Served(Classifier.around(flat, 5, ones, ones, 16, 16), False)
    with pytest.raises(NoLayerError, match="take occlusion or integrated_gradients"):
        explain(served, picture, "grad_cam", None, {})
    assert explain(served, picture, "integrated_gradients", None, {}).found.delta is not None
    with pytest.raises(OcclusionError, match="may have 1 to 16"):
        explain(served, picture, "occlusion", None, {"patch": 17})
    with pytest.raises(ValueError, match="none of integrated_gradients"):
        explain(served, picture, "guess", None, {})
