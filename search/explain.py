"""What in one picture speaks for a label, by three methods, for the model as it answers.

What is explained is `Served`: resizing, normalisation, the temperature of its logits, and, where the model averages its
answers for a picture and its mirror image, that average are part of the function whose gradients are taken or whose answers
are compared. Pictures are uint8 to the network; gradients are taken from the same values as float32.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from captum.attr import IntegratedGradients, LayerAttribution, LayerGradCam
from numpy.typing import NDArray
from torch import Tensor, nn

from search.classifier import Served
from search.occlusion import TELLING, Occlusion
from search.space import Json

# Between the blank picture and the picture. Doubled until the sum holds: where a softmax saturates, most of the change lies
# in few of them, and a network of kinks is no smooth function.
STEPS_FIRST, STEPS_LAST = 64, 1024
DELTA_MAX = 0.005  # of a score between 0 and 1
_BATCH_PIXELS = 32 * 64 * 64  # at once: bounds memory
_SMOOTH = 48  # heat of single pixels is drawn blurred by side / this, so that places show and not noise


class NoLayerError(ValueError):
    """The network has no layer whose answer has an extent in space."""


@dataclass(frozen=True, slots=True, eq=False)
class Attribution:
    """heat: (side, side), packed pixels; above zero speaks for the label, below zero against it.

    details: what else the method has to say. delta: by how much `heat` fails to add up, where a method promises that it
    does. smooth_px, full_from: how `ingest.overlay` is to draw it.
    """

    heat: NDArray[np.float64]
    details: Mapping[str, Json]
    delta: float | None = None
    smooth_px: float = 0.0
    full_from: float = 0.0


@dataclass(frozen=True, slots=True, eq=False)
class Explanation:
    """label, predicted: places among the model's labels. score, predicted_score: of these."""

    label: int
    score: float
    predicted: int
    predicted_score: float
    found: Attribution


def explain(
    served: Served, picture: NDArray[np.uint8], method: str, label: int | None, options: Mapping[str, Any]
) -> Explanation:
    """Explains the score of `label`, or of the label with the highest score.

    picture: uint8 (side, side, C), as packed. method: integrated_gradients, grad_cam or occlusion; `options` are those
    of `Occlusion.of` and of the last alone. Raises OcclusionError and NoLayerError.
    """
    served = served.eval().requires_grad_(False)
    with torch.inference_mode():
        scores = served(torch.from_numpy(picture[None].copy()))[0]
    predicted = int(scores.argmax())
    label = predicted if label is None else label
    score = float(scores[label])
    match method:
        case "integrated_gradients":
            found = _integrated_gradients(served, picture, label, score)
        case "grad_cam":
            found = _grad_cam(served, picture, label)
        case "occlusion":
            found = _occlusion(served, picture, label, score, options)
        case _:
            raise ValueError(f"method {method!r} is none of integrated_gradients, grad_cam, occlusion")
    return Explanation(label, score, predicted, float(scores[predicted]), found)


def _integrated_gradients(served: Served, picture: NDArray[np.uint8], label: int, score: float) -> Attribution:
    """How much each pixel adds to the score on the straight way from a picture in the mean colour of the training pictures.

    Summed over the channels; all pixels together add up to the difference of the two scores but for `delta`, which the
    steps of the integral leave: at most DELTA_MAX, unless STEPS_LAST of them do not suffice. Sundararajan et al. 2017, arXiv:1703.01365.
    """
    pixels = _floats(picture)  # (1, side, side, C)
    blank = served.classifier.mean.reshape(1, 1, 1, -1).expand_as(pixels)
    method, steps = IntegratedGradients(served), STEPS_FIRST
    while True:
        parts, too_much = method.attribute(
            pixels,
            blank,
            target=label,
            n_steps=steps,
            internal_batch_size=_batch(picture),
            return_convergence_delta=True,
        )
        delta = float(too_much)
        if abs(delta) <= DELTA_MAX or steps >= STEPS_LAST:
            break
        steps *= 2
    heat = parts[0].sum(-1).detach().double().numpy()
    details = {"steps": steps, "baseline_score": score - float(heat.sum()) + delta}
    return Attribution(heat, details, delta, smooth_px=len(picture) / _SMOOTH)


def _grad_cam(served: Served, picture: NDArray[np.uint8], label: int) -> Attribution:
    """The maps of the last layer with an extent in space, weighted by how much the label's logit hangs on each.

    Only what speaks for the label; the highest value is 1. Where the model averages over the mirror image, the two
    maps are added, the second turned back. Selvaraju et al. 2017, arXiv:1610.02391.
    """
    classifier, mirror = served.classifier, served.mirror
    pixels = _floats(picture)
    name, layer = last_spatial_layer(served, pixels)
    method = LayerGradCam(lambda images: classifier(images, mirror), layer)
    maps = method.attribute(pixels, target=label, relu_attributions=True)  # (1 or 2, 1, h, w)
    whole = maps[:1] + maps[1:].flip(3) if mirror else maps
    side = len(picture)
    wide = LayerAttribution.interpolate(whole, (side, side), "bilinear")
    heat = wide[0, 0].detach().double().numpy()
    return Attribution(heat / (heat.max() or 1.0), {"layer": name, "layer_size": list(maps.shape[2:])})


def _occlusion(
    served: Served, picture: NDArray[np.uint8], label: int, score: float, options: Mapping[str, Any]
) -> Attribution:
    """How far the score drops when a pixel is covered: see `search.occlusion`."""
    plan = Occlusion.of(len(picture), **options)
    cover, size = plan.cover(picture), _batch(picture)
    scores = []
    with torch.inference_mode():
        for first in range(0, plan.count, size):
            copies = torch.from_numpy(plan.copies(picture, cover, first, size))
            scores.append(served(copies)[:, label].double())
    heat = plan.heat(score - torch.cat(scores).numpy())
    details = {"patch": plan.patch, "stride": plan.stride, "fill": plan.fill}
    return Attribution(heat, details, smooth_px=plan.stride / 2, full_from=TELLING)


def last_spatial_layer(served: Served, pixels: Tensor) -> tuple[str, nn.Module]:
    """The module of the network that is the last to answer with maps of more than one pixel, and its name.

    pixels: (1, side, side, C). Of modules within one another it is the outermost, whose answer is the same. Found by
    running the network, so that every space of architectures has one. Raises NoLayerError.
    """
    found: list[tuple[str, nn.Module]] = []

    def noted(name: str) -> Any:
        def note(module: nn.Module, _: Any, answer: Any) -> None:
            if isinstance(answer, Tensor) and answer.ndim == 4 and answer.shape[2] * answer.shape[3] > 1:
                found.append((name, module))

        return note

    network = served.classifier.network
    hooks = [module.register_forward_hook(noted(name)) for name, module in network.named_modules()]
    try:
        with torch.no_grad():
            served.classifier(pixels)
    finally:
        for hook in hooks:
            hook.remove()
    if not found:
        raise NoLayerError("the network has no layer with an extent in space; take occlusion or integrated_gradients")
    return found[-1]


def _floats(picture: NDArray[np.uint8]) -> Tensor:
    return torch.from_numpy(picture[None].astype(np.float32)).requires_grad_()


def _batch(picture: NDArray[np.uint8]) -> int:
    return max(1, _BATCH_PIXELS // len(picture) ** 2)
