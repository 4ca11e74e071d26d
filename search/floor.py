"""The floor: the fixed network that every search must beat, as large as the time can train well."""

from search.space import Genotype, Shape
from search.spaces.stages import reference

_FORWARD_AND_BACKWARD = 3  # multiply-adds of one training step per multiply-add of a forward pass
_REACHED = 0.85  # of the measured speed, once normalisation, activations and data are paid for
_SHARE = 0.35  # of the search's time: between what the floor's own training gets and what the final one gets
_PICTURES_FEW, _PICTURES_MANY = 60_000, 250_000  # shown in a training that is long enough, for small and large data
_EPOCHS_FEW = 6.0
_FLOPS_LEAST, _FLOPS_MOST = 1_000_000, 400_000_000


def floor(shape: Shape, n_train: int, *, flops_per_s: float, seconds: float) -> Genotype:
    """The floor network for `n_train` pictures of `shape`, in a search of `seconds` on a device of the measured speed
    `flops_per_s` (multiply-adds, see `Device`)."""
    return reference(shape, affordable_flops(n_train, flops_per_s=flops_per_s, seconds=seconds)).to_genotype()


def affordable_flops(n_train: int, *, flops_per_s: float, seconds: float) -> int:
    """Multiply-adds of the network that a search of `seconds` can train far enough."""
    pictures = max(_PICTURES_FEW, min(_PICTURES_MANY, _EPOCHS_FEW * n_train))
    flops = _REACHED * _SHARE * flops_per_s * seconds / (_FORWARD_AND_BACKWARD * pictures)
    return int(max(_FLOPS_LEAST, min(_FLOPS_MOST, flops)))
