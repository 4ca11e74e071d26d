"""Source of trained networks: it answers as the model does, and needs nothing of ours."""

import importlib.util
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from random import Random
from types import ModuleType

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from ingest.preprocess import Preprocessing, to_array
from search import catalog
from search.classifier import Classifier
from search.export import save_weights, served_of
from search.source import source_of
from search.space import Genotype, Shape, Space
from search.spaces import space_for
from tests.ingest.samples import encoded, noise
from tests.search.spaces import SHAPE, small_space

PACKED = 20
LABELS = ["cat", "dog's", 'a "hen"', "naïve 猫", "back\\slash"]


def weights_of(space: Space, genotype: Genotype) -> dict[str, Tensor]:
    """Of a network that has seen some pictures, so that its averages are not those it began with."""
    torch.manual_seed(0)
    network, side = space.build(genotype), space.recipe(genotype).side
    channels = space.shape.channels
    for _ in range(5):
        network.train()(torch.randn(8, channels, side, side))
    mean, deviation = torch.linspace(90, 130, channels), torch.linspace(50, 70, channels)
    weights = Classifier.around(network, space.shape.classes, mean, deviation, PACKED, side).state_dict()
    return dict(weights) | {"temperature": torch.tensor(1.7)}


def written(space: Space, genotype: Genotype, labels: Sequence[str] = LABELS, mirror: bool = False) -> str:
    return source_of(
        space.to_python(genotype), labels, packed_side=PACKED, channels=space.shape.channels, mirror_at_test=mirror
    )


def module_of(path: Path, source: str) -> ModuleType:
    path.write_text(source, "utf-8")
    spec = importlib.util.spec_from_file_location("model", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def answers_alike(space: Space, genotype: Genotype, folder: Path, mirror: bool) -> None:
    weights = weights_of(space, genotype)
    (folder / "weights.safetensors").write_bytes(save_weights(weights))
    labels = LABELS[: space.shape.classes]
    source = written(space, genotype, labels, mirror)
    assert max(len(line) for line in source.splitlines()) <= 120
    module = module_of(folder / "model.py", source)
    pictures = torch.randint(0, 256, (3, PACKED, PACKED, space.shape.channels), dtype=torch.uint8)
    with torch.inference_mode():
        scores = module.load(str(folder / "weights.safetensors"))(pictures)
        expected = served_of(space, genotype, weights, mirror)(pictures)
    assert labels == module.LABELS
    torch.testing.assert_close(scores, expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", catalog.SPACES)
def test_the_source_answers_as_the_model(name: str, tmp_path: Path) -> None:
    space = small_space(name)
    for seed in range(6):
        answers_alike(space, space.sample(Random(seed)), tmp_path, mirror=seed % 2 == 1)


@pytest.mark.parametrize("ops", ["enas", "pnas", "nasnet"])
def test_cells_of_every_published_operation_are_written(ops: str, tmp_path: Path) -> None:
    shape = Shape(1, 9, 3)  # an odd side, gray
    space = space_for("cell", shape, {"ops": ops, "filters": 5, "cells": 2, "tied": ops == "pnas", "side": 9})
    for seed in range(3):
        answers_alike(space, space.sample(Random(seed)), tmp_path, mirror=False)


@pytest.mark.parametrize("name", catalog.SPACES)
def test_a_written_network_is_trained_like_ours(name: str, tmp_path: Path) -> None:
    """The same parameters of the same names, and the same of them trainable."""
    space = small_space(name)
    genotype = space.sample(Random(1))
    network = module_of(tmp_path / "model.py", space.to_python(genotype)).Network()
    ours = {name: p.requires_grad for name, p in space.build(genotype).named_parameters()}
    assert {name: p.requires_grad for name, p in network.named_parameters()} == ours


def test_it_runs_as_a_program_where_nothing_of_ours_is_there(tmp_path: Path) -> None:
    space = small_space("stages")
    genotype = space.sample(Random(0))
    weights = weights_of(space, genotype)
    (tmp_path / "weights.safetensors").write_bytes(save_weights(weights))
    (tmp_path / "model.py").write_text(written(space, genotype), "utf-8")
    data = encoded(noise(3, 60, 40), "JPEG")
    (tmp_path / "picture.jpg").write_bytes(data)
    program = (
        "import runpy, sys; sys.argv = ['model.py', 'weights.safetensors', 'picture.jpg'];"
        "runpy.run_path('model.py', run_name='__main__'); assert not {'search', 'ingest'} & set(sys.modules)"
    )
    ran = subprocess.run(
        [sys.executable, "-I", "-X", "utf8", "-c", program], cwd=tmp_path, check=True, capture_output=True
    )
    picture = torch.from_numpy(to_array(data, Preprocessing(PACKED, 3)).copy())[None]
    (scores,) = served_of(space, genotype, weights, False)(picture)
    best = scores.argsort(descending=True)
    expected = [f"{scores[place]:.4f}  {LABELS[place]}" for place in best]
    assert ran.stdout.decode().splitlines() == expected


def transparent() -> Image.Image:
    image = noise(5, 70, 50).convert("RGBA")
    image.putalpha(Image.linear_gradient("L").resize(image.size))
    return image


def turned(orientation: int) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return encoded(noise(6, 90, 47), "JPEG", exif=exif)


WIDE = Image.fromarray(np.arange(0, 65536, 16, dtype=np.uint16).reshape(64, 64))
PICTURES = {
    "small": encoded(noise(1, 13, 9)),
    "as packed": encoded(noise(1, PACKED, PACKED)),
    "large jpeg": encoded(noise(1, 1301, 700), "JPEG"),
    "large webp": encoded(noise(1, 210, 1190), "WEBP"),
    "transparent": encoded(transparent()),
    "palette": encoded(transparent().quantize(8)),
    "keyed": encoded(noise(2), transparency=(255, 0, 255)),
    "gray": encoded(noise(2, 50, 60).convert("L")),
    "one bit": encoded(noise(2, 50, 60).convert("1")),
    "sixteen bits": encoded(WIDE),
    "cmyk": encoded(noise(2, 80, 64).convert("CMYK"), "JPEG"),
    "gif": encoded(noise(2, 80, 64), "GIF"),
    **{f"turned {orientation}": turned(orientation) for orientation in range(2, 9)},
}


@pytest.mark.parametrize("channels", [1, 3])
def test_pictures_are_read_as_at_import(channels: int, tmp_path: Path) -> None:
    space = space_for("stages", Shape(channels, 16, 5), {})
    module = module_of(tmp_path / "model.py", written(space, space.sample(Random(0))))
    for name, data in PICTURES.items():
        (tmp_path / "picture").write_bytes(data)
        ours = to_array(data, Preprocessing(PACKED, channels))
        assert np.array_equal(module.read(str(tmp_path / "picture")).numpy(), ours), name


def test_the_source_says_what_the_network_is() -> None:
    space = small_space("cell")
    genotype = space.sample(Random(0))
    source = written(space, genotype)
    said = source.split('"""')[1].replace("\n", " ")
    assert said == space.describe(genotype)
    assert SHAPE.classes == len(LABELS)
