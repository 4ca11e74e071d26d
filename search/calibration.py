"""How sure a network may be: one temperature for its logits, fitted on pictures that it was not trained on.

Guo et al. 2017, arXiv:1706.04599: a trained network is too sure of itself or, trained with smoothed labels, not sure
enough. Dividing its logits by one number mends most of that and changes no answer, only how sure it is.
"""

import math

import torch
from torch import Tensor
from torch.nn import functional as F

_COLDEST, _HOTTEST = 0.05, 20.0  # a fit that wants to leave these has too few pictures to tell
_STEPS = 24  # halvings of the range of the logarithm: the temperature is right to six digits
_PICTURES_MAX = 5_000  # tell one number well enough


def fitted_temperature(logits: Tensor, targets: Tensor) -> float:
    """The temperature by which `logits` answer with the lowest log loss; 1.0 where no other is better than that.

    logits: float (N, classes), of which the first few thousand are looked at. targets: int64 (N,).
    The fit counts one more picture, of which nothing is known (Platt 1999 smooths targets for the same reason): without it
    a few pictures without a mistake among them would ask for a network that is infinitely sure.
    """
    logits, targets = logits[:_PICTURES_MAX].double(), targets[:_PICTURES_MAX]
    share = 1 / (len(logits) + 1)
    meant = (1 - share) * logits.gather(1, targets[:, None])[:, 0] + share * logits.mean(1)  # (N,)
    low, high = math.log(_COLDEST), math.log(_HOTTEST)
    for _ in range(_STEPS):
        middle = (low + high) / 2
        answered = (torch.softmax(logits / math.exp(middle), 1) * logits).sum(1)
        # The loss is convex in 1 / temperature, and this is its slope there.
        if float((answered - meant).mean()) > 0:
            low = middle
        else:
            high = middle
    temperature = math.exp((low + high) / 2)
    better = F.cross_entropy(logits / temperature, targets) < F.cross_entropy(logits, targets)
    return temperature if bool(better) else 1.0
