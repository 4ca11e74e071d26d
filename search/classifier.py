"""From packed pixels to scores: the one module that validates, is evaluated, exported and served."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from search.data import resize, resize_matrix
from search.space import Genotype, Space

_NETWORK = "network."


class Classifier(nn.Module):
    """uint8 (B, packed side, packed side, C) to logits (B, classes): resizes, normalises and asks the network.

    Its state holds all that a model needs beside its genotype: the network's weights and averages, `mean` and
    `deviation` of the channels in pixel units, `resize`, the matrix from the packed to the trained resolution
    (absent when they are the same), and `temperature`, by which logits are divided: 1 until a training has ended and
    fitted it (`search/calibration.py`).
    """

    mean: Tensor
    deviation: Tensor
    temperature: Tensor
    resize: Tensor | None

    def __init__(self, network: nn.Module, classes: int, mean: Tensor, deviation: Tensor, matrix: Tensor | None):
        super().__init__()
        self.classes = classes
        self.memory_format = torch.channels_last
        self.network = network
        self.register_buffer("mean", mean.reshape(-1, 1, 1))
        self.register_buffer("deviation", deviation.reshape(-1, 1, 1))
        self.register_buffer("resize", matrix)
        self.register_buffer("temperature", torch.ones(()))

    @classmethod
    def around(
        cls, network: nn.Module, classes: int, mean: Tensor, deviation: Tensor, packed_side: int, side: int
    ) -> "Classifier":
        matrix = None if side == packed_side else resize_matrix(packed_side, side).clone()
        return cls(network, classes, mean, deviation, matrix)

    @classmethod
    def load(cls, space: Space, genotype: Genotype, weights: Mapping[str, Tensor]) -> "Classifier":
        """The trained network, ready to answer. Raises WeightsError when the weights belong to another genotype."""
        network = space.build(genotype)
        try:
            classifier = cls(network, space.shape.classes, weights["mean"], weights["deviation"], weights.get("resize"))
            classifier.load_state_dict(dict(weights))
        except (KeyError, RuntimeError) as error:
            raise WeightsError(f"weights do not fit genotype {genotype.digest()}: {error}") from error
        return classifier.eval()

    def forward(self, images: Tensor, mirror: bool = False) -> Tensor:
        """mirror: average the logits of each picture and of its mirror image."""
        pixels = images.permute(0, 3, 1, 2).float()  # (B, C, packed side, packed side)
        if self.resize is not None:
            pixels = resize(pixels, self.resize)  # (B, C, side, side)
        pixels = self.normalised(pixels)
        if not mirror:
            plain: Tensor = self.network(pixels)
            return plain / self.temperature
        both: Tensor = self.network(torch.cat([pixels, pixels.flip(3)]))
        return both.reshape(2, -1, self.classes).mean(0) / self.temperature

    def normalised(self, pixels: Tensor) -> Tensor:
        """float (B, C, S, S) in pixel units to zero mean and unit deviation."""
        return ((pixels - self.mean) / self.deviation).contiguous(memory_format=self.memory_format)


class Served(nn.Module):
    """A classifier as it answers: uint8 (B, packed side, packed side, C) to scores (B, classes) that sum to one."""

    def __init__(self, classifier: Classifier, mirror: bool):
        super().__init__()
        self.classifier = classifier
        self.mirror = mirror

    def forward(self, images: Tensor) -> Tensor:
        return F.softmax(self.classifier(images, self.mirror).float(), dim=1)


class WeightsError(ValueError):
    """Weights and genotype do not belong together."""


def network_weights(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The network's own part of a classifier's state."""
    return {name.removeprefix(_NETWORK): value for name, value in weights.items() if name.startswith(_NETWORK)}
