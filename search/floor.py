"""The floor: the fixed network that every search must beat, as large as its share of the time can train well."""

from search.space import Genotype, Shape
from search.spaces.stages import reference

_FORWARD_AND_BACKWARD = 3  # multiply-adds of one training step per multiply-add of a forward pass
_REACHED = 0.7  # of the measured speed, once normalisation, activations and data are paid for
_PICTURES_FEW, _PICTURES_MANY = 60_000, 250_000  # shown in a training that is long enough, for small and large data
_EPOCHS_FEW = 6.0
_FLOPS_LEAST, _FLOPS_MOST = 1_000_000, 400_000_000


def floor(shape: Shape, n_train: int, *, flops_per_s: float, seconds: float) -> Genotype:
    """The floor network for pictures of `shape`, given `n_train` of them and `seconds` of training at the device's
    measured `flops_per_s`."""
    return reference(shape, affordable_flops(n_train, flops_per_s=flops_per_s, seconds=seconds)).to_genotype()


def affordable_flops(n_train: int, *, flops_per_s: float, seconds: float) -> int:
    """Multiply-adds of the largest network that `seconds` of training carry far enough."""
    pictures = max(_PICTURES_FEW, min(_PICTURES_MANY, _EPOCHS_FEW * n_train))
    flops = _REACHED * flops_per_s * seconds / (_FORWARD_AND_BACKWARD * pictures)
    return int(max(_FLOPS_LEAST, min(_FLOPS_MOST, flops)))
