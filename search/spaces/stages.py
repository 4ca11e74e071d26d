"""Whole fast convolutional networks and the recipe that trains them: the default space for small budgets.

A frozen whitening layer, then stages of convolutions, each of which halves the resolution, then a global maximum and
one linear layer: the family of airbench (Jordan 2024, arXiv:2404.00498), which reaches a given accuracy on small
pictures with the least arithmetic that we know of.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import MISSING, asdict, dataclass, fields, replace
from random import Random
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from search.space import Cost, Decision, Genotype, InvalidGenotypeError, Json, Recipe, Shape
from search.spaces.writing import indented, module_of

NAME = "stages"

STEM_KERNELS = (2, 3, 4)
STEM_STRIDES = (1, 2)
WIDTHS = (8, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512)
DEPTHS = (1, 2, 3, 4)
KERNELS = (3, 5)
BLOCKS = ("plain", "residual", "separable")
ACTIVATIONS: Mapping[str, Callable[[], nn.Module]] = {"gelu": nn.GELU, "silu": nn.SiLU, "relu": nn.ReLU}
POOLINGS: Mapping[str, Callable[[], nn.Module]] = {
    "max": lambda: nn.MaxPool2d(2),
    "average": lambda: nn.AvgPool2d(2),
    "stride": nn.Identity,  # the first convolution of a stage takes every other position itself
}
STAGES_MIN, STAGES_MAX = 2, 5
SIDE_MIN = 16
BATCH_SIZES = (32, 64, 128, 256, 512)
LEARNING_RATES = (0.35, 0.5, 0.7, 1.0, 1.4, 2.0)
WEIGHT_DECAYS = (0.0, 0.3, 1.0, 3.0)
LABEL_SMOOTHINGS = (0.0, 0.1, 0.2)
TRANSLATES = (0.0, 0.0625, 0.125)
CUTOUTS = (0.0, 0.25, 0.375)
BALANCES = (0.0, 0.5, 1.0)
START_SIDES = (0.5, 0.625, 0.75, 1.0)  # of the final side
SIZES = (0.5, 0.7, 1.0)  # of the wanted size: those that token forms may ask for

_LADDERS: Mapping[str, tuple[Any, ...]] = {
    "batch_size": BATCH_SIZES, "learning_rate": LEARNING_RATES, "weight_decay": WEIGHT_DECAYS,
    "label_smoothing": LABEL_SMOOTHINGS, "translate": TRANSLATES, "cutout": CUTOUTS, "balance": BALANCES,
}  # fmt: skip

_REFERENCE_SIDE = 96  # pixels
_STRIDED_SIDE = 64  # beyond it a stem that takes every position of smaller pictures does more for the same arithmetic
_REFERENCE_WIDTH_LEAST = 16  # channels of the first stage
_REFERENCE_WIDTH_LARGE = 32  # the same on maps of more than 32 pixels: so much area is worth paying for when wide
# The recipe of the reference, on CIFAR-10 at equal arithmetic (network of 9.5 M multiply-adds, 3.2e12 in all, n = 1 each):
# log loss on the test pictures 0.637 with batches of 128, rate 1 and growing pictures, 0.625 with batches of 64, rate 2
# and growing ones, 0.634 with these and constant ones. On 9,000 Fashion-MNIST pictures, 6 epochs: 0.397 with batches of
# 128 and rate 1, 0.386 with 128 and 2 or 64 and 1, 0.377 with 64 and 2, 0.397 with 32 and 2, 0.412 with 128 and 4. On TrashNet
# (64 pixels, strided stem, 14.8 M, n = 1): 0.494 with 128, rate 1, constant; 0.480 with 64, rate 1.4, growing.
# Of pictures of 128 pixels at equal time (85 to 90 s, n = 1, bench/recipe.py, log loss on validation and test pictures): 2,016 satellite
# scenes 0.368 at 64 pixels with a strided stem (59 M), 0.330 without (144 M), 0.308 at 80 without (174 M), 0.317 at 96 with
# (189 M); 1,818 photographs of rubbish 0.449, 0.419, 0.400 and 0.410.
_REFERENCE_START = 0.625  # of the side: resolution of the first steps, 2.5 times as fast
_REFERENCE_GROWS_FROM = 32  # pixels of the first maps; smaller ones have no detail to give up
_WHITENED_MAX = 16  # principal components kept by the stem; each gives a channel and its negative
_WHITENING_EPS = 5e-4  # airbench's, for pictures of unit deviation


@dataclass(frozen=True, slots=True)
class Stage:
    """One stage: `depth` convolutions to `width` channels, the resolution halved after the first."""

    width: int
    depth: int
    kernel: int
    block: str


@dataclass(frozen=True, slots=True)
class Genes:
    """The genes of a genotype, typed."""

    stem_kernel: int
    stem_stride: int
    stages: tuple[Stage, ...]
    activation: str
    pooling: str
    recipe: Recipe

    def to_genotype(self) -> Genotype:
        return Genotype.of(NAME, asdict(self))

    @classmethod
    def of(cls, genotype: Genotype) -> "Genes":
        """Raises InvalidGenotypeError for missing, unknown or mistyped genes; legal values are the space's matter."""
        if genotype.space != NAME:
            raise InvalidGenotypeError(f"a genotype of space {genotype.space!r} was given to space {NAME!r}")
        genes: dict[str, Any] = _fields("genes", genotype.genes, cls)
        stages = genes.pop("stages")
        if not isinstance(stages, list):
            raise InvalidGenotypeError(f"stages is {stages!r}; needed: a list of stages")
        return cls(
            stages=tuple(Stage(**_fields(f"stages[{place}]", stage, Stage)) for place, stage in enumerate(stages)),
            recipe=Recipe(**_fields("recipe", genes.pop("recipe"), Recipe)),
            **genes,
        )


class StagesSpace:
    """See `search.space`: a Space that is Tokenised and Scalable.

    flops: how many multiply-adds a sampled network should have, about.
    """

    name = NAME

    def __init__(self, shape: Shape, flops: int = 20_000_000, centre: Genotype | None = None):
        self.shape = shape
        self.flops = flops
        self.centre = Genes.of(centre) if centre else reference(shape, flops)

    def sample(self, random: Random) -> Genotype:
        """A few steps away from the centre, its size brought back to about the wanted one."""
        genes = self.centre
        for _ in range(random.choice((1, 2, 3, 4, 6))):
            genes = self._step(genes, random)
        wanted = self.flops * math.exp(random.uniform(-0.7, 0.2))
        return fitted(genes, self.shape, int(wanted)).to_genotype()

    def mutate(self, genotype: Genotype, random: Random) -> Genotype:
        return self._step(Genes.of(genotype), random).to_genotype()

    def _step(self, genes: Genes, random: Random) -> Genes:
        steps = list(_steps(genes, self.shape))
        areas = sorted({area for area, _ in steps})
        area = random.choice(areas)
        return random.choice([changed for name, changed in steps if name == area])

    def neighbours(self, genotype: Genotype) -> Iterator[Genotype]:
        for _, changed in _steps(Genes.of(genotype), self.shape):
            yield changed.to_genotype()

    def decisions(self) -> tuple[Decision, ...]:
        """Fixed slots: those of stages that a network does not have are passed over."""
        return tuple(Decision(name, kind, tuple(map(str, values))) for name, kind, values in self._slots())

    def _slots(self) -> Iterator[tuple[str, str, tuple[Any, ...]]]:
        """Name, kind and values of each decision. Widths are proportions; `size` says how large the network is."""
        yield "size", "size", SIZES
        yield "stem_kernel", "stem_kernel", STEM_KERNELS
        yield "stem_stride", "stem_stride", STEM_STRIDES
        yield "activation", "activation", tuple(ACTIVATIONS)
        yield "pooling", "pooling", tuple(POOLINGS)
        yield "stages", "stages", tuple(range(STAGES_MIN, STAGES_MAX + 1))
        for place in range(STAGES_MAX):
            for kind, values in (("width", WIDTHS), ("depth", DEPTHS), ("kernel", KERNELS), ("block", BLOCKS)):
                yield f"stages[{place}].{kind}", kind, tuple(values)
        yield "recipe.side", "side", sides_for(self.shape)
        yield "recipe.start_side", "start_side", START_SIDES
        for name, ladder in _LADDERS.items():
            yield f"recipe.{name}", name, ladder
        yield "recipe.flip", "flip", (False, True)

    def tokens(self, genotype: Genotype) -> tuple[int, ...]:
        """The nearest choices where a value lies between them."""
        genes = Genes.of(genotype)
        values = asdict(genes) | {f"recipe.{name}": value for name, value in asdict(genes.recipe).items()}
        values["size"] = self.cost(genotype).flops / self.flops
        values["stages"] = len(genes.stages)
        values["recipe.start_side"] = genes.recipe.start_side / genes.recipe.side
        for place in range(STAGES_MAX):
            stage = genes.stages[min(place, len(genes.stages) - 1)]
            values |= {f"stages[{place}].{name}": value for name, value in asdict(stage).items()}
        return tuple(_nearest(values[name], choices) for name, _, choices in self._slots())

    def from_tokens(self, tokens: Sequence[int]) -> Genotype:
        """Brought to the chosen size by its widths. Where the choices leave nothing of the picture, the first
        resolution is raised, then stages are left out, then the stem takes every position.

        Raises ValueError for another number of tokens than there are decisions.
        """
        slots = list(self._slots())
        if len(tokens) != len(slots):
            raise ValueError(f"{len(tokens)} tokens; {len(slots)} are needed")
        chosen = {name: values[token % len(values)] for token, (name, _, values) in zip(tokens, slots, strict=True)}
        side, share = chosen["recipe.side"], chosen["recipe.start_side"]
        recipe = Recipe(
            side=side,
            start_side=max(min(8, side), _even(share * side)) if share < 1 else side,
            flip=chosen["recipe.flip"],
            **{name: chosen[f"recipe.{name}"] for name in _LADDERS},
        )
        stages = tuple(
            Stage(**{name: chosen[f"stages[{place}].{name}"] for name in ("width", "depth", "kernel", "block")})
            for place in range(chosen["stages"])
        )
        genes = Genes(
            chosen["stem_kernel"], chosen["stem_stride"], stages, chosen["activation"], chosen["pooling"], recipe
        )
        return fitted(_seeing(genes), self.shape, int(chosen["size"] * self.flops)).to_genotype()

    def scaled(self, genotype: Genotype, flops: int) -> Genotype:
        """The same network with other widths. Its resolution is a gene of its own, and given up only where the pictures
        are smaller; then the last stages go as well if they would see nothing."""
        genes = Genes.of(genotype)
        recipe = genes.recipe
        side = min(recipe.side, self.shape.side)
        start = min(side, max(8, _even(side * recipe.start_side / recipe.side)))
        genes = replace(genes, recipe=replace(recipe, side=side, start_side=start))
        if _resolutions(genes, start)[-1] < 1:
            start = side
            genes = replace(genes, recipe=replace(genes.recipe, start_side=start))
        while _resolutions(genes, start)[-1] < 1 and len(genes.stages) > STAGES_MIN:
            genes = replace(genes, stages=genes.stages[:-1])
        return fitted(genes, self.shape, flops).to_genotype()

    def key(self, genotype: Genotype) -> str:
        """One convolution cannot be bridged, so a stage of depth 1 has but one kind of block beside `separable`."""
        genes = Genes.of(genotype)
        stages = tuple(
            Stage(s.width, s.depth, s.kernel, "plain") if s.depth == 1 and s.block == "residual" else s
            for s in genes.stages
        )
        return (
            Genes(genes.stem_kernel, genes.stem_stride, stages, genes.activation, genes.pooling, genes.recipe)
            .to_genotype()
            .digest()
        )

    def features(self, genotype: Genotype) -> NDArray[np.float32]:
        """(F,): logarithms of sizes, one-hot choices; absent stages are zeros."""
        genes, cost = Genes.of(genotype), self.cost(genotype)
        recipe = genes.recipe
        row = [math.log10(cost.params), math.log10(cost.flops), len(genes.stages)]
        row += [genes.stem_kernel, genes.stem_stride]
        row += [float(genes.activation == name) for name in ACTIVATIONS]
        row += [float(genes.pooling == name) for name in POOLINGS]
        for place in range(STAGES_MAX):
            stage = genes.stages[place] if place < len(genes.stages) else None
            row += [math.log2(stage.width), stage.depth, stage.kernel] if stage else [0, 0, 0]
            row += [float(stage is not None and stage.block == name) for name in BLOCKS]
        row += [recipe.side / self.shape.side, recipe.start_side / recipe.side, math.log2(recipe.batch_size)]
        row += [math.log2(recipe.learning_rate), recipe.weight_decay, recipe.label_smoothing, float(recipe.flip)]
        row += [recipe.translate, recipe.cutout, recipe.balance]
        return np.asarray(row, dtype=np.float32)

    def check(self, genotype: Genotype) -> None:
        genes = Genes.of(genotype)
        recipe = genes.recipe
        _legal("stem_kernel", genes.stem_kernel, STEM_KERNELS)
        _legal("stem_stride", genes.stem_stride, STEM_STRIDES)
        _legal("activation", genes.activation, ACTIVATIONS)
        _legal("pooling", genes.pooling, POOLINGS)
        if not STAGES_MIN <= len(genes.stages) <= STAGES_MAX:
            raise InvalidGenotypeError(
                f"stages has {len(genes.stages)} entries; {STAGES_MIN} to {STAGES_MAX} are possible"
            )
        for place, stage in enumerate(genes.stages):
            _legal(f"stages[{place}].width", stage.width, range(8, WIDTHS[-1] + 1, 8))
            _legal(f"stages[{place}].depth", stage.depth, DEPTHS)
            _legal(f"stages[{place}].kernel", stage.kernel, KERNELS)
            _legal(f"stages[{place}].block", stage.block, BLOCKS)
        if not isinstance(recipe.side, int) or not min(SIDE_MIN, self.shape.side) <= recipe.side <= self.shape.side:
            raise InvalidGenotypeError(f"recipe.side is {recipe.side!r}; {SIDE_MIN} to {self.shape.side} are possible")
        if not isinstance(recipe.start_side, int) or not 8 <= recipe.start_side <= recipe.side:
            raise InvalidGenotypeError(f"recipe.start_side is {recipe.start_side!r}; 8 to {recipe.side} are possible")
        _legal("recipe.batch_size", recipe.batch_size, range(8, 2049))
        for name, low, high in (
            ("learning_rate", 0.01, 20.0), ("weight_decay", 0.0, 100.0), ("label_smoothing", 0.0, 0.5),
            ("translate", 0.0, 0.5), ("cutout", 0.0, 0.9), ("balance", 0.0, 1.0),
        ):  # fmt: skip
            value = getattr(recipe, name)
            if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
                raise InvalidGenotypeError(f"recipe.{name} is {value!r}; {low} to {high} are possible")
        if not isinstance(recipe.flip, bool):
            raise InvalidGenotypeError(f"recipe.flip is {recipe.flip!r}; true and false are possible")
        if _resolutions(genes, recipe.start_side)[-1] < 1:
            raise InvalidGenotypeError(
                f"stages has {len(genes.stages)} entries, which leave nothing of {recipe.start_side} pixels; fewer or a larger "
                "recipe.start_side are possible"
            )

    def cost(self, genotype: Genotype) -> Cost:
        return cost_of(Genes.of(genotype), self.shape)

    def recipe(self, genotype: Genotype) -> Recipe:
        return Genes.of(genotype).recipe

    def least_side(self, genotype: Genotype) -> int:
        genes = Genes.of(genotype)
        start = genes.recipe.start_side
        return next((side for side in range(1, start) if _resolutions(genes, side)[-1] >= 1), start)

    def build(self, genotype: Genotype) -> nn.Module:
        self.check(genotype)
        return StagesNetwork(Genes.of(genotype), self.shape)

    def describe(self, genotype: Genotype) -> str:
        genes, cost = Genes.of(genotype), self.cost(genotype)
        stages = ", ".join(
            f"{s.depth} × {s.kernel}×{s.kernel} to {s.width} channels" + ("" if s.block == "plain" else f" ({s.block})")
            for s in genes.stages
        )
        stem = f"{genes.stem_kernel}×{genes.stem_kernel} whitening stem" + (
            f" of stride {genes.stem_stride}" if genes.stem_stride > 1 else ""
        )
        return (
            f"A convolutional network that sees {genes.recipe.side}×{genes.recipe.side} pictures: {stem}, then "
            f"{len(genes.stages)} stages ({stages}) with {genes.activation.upper().replace('SILU', 'SiLU')} and "
            f"{_POOLING_WORDS[genes.pooling]}; {_short(cost.params)} parameters, {_short(cost.flops)} multiply-adds."
        )

    def to_python(self, genotype: Genotype) -> str:
        """A class for each stage, and `Network`."""
        self.check(genotype)
        genes = Genes.of(genotype)
        side, channels = genes.recipe.side, whitened_channels(self.shape.channels, genes.stem_kernel)
        sides, classes, inputs = _resolutions(genes, side), list[str](), channels
        for number, stage in enumerate(genes.stages, 1):
            classes.append(_stage_source(number, inputs, stage, genes, sides[number]).strip("\n"))
            inputs = stage.width
        stem = f"{self.shape.channels}, {channels}, {genes.stem_kernel}, stride={genes.stem_stride}"
        names = ", ".join(f"Stage{number}()" for number in range(1, len(genes.stages) + 1))
        network = f'''
class Network(nn.Module):
    """Normalised pictures (B, {self.shape.channels}, S, S) to logits (B, {self.shape.classes}); trained at S = {side}."""

    def __init__(self):
        super().__init__()
        self.whitening = nn.Conv2d({stem})  # decorrelates patches of the training pictures
        self.whitening.weight.requires_grad_(False)
        self.stages = nn.Sequential({names})
        self.head = nn.Linear({inputs}, {self.shape.classes})

    def forward(self, images: Tensor) -> Tensor:
        x = F.{genes.activation}(self.whitening(images))  # (B, {channels}, {sides[0]}, {sides[0]})
        x = self.stages(x)  # (B, {inputs}, {sides[-1]}, {sides[-1]})
        x = x.amax((2, 3))  # (B, {inputs})
        return self.head(x) / {inputs}
'''
        return module_of(self.describe(genotype), "\n\n\n".join([*classes, network.strip("\n")]))


def _stage_source(number: int, inputs: int, stage: Stage, genes: Genes, side: int) -> str:
    """side: of the stage's answer."""
    width, strided = stage.width, genes.pooling == "stride"
    activation = f"nn.{type(ACTIVATIONS[genes.activation]()).__name__}()"
    made = [f"self.first = {_conv_source(inputs, stage, 2 if strided else 1)}"]
    if not strided:
        made.append(f"self.pool = nn.{'MaxPool2d' if genes.pooling == 'max' else 'AvgPool2d'}(2)")
    made.append(f"self.norm = Norm({width})")
    x = "self.first(x)" if strided else "self.pool(self.first(x))"
    lines = [f"x = F.{genes.activation}(self.norm({x}))  # (B, {width}, {side}, {side})"]
    rest = []
    for place in range(stage.depth - 1):
        rest += [f"{activation},"] if place else []
        rest += [f"{_conv_source(width, stage)},", f"Norm({width}),"]
    if rest:
        made += ["self.rest = nn.Sequential(", *(f"    {line}" for line in rest), ")"]
        deeper = "self.rest(x)" if stage.block == "plain" else "x + self.rest(x)"
        lines.append(f"return F.{genes.activation}({deeper})")
    else:
        lines.append("return x")
    return f"""
class Stage{number}(nn.Module):
    def __init__(self):
        super().__init__()
{indented(made, 2)}

    def forward(self, x: Tensor) -> Tensor:
{indented(lines, 2)}
"""


def _conv_source(inputs: int, stage: Stage, stride: int = 1) -> str:
    rest = f"{stage.kernel}{', stride=2' if stride == 2 else ''}"
    if stage.block == "separable":
        return f"separable_convolution({inputs}, {stage.width}, {rest})"
    return f"nn.Conv2d({inputs}, {stage.width}, {rest}, padding={stage.kernel // 2}, bias=False)"


_POOLING_WORDS = {"max": "max pooling", "average": "average pooling", "stride": "strided convolutions"}


def _short(number: int) -> str:
    for unit, size in (("G", 10**9), ("M", 10**6), ("k", 10**3)):
        if number >= size:
            return f"{number / size:.3g} {unit}"
    return str(number)


def _fields(place: str, value: Json, kind: type[Genes | Stage | Recipe]) -> dict[str, Any]:
    """An object of the fields of `kind`; those that have a default may be left out."""
    known = fields(kind)
    needed = {each.name for each in known if each.default is MISSING}
    if not isinstance(value, dict) or not needed <= value.keys() <= {each.name for each in known}:
        names = ", ".join(each.name for each in known)
        raise InvalidGenotypeError(f"{place} is {value!r}; needed: an object of {names}")
    return dict(value)


def _legal(place: str, value: Json, choices: Any) -> None:
    possible = tuple(choices)
    if type(value) is not type(possible[0]) or value not in possible:  # 2.0 is none of 1, 2, 3, nor True 1
        listed = f"{choices[0]} to {choices[-1]}" if isinstance(choices, range) else ", ".join(map(str, choices))
        raise InvalidGenotypeError(f"{place} is {value!r}; possible: {listed}")


# ---------------------------------------------------------------------------------------------- sizes


def whitened_channels(channels: int, kernel: int) -> int:
    return 2 * min(channels * kernel**2, _WHITENED_MAX)


def _resolutions(genes: Genes, side: int) -> list[int]:
    """Side of the maps after the stem and after each stage's pooling."""
    sides = [(side - genes.stem_kernel) // genes.stem_stride + 1]
    for _ in genes.stages:
        sides.append((sides[-1] + 1) // 2 if genes.pooling == "stride" else sides[-1] // 2)
    return sides


def cost_of(genes: Genes, shape: Shape, side: int | None = None) -> Cost:
    """At the recipe's resolution or another."""
    sides = _resolutions(genes, side or genes.recipe.side)
    channels = whitened_channels(shape.channels, genes.stem_kernel)
    params = channels
    flops = channels * shape.channels * genes.stem_kernel**2 * sides[0] ** 2
    activations = 2 * channels * sides[0] ** 2
    for stage, before, after in zip(genes.stages, sides, sides[1:], strict=False):
        for place in range(stage.depth):
            out = stage.width
            filters = (
                channels * stage.kernel**2 + channels * out
                if stage.block == "separable"
                else channels * out * stage.kernel**2
            )
            area = before**2 if place == 0 and genes.pooling != "stride" else after**2
            params += filters + out
            flops += filters * area
            activations += (channels * area if stage.block == "separable" else 0) + out * area + 2 * out * after**2
            channels = out
    params += channels * shape.classes + shape.classes
    flops += channels * shape.classes
    return Cost(params, flops, activations)


# ---------------------------------------------------------------------------------------------- moves


def _steps(genes: Genes, shape: Shape) -> Iterator[tuple[str, Genes]]:
    """All single changes that keep a genotype legal, each with the area it belongs to."""
    for area, changed in _all_steps(genes, shape):
        if (
            changed.recipe.start_side <= changed.recipe.side
            and _resolutions(changed, changed.recipe.start_side)[-1] >= 1
        ):
            yield area, changed


def _all_steps(genes: Genes, shape: Shape) -> Iterator[tuple[str, Genes]]:
    for kernel in _beside(genes.stem_kernel, STEM_KERNELS):
        yield "stem", replace(genes, stem_kernel=kernel)
    for stride in _beside(genes.stem_stride, STEM_STRIDES):
        yield "stem", replace(genes, stem_stride=stride)
    for activation in ACTIVATIONS:
        if activation != genes.activation:
            yield "activation", replace(genes, activation=activation)
    for pooling in POOLINGS:
        if pooling != genes.pooling:
            yield "activation", replace(genes, pooling=pooling)
    for place, stage in enumerate(genes.stages):
        for width in _beside(stage.width, WIDTHS):
            yield "width", _with_stage(genes, place, replace(stage, width=width))
        for depth in _beside(stage.depth, DEPTHS):
            yield "depth", _with_stage(genes, place, replace(stage, depth=depth))
        for kernel in _beside(stage.kernel, KERNELS):
            yield "kernel", _with_stage(genes, place, replace(stage, kernel=kernel))
        for block in BLOCKS:
            if block != stage.block:
                yield "block", _with_stage(genes, place, replace(stage, block=block))
    if len(genes.stages) < STAGES_MAX:
        yield "stages", replace(genes, stages=(*genes.stages, genes.stages[-1]))
    if len(genes.stages) > STAGES_MIN:
        yield "stages", replace(genes, stages=genes.stages[:-1])
    recipe = genes.recipe
    for side in _beside(recipe.side, sides_for(shape)):
        start = max(8, _even(side * recipe.start_side / recipe.side))
        yield "resolution", replace(genes, recipe=replace(recipe, side=side, start_side=min(side, start)))
    for share in START_SIDES:
        start = max(8, _even(share * recipe.side)) if share < 1 else recipe.side
        if start != recipe.start_side:
            yield "resolution", replace(genes, recipe=replace(recipe, start_side=start))
    for name, ladder in _LADDERS.items():
        area = "augmentation" if name in ("translate", "cutout") else "training"
        for value in _beside(getattr(recipe, name), ladder):
            yield area, replace(genes, recipe=replace(recipe, **{name: value}))
    yield "augmentation", replace(genes, recipe=replace(recipe, flip=not recipe.flip))


def _beside(value: float, ladder: tuple[Any, ...]) -> list[Any]:
    """The rungs next to `value`, which need not be a rung itself."""
    below, above = [v for v in ladder if v < value], [v for v in ladder if v > value]
    return below[-1:] + above[:1]


def _nearest(value: Any, choices: tuple[Any, ...]) -> int:
    if value in choices:
        return choices.index(value)
    return min(range(len(choices)), key=lambda place: float(abs(choices[place] - value)))


def _seeing(genes: Genes) -> Genes:
    """The genes, changed where they would leave nothing of a picture at the first resolution."""
    side = genes.recipe.side
    while _resolutions(genes, genes.recipe.start_side)[-1] < 1:
        if genes.recipe.start_side < side:
            genes = replace(genes, recipe=replace(genes.recipe, start_side=side))
        elif len(genes.stages) > STAGES_MIN:
            genes = replace(genes, stages=genes.stages[:-1])
        else:  # of 8 pixels, the fewest there are, this leaves one
            return replace(genes, stem_stride=STEM_STRIDES[0], stem_kernel=STEM_KERNELS[0])
    return genes


def _with_stage(genes: Genes, place: int, stage: Stage) -> Genes:
    return replace(genes, stages=(*genes.stages[:place], stage, *genes.stages[place + 1 :]))


def _even(value: float) -> int:
    return 2 * round(value / 2)


def sides_for(shape: Shape) -> tuple[int, ...]:
    """Resolutions worth training at: the packed one and steps of about a quarter below it."""
    ladder = (16, 20, 24, 28, 32, 40, 48, 64, 80, 96, 128)
    return (*(s for s in ladder if s < shape.side), shape.side)


def fitted(genes: Genes, shape: Shape, flops: int) -> Genes:
    """The same network, its widths scaled (to multiples of 8) so that it has at most about `flops` multiply-adds."""
    low, high, best = 0.05, 8.0, genes
    for _ in range(12):
        factor = math.sqrt(low * high)
        stages = tuple(replace(s, width=min(WIDTHS[-1], max(8, 8 * round(s.width * factor / 8)))) for s in genes.stages)
        best = replace(genes, stages=stages)
        if cost_of(best, shape).flops > flops:
            high = factor
        else:
            low = factor
    stages = tuple(replace(s, width=min(WIDTHS[-1], max(8, 8 * round(s.width * low / 8)))) for s in genes.stages)
    return replace(genes, stages=stages)


def reference(shape: Shape, flops: int, side: int | None = None) -> Genes:
    """The airbench-like network that we would try first, with at most about `flops` multiply-adds.

    Resolution is given up, first in the stem and then in the pictures, before the widths become too small to learn.
    side: the resolution, where it is not to be chosen.
    """
    sides = [side] if side else [s for s in reversed(sides_for(shape)) if s <= _REFERENCE_SIDE] or [shape.side]
    best: Genes | None = None
    for chosen in sides:
        for stride in STEM_STRIDES if chosen <= _STRIDED_SIDE else STEM_STRIDES[:1]:
            genes = fitted(_plain(shape, chosen, stride), shape, flops)
            if genes.stages[0].width >= (_REFERENCE_WIDTH_LARGE if chosen // stride > 32 else _REFERENCE_WIDTH_LEAST):
                return genes
            best = genes
    assert best is not None
    return best


def _plain(shape: Shape, side: int, stride: int) -> Genes:
    count = max(STAGES_MIN, min(STAGES_MAX, round(math.log2(side / stride / 4))))
    return Genes(
        stem_kernel=2 if stride == 1 and shape.channels == 3 else 3,
        stem_stride=stride,
        stages=tuple(Stage(width, 2, 3, "plain") for width in (64, 128, 256, 256, 256)[:count]),
        activation="gelu",
        pooling="max",
        recipe=Recipe(
            side=side,
            start_side=_even(_REFERENCE_START * side) if side // stride >= _REFERENCE_GROWS_FROM else side,
            batch_size=64,
            learning_rate=1.4,
        ),
    )


# ---------------------------------------------------------------------------------------------- networks


class Whitening(nn.Conv2d):
    """A convolution whose filters decorrelate patches of the training pictures; frozen, its bias is learned."""

    def __init__(self, channels: int, kernel: int, stride: int):
        super().__init__(channels, whitened_channels(channels, kernel), kernel, stride)
        self.weight.requires_grad_(False)
        self.bias = nn.Parameter(torch.zeros(self.out_channels))

    def fit(self, images: Tensor) -> None:
        """Sets the filters from the patches of normalised training pictures: float (N, C, H, W)."""
        kernel, channels = self.kernel_size[0], self.in_channels
        patches = F.unfold(images.float(), kernel, stride=kernel).transpose(1, 2).reshape(-1, channels * kernel**2)
        values, vectors = torch.linalg.eigh(patches.T.double() @ patches.double() / len(patches))
        count = self.out_channels // 2
        vectors, values = vectors.T.flip(0)[:count], values.flip(0)[:count]  # largest first
        filters = (vectors / (values[:, None] + _WHITENING_EPS).sqrt()).float().reshape(-1, channels, kernel, kernel)
        with torch.no_grad():
            self.weight.copy_(torch.cat([filters, -filters]))


class Norm(nn.BatchNorm2d):
    """Batch normalisation without a scale: the next convolution's filters have one. Quick running averages."""

    def __init__(self, channels: int):
        super().__init__(channels, eps=1e-5, momentum=0.2)
        self.weight.requires_grad_(False)


class SeparableConv(nn.Sequential):
    """A convolution of each channel alone, then one across channels."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int = 1):
        super().__init__(
            nn.Conv2d(inputs, inputs, kernel, stride, kernel // 2, groups=inputs, bias=False),
            nn.Conv2d(inputs, outputs, 1, bias=False),
        )


def _conv(inputs: int, outputs: int, kernel: int, block: str, stride: int = 1) -> nn.Module:
    if block == "separable":
        return SeparableConv(inputs, outputs, kernel, stride)
    conv = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=False)
    with torch.no_grad():
        nn.init.dirac_(conv.weight[:inputs])  # starts as a copy of its input beside random filters, as in airbench
    return conv


class StageModule(nn.Module):
    def __init__(self, inputs: int, stage: Stage, activation: str, pooling: str):
        super().__init__()
        self.first = _conv(inputs, stage.width, stage.kernel, stage.block, 2 if pooling == "stride" else 1)
        self.pool = POOLINGS[pooling]()
        self.norm = Norm(stage.width)
        self.activation = ACTIVATIONS[activation]()
        layers: list[nn.Module] = []
        for place in range(stage.depth - 1):
            layers += [self.activation] if place else []
            layers += [_conv(stage.width, stage.width, stage.kernel, stage.block), Norm(stage.width)]
        self.rest = nn.Sequential(*layers) if layers else None
        self.bridged = stage.block != "plain" and stage.depth > 1

    def forward(self, x: Tensor) -> Tensor:
        x = self.activation(self.norm(self.pool(self.first(x))))  # (B, width, S/2, S/2)
        if self.rest is None:
            return x
        deeper = self.rest(x)
        out: Tensor = self.activation(x + deeper if self.bridged else deeper)
        return out


class StagesNetwork(nn.Module):
    """float (B, C, S, S), normalised, of any S from the space's `least_side` on, to logits (B, classes)."""

    def __init__(self, genes: Genes, shape: Shape):
        super().__init__()
        self.whitening = Whitening(shape.channels, genes.stem_kernel, genes.stem_stride)
        self.activation = ACTIVATIONS[genes.activation]()
        widths = [self.whitening.out_channels, *(stage.width for stage in genes.stages)]
        self.stages = nn.Sequential(
            *(
                StageModule(inputs, stage, genes.activation, genes.pooling)
                for inputs, stage in zip(widths, genes.stages, strict=False)
            )
        )
        self.head = nn.Linear(widths[-1], shape.classes)
        nn.init.normal_(self.head.weight, std=1.0)
        nn.init.zeros_(self.head.bias)
        self.scale = 1 / widths[-1]

    def fit_to(self, images: Tensor) -> None:
        """Called once before training with normalised training pictures: float (N, C, side, side)."""
        self.whitening.fit(images)

    def forward(self, images: Tensor) -> Tensor:
        x = self.stages(self.activation(self.whitening(images)))
        logits: Tensor = self.head(x.amax((2, 3))) * self.scale
        return logits
