"""The floor: the fixed network that every search must beat, as large as the time can train well."""

from collections.abc import Sequence

from search.limits import Limits, measured_of, nearest
from search.space import Genotype, Shape
from search.spaces.stages import StagesSpace, reference

_FORWARD_AND_BACKWARD = 3  # multiply-adds of one training step per multiply-add of a forward pass
_REACHED = 0.85  # of the measured speed, once normalisation, activations and data are paid for
_SHARE = 0.35  # of the search's time: between what the floor's own training gets and what the final one gets
# Pictures shown in a training that is long enough: 23 passes over 2,000, 14 over 9,000, 6 over 45,000. At equal time (90 s, or
# 170 where said; n = 1, bench/recipe.py; log loss on validation and test pictures): of 2,016 satellite scenes 83,000 shown .368, 43,000 .330,
# 33,000 .332; of 1,818 photographs of rubbish 61,000 .449, 43,000 .419; of 9,000 Fashion-MNIST pictures 30,000 .323,
# 59,000 .297, 101,000 .287, and in 170 s 141,000 .289.
_PICTURES, _FROM, _POWER = 45_000, 2_000, 0.7
_PICTURES_FEW, _PICTURES_MANY = 30_000, 250_000
_FLOPS_LEAST, _FLOPS_MOST = 1_000_000, 400_000_000
_SHRINKINGS = 12
_MEASURED_SHARE = 0.9  # of a limit that is measured: the trial measures again, perhaps on a busier machine
_SMALLEST = "the smallest floor that was found has"
NO_LIMITS = Limits()


def floor(
    shape: Shape,
    n_train: int,
    *,
    flops_per_s: float,
    seconds: float,
    limits: Limits = NO_LIMITS,
    labels: Sequence[str] = (),
) -> Genotype:
    """The floor network for `n_train` pictures of `shape`, in a search of `seconds` on a device of the measured speed
    `flops_per_s` (multiply-adds, see `Device`), as large as `limits` allow.

    Raises OverLimitError when none of its kind is small enough. Where a file's size or an answer's time is limited
    networks are measured, which may take some seconds; a file carries its `labels`.
    """
    space = StagesSpace(shape)
    flops = affordable_flops(n_train, flops_per_s=flops_per_s, seconds=seconds)
    for _ in range(_SHRINKINGS):
        genotype = reference(shape, flops).to_genotype()
        excess = limits.excess(space.cost(genotype))
        if excess <= 1 and limits.is_measured:
            excess = max(limits.measured_shares(measured_of(space, genotype, labels)))[0] / _MEASURED_SHARE
        if excess <= 1:
            return genotype
        flops = int(flops * min(0.8, 1 / excess))
    smallest = nearest(space, limits, genotype)
    limits.foresee(space.cost(smallest), subject=_SMALLEST)
    limits.measure(space, smallest, labels, subject=_SMALLEST)
    return smallest


def expected_epoch_s(n_train: int, flops: int, *, flops_per_s: float) -> float:
    """Seconds of one pass over `n_train` pictures with a network of so many multiply-adds, before any was trained."""
    return n_train * _FORWARD_AND_BACKWARD * flops / (_REACHED * flops_per_s)


def affordable_flops(n_train: int, *, flops_per_s: float, seconds: float) -> int:
    """Multiply-adds of the network that a search of `seconds` can train far enough."""
    pictures = max(_PICTURES_FEW, min(_PICTURES_MANY, _PICTURES * (n_train / _FROM) ** _POWER))
    flops = _REACHED * _SHARE * flops_per_s * seconds / (_FORWARD_AND_BACKWARD * pictures)
    return int(max(_FLOPS_LEAST, min(_FLOPS_MOST, flops)))
