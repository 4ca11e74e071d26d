"""What torch reads: an exported program, weights with their genotype, and a folder of readable Python.

The model's own source is what is exported and compared, in a process of its own: it needs nothing of this package.
"""

import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from search.exports.folders import folder_of, listed, requirements
from search.exports.fresh import run_alone
from search.exports.values import Data, Made, Subject

_EXPORT = """
import json, torch
import model

classifier = model.load("weights.safetensors")
pictures = torch.zeros((2, model.PACKED_SIDE, model.PACKED_SIDE, model.CHANNELS), dtype=torch.uint8)
with torch.no_grad():
    program = torch.export.export(classifier, (pictures,), dynamic_shapes={"images": {0: torch.export.Dim("N", min=1)}})
for node in program.graph.nodes:
    node.meta.pop("stack_trace", None)  # where on this machine a line stood: not what the model is
about = {"labels.json": json.dumps(model.LABELS), "genotype.json": open("genotype.json").read()}
torch.export.save(program, "model.pt2", extra_files=about)
"""
_ANSWER_PT2 = """
import torch

program = torch.export.load({name!r}).module()


def answers(images):
    with torch.no_grad():
        return program(torch.from_numpy(images)).numpy()
"""
_ANSWER_MODEL = """
import torch
import model

classifier = model.load({weights!r})


def answers(images):
    with torch.no_grad():
        return classifier(torch.from_numpy(images)).numpy()
"""
_PREDICT = '''"""Classify picture files: python predict.py picture.jpg more.png"""

import json
import sys
from pathlib import Path

import torch

import model

HERE = Path(__file__).parent
LABELS = json.loads((HERE / "labels.json").read_text("utf-8"))  # in the order of the scores


def predict(paths):
    """The scores of picture files, one list for each, in the order of LABELS; they sum to one."""
    classifier = model.load(str(HERE / "weights.safetensors"))
    with torch.inference_mode():
        return [classifier(model.read(path)[None])[0].tolist() for path in paths]


if __name__ == "__main__":
    if len(sys.argv) < 2:
        sys.exit("usage: python predict.py picture.jpg ...")
    for path, scores in zip(sys.argv[1:], predict(sys.argv[1:])):
        best = sorted(zip(LABELS, scores), key=lambda pair: -pair[1])[:5]
        print(json.dumps({"picture": path, "label": best[0][0], "scores": dict(best)}, ensure_ascii=False))
'''
_README = """# {name}, version {version}

{description}. It tells {count} labels apart; they stand in `labels.json`, in the order of the scores.

```bash
pip install -r requirements.txt
python predict.py picture.jpg
```

`model.py` is the whole network with its preprocessing, to read and to change: `model.load("weights.safetensors")` gives a
`torch.nn.Module` from uint8 pictures (N, {side}, {side}, {channels}) to scores (N, {count}), and `model.read(path)` makes such a
picture of a file. `requirements.txt` has the versions it was tried with.
"""


def pt2(subject: Subject, _: Data | None, __: Mapping[str, Any]) -> Made:
    """A `torch.export` program: pictures packed as for training, any number at a time. Raises FreshError."""
    with tempfile.TemporaryDirectory(prefix="pt2-") as scratch:
        folder = Path(scratch)
        (folder / "model.py").write_text(subject.source, "utf-8")
        (folder / "weights.safetensors").write_bytes(subject.weights)
        (folder / "genotype.json").write_text(genotype(subject), "utf-8")
        run_alone(_EXPORT, folder)
        content = (folder / "model.pt2").read_bytes()
    name = f"{subject.stem}.pt2"
    return Made(content, name, "application/octet-stream", _ANSWER_PT2.format(name=name))


def safetensors(subject: Subject, _: Data | None, __: Mapping[str, Any]) -> Made:
    """The weights as safetensors, with the genotype, labels and preprocessing as JSON, zipped.

    They are compared in the model's source, which is not in the zip: `python` has it.
    """
    files: dict[str, bytes | str] = {"weights.safetensors": subject.weights, "genotype.json": genotype(subject)}
    folder = f"{subject.stem}-weights"
    source = f"open({f'{folder}/model.py'!r}, 'w', encoding='utf-8').write({subject.source!r})\n"
    weights = f"{folder}/weights.safetensors"
    return folder_of(folder, files, source + _ANSWER_MODEL.format(weights=weights))


def python(subject: Subject, _: Data | None, __: Mapping[str, Any]) -> Made:
    """A folder to read, to change and to train on: source, weights, labels, a command line."""
    readme = _README.format(
        name=subject.name,
        version=subject.version,
        description=subject.description.strip().rstrip(".") or "A network",
        count=len(subject.labels),
        side=subject.side,
        channels=subject.channels,
    )
    files: dict[str, bytes | str] = {
        "model.py": subject.source,
        "weights.safetensors": subject.weights,
        "labels.json": listed(subject.labels),
        "predict.py": _PREDICT,
        "requirements.txt": requirements("numpy", "pillow", "safetensors", "torch"),
        "README.md": readme,
    }
    folder = f"{subject.stem}-python"
    return folder_of(folder, files, _ANSWER_MODEL.format(weights=f"{folder}/weights.safetensors"))


def genotype(subject: Subject) -> str:
    """What the weights belong to, as JSON."""
    about = {
        "name": subject.name,
        "version": subject.version,
        "description": subject.description,
        "genotype": subject.genotype,
        "labels": list(subject.labels),
        "preprocessing": {"side": subject.side, "channels": subject.channels},
    }
    return json.dumps(about, ensure_ascii=False, indent=1) + "\n"
