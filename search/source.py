"""A trained network as Python source that stands alone: network, preprocessing, labels and a command line.

Loads no torch, since the API puts the pieces together when somebody asks.
"""

import json
import textwrap
from collections.abc import Sequence

_IMPORTS = """\
import sys

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional as F
"""

_ANSWERING = '''
LABELS = [
{labels}
]
PACKED_SIDE = {packed_side}  # pixels; what every picture is squashed to first
CHANNELS = {channels}  # {colours}
MIRROR = {mirror}  # whether the answers for a picture and for its mirror image are averaged


class Classifier(nn.Module):
    """uint8 (B, PACKED_SIDE, PACKED_SIDE, CHANNELS) to scores (B, labels) that sum to one."""

    def __init__(self, resize: Tensor | None):
        super().__init__()
        self.network = Network()
        self.register_buffer("mean", torch.zeros(CHANNELS, 1, 1))
        self.register_buffer("deviation", torch.ones(CHANNELS, 1, 1))
        self.register_buffer("resize", resize)  # (S, PACKED_SIDE): to the resolution of the training
        self.register_buffer("temperature", torch.ones(()))  # how sure the answers are, fitted on validation pictures

    def forward(self, images: Tensor) -> Tensor:
        x = images.permute(0, 3, 1, 2).float()
        if self.resize is not None:
            x = self.resize @ x @ self.resize.T  # (B, CHANNELS, S, S)
        x = (x - self.mean) / self.deviation
        logits = self.network(x)
        if MIRROR:
            logits = (logits + self.network(x.flip(3))) / 2
        return (logits / self.temperature).softmax(1)


def load(path: str) -> Classifier:
    """The trained classifier. path: the model's weights as safetensors."""
    weights = load_file(path)
    classifier = Classifier(weights.get("resize"))
    classifier.load_state_dict(weights)
    return classifier.eval()


def read(path: str) -> Tensor:
    """A picture file as the classifier takes it: uint8 (PACKED_SIDE, PACKED_SIDE, CHANNELS), as in the training."""
    return torch.from_numpy(pixels(path))
'''

# Preprocessing is that of `ingest/preprocess.py`, whole pictures instead of strips; a test compares the two.
_READING = '''
# EXIF tag 0x0112: how a camera was held
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def pixels(file) -> np.ndarray:
    """A picture file, by its path or opened, as the classifier takes it: uint8 (PACKED_SIDE, PACKED_SIDE, CHANNELS)."""
    with Image.open(file) as image:
        image.draft(None, (2 * PACKED_SIDE, 2 * PACKED_SIDE))  # JPEG: no larger than needed
        image.load()
        flat = flattened(image)
        by = max(1, flat.width // (2 * PACKED_SIDE)), max(1, flat.height // (2 * PACKED_SIDE))
        box = (0, 0, flat.width / by[0], flat.height / by[1])
        small = flat.reduce(by).resize((PACKED_SIDE, PACKED_SIDE), Image.Resampling.BICUBIC, box=box)
        turn = TURNS.get(image.getexif().get(0x0112, 1))
        if turn is not None:
            small = small.transpose(turn)
    return np.array(small, np.uint8).reshape(PACKED_SIDE, PACKED_SIDE, CHANNELS)


def flattened(image: Image.Image) -> Image.Image:
    """In mode L or RGB: transparency on white, 16 bits to their upper 8."""
    mode = "L" if CHANNELS == 1 else "RGB"
    if image.mode == mode and "transparency" not in image.info:
        return image
    if image.mode.startswith("I"):
        gray = np.clip(np.asarray(image).astype(np.int64) >> 8, 0, 255)
        return Image.fromarray(gray.astype(np.uint8)).convert(mode)
    if image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info:
        clear = image.convert("RGBA")
        canvas = Image.new("RGB", image.size, (255, 255, 255))
        canvas.paste(clear, mask=clear.getchannel("A"))
        return canvas.convert(mode)
    if image.mode == "CMYK":
        image = image.convert("RGB")
    return image.convert(mode)
'''

_READING_ALONE = '''"""Picture files as the classifier takes them."""

import numpy as np
from PIL import Image

PACKED_SIDE = {packed_side}  # pixels; what every picture is squashed to
CHANNELS = {channels}
'''

_PROGRAM = """
if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit("usage: python model.py weights.safetensors picture.jpg")
    with torch.inference_mode():
        (scores,) = load(sys.argv[1])(read(sys.argv[2])[None])
    for score, place in zip(*scores.topk(min(5, len(LABELS)))):
        print(f"{score:.4f}  {LABELS[place]}")
"""


def source_of(
    network: str, labels: Sequence[str], *, packed_side: int, channels: int, mirror_at_test: bool = False
) -> str:
    """Source of a module that answers as the trained model does, given its weights as safetensors
    (`search.export.save_weights`). It needs torch, NumPy, Pillow and safetensors, and nothing of ours.

    network: what the space's `to_python` writes. The module has `LABELS` in the order of the scores, `Classifier`,
    `load(path)`, `read(path)`; run as a program it classifies a picture file.
    """
    description, classes = network.split("\n\n", 1)[0], network.split("\n\n\n", 1)[1]
    answering = _ANSWERING.format(
        labels=textwrap.indent("\n".join(f"{json.dumps(label, ensure_ascii=False)}," for label in labels), "    "),
        packed_side=packed_side,
        channels=channels,
        colours="gray" if channels == 1 else "red, green, blue",
        mirror=mirror_at_test,
    )
    parts = (_IMPORTS, classes, answering.strip() + "\n", _READING.strip() + "\n", _PROGRAM.lstrip())
    return f"{description}\n\n" + "\n\n".join(parts)


def preprocessing_source(*, packed_side: int, channels: int) -> str:
    """Source of a module that reads picture files as the training did, `pixels(file)`, for those who answer without torch.

    It needs NumPy and Pillow.
    """
    return _READING_ALONE.format(packed_side=packed_side, channels=channels) + "\n\n" + _READING.strip() + "\n"
