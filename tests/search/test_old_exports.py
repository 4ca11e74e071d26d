"""What was exported by an older version still loads and answers as it did. `tests/fixtures/exports/make.py` made the files."""

import io
import json
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from numpy.typing import NDArray

from search.export import load_weights, served_of
from search.exports.fresh import run_alone
from search.exports.values import scores_of
from search.space import Genotype, Shape
from search.spaces import space_for
from tests.fixtures.exports.make import LABELS, SIDE

FOLDER = Path(__file__).parents[1] / "fixtures/exports"
ANSWERS = np.load(FOLDER / "answers.npz")


def assert_alike(scores: NDArray[np.float32], expected: str = "scores") -> None:
    np.testing.assert_allclose(scores, ANSWERS[expected], atol=1e-4)


def unpacked(name: str, folder: Path) -> Path:
    """The folder of a zip, in `folder`."""
    with zipfile.ZipFile(io.BytesIO((FOLDER / f"{name}.zip").read_bytes())) as archive:
        archive.extractall(folder)
    return folder / name


@pytest.mark.parametrize(
    ("file", "pictures", "expected"),
    [
        ("old-1.onnx", "pictures", "scores"),
        ("old-1-int8.onnx", "pictures", "scores_int8"),
        ("old-1-any-size.onnx", "originals", "scores_any_size"),
    ],
)
def test_an_old_onnx_file_answers_as_it_did(file: str, pictures: str, expected: str) -> None:
    assert_alike(scores_of((FOLDER / file).read_bytes(), ANSWERS[pictures]), expected)


@pytest.mark.slow
def test_an_old_torch_program_answers_as_it_did() -> None:
    about = {"labels.json": ""}
    program = torch.export.load(FOLDER / "old-1.pt2", extra_files=about).module()
    assert json.loads(about["labels.json"]) == LABELS
    assert_alike(program(torch.from_numpy(ANSWERS["pictures"])).detach().numpy())


def test_old_weights_and_their_genotype_build_the_network_again(tmp_path: Path) -> None:
    folder = unpacked("old-1-weights", tmp_path)
    about = json.loads((folder / "genotype.json").read_text("utf-8"))
    assert (about["labels"], about["preprocessing"]) == (LABELS, {"side": SIDE, "channels": 1})
    genotype = Genotype.from_json(about["genotype"])
    space = space_for(genotype.space, Shape(1, SIDE, len(LABELS)), {})
    served = served_of(space, genotype, load_weights((folder / "weights.safetensors").read_bytes()), False)
    with torch.inference_mode():
        assert_alike(served(torch.from_numpy(ANSWERS["pictures"])).numpy())


def test_an_old_folder_of_python_answers_as_it_did(tmp_path: Path) -> None:
    folder = unpacked("old-1-python", tmp_path)
    np.save(folder / "pictures.npy", ANSWERS["pictures"])
    program = (
        "import model, numpy, torch\n"
        "pictures = torch.from_numpy(numpy.load('pictures.npy'))\n"
        "with torch.no_grad():\n"
        "    numpy.save('scores.npy', model.load('weights.safetensors')(pictures).numpy())\n"
    )
    run_alone(program, folder)
    assert_alike(np.load(folder / "scores.npy"))


def test_an_old_server_answers_as_it_did(tmp_path: Path) -> None:
    folder = unpacked("old-1-docker", tmp_path)
    np.save(folder / "pictures.npy", ANSWERS["pictures"])
    run_alone("import numpy, server\nnumpy.save('scores.npy', server.scores(numpy.load('pictures.npy')))\n", folder)
    assert_alike(np.load(folder / "scores.npy"))


def test_an_old_mlflow_directory_says_and_answers_what_it_did(tmp_path: Path) -> None:
    folder = unpacked("old-1-mlflow", tmp_path)
    about = yaml.safe_load((folder / "MLmodel").read_text("utf-8"))
    assert about["metadata"]["labels"] == LABELS
    assert about["flavors"]["python_function"]["loader_module"] == "mlflow.onnx"
    assert_alike(scores_of((folder / about["flavors"]["onnx"]["data"]).read_bytes(), ANSWERS["pictures"]))
