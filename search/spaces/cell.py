"""NASNet's space: two small cells, a normal one and a reduction one, stacked into a network.

Zoph et al. 2018, arXiv:1707.07012. A cell has `blocks` blocks. Each takes two of the states so far (the outputs of the
two cells before, and of earlier blocks), applies an operation to each and adds the results (PNAS and ENAS fixed this
combination; NASNet could also concatenate). States that no block took are concatenated: the cell's output. In a
reduction cell operations on the two inputs have stride 2. Network: a 3×3 convolution, N normal cells, a reduction,
N normal, a reduction, N normal, the mean over the map, one linear layer; filters double at each reduction.

Departures: normalisation has a shift but no scale, and the head's start is that of space `stages`, as the trainer's
optimizer expects; no auxiliary head.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from itertools import groupby, permutations, product
from random import Random

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from search.space import Cost, Genotype, InvalidGenotypeError, Json, Recipe, Shape

NAME = "cell"
CELLS = ("normal", "reduction")
REDUCTIONS = 2
_MUTATE_TRIES = 100  # a change that makes no difference is drawn again; only a space of one member has no other

OP_SETS: Mapping[str, tuple[str, ...]] = {
    # Dense convolutions: what a processor with matrix units runs well; separable ones gain little on it.
    "fast": ("identity", "conv1x1", "conv3x3", "avg3x3", "max3x3"),
    "enas": ("identity", "sep3x3", "sep5x5", "avg3x3", "max3x3"),
    "pnas": ("identity", "sep3x3", "sep5x5", "sep7x7", "conv1x7_7x1", "avg3x3", "max3x3", "dil3x3"),
    "nasnet": (
        "identity", "conv1x3_3x1", "conv1x7_7x1", "dil3x3", "avg3x3", "max3x3", "max5x5", "max7x7",
        "conv1x1", "conv3x3", "sep3x3", "sep5x5", "sep7x7",
    ),
}  # fmt: skip


# ---------------------------------------------------------------------------------------------- genes


@dataclass(frozen=True, slots=True, order=True)
class Block:
    """inputs: two states, 0 the output of the cell before the last, 1 of the last, 2 + i of block i."""

    inputs: tuple[int, int]
    ops: tuple[str, str]

    def with_input(self, half: int, state: int) -> "Block":
        return replace(self, inputs=(state, self.inputs[1]) if half == 0 else (self.inputs[0], state))

    def with_op(self, half: int, op: str) -> "Block":
        return replace(self, ops=(op, self.ops[1]) if half == 0 else (self.ops[0], op))


Cell = tuple[Block, ...]


@dataclass(frozen=True, slots=True)
class Genes:
    """The genes of a genotype, typed."""

    normal: Cell
    reduction: Cell

    def to_genotype(self) -> Genotype:
        return Genotype.of(
            NAME,
            {
                name: [{"inputs": list(block.inputs), "ops": list(block.ops)} for block in cell]
                for name, cell in zip(CELLS, self, strict=True)
            },
        )

    def __iter__(self) -> Iterator[Cell]:
        return iter((self.normal, self.reduction))

    @classmethod
    def of(cls, genotype: Genotype) -> "Genes":
        """Raises InvalidGenotypeError for what is not two lists of blocks; legal values are the space's matter."""
        if genotype.space != NAME:
            raise InvalidGenotypeError(f"a genotype of space {genotype.space!r} was given to space {NAME!r}")
        genes = genotype.genes
        if set(genes) != set(CELLS):
            raise InvalidGenotypeError(f"genes are {', '.join(sorted(genes)) or 'empty'}; needed: {', '.join(CELLS)}")
        return cls(*(_cell_of(name, genes[name]) for name in CELLS))


def _cell_of(name: str, blocks: Json) -> Cell:
    if not isinstance(blocks, list):
        raise InvalidGenotypeError(f"{name} is {blocks!r}; needed: a list of blocks")
    return tuple(_block_of(f"{name}[{number}]", block) for number, block in enumerate(blocks))


def _block_of(place: str, block: Json) -> Block:
    pairs = isinstance(block, Mapping) and set(block) == {"inputs", "ops"}
    if not pairs or any(not isinstance(pair, list) or len(pair) != 2 for pair in block.values()):
        raise InvalidGenotypeError(f'{place} is {block!r}; needed: {{"inputs": [state, state], "ops": [name, name]}}')
    return Block((block["inputs"][0], block["inputs"][1]), (block["ops"][0], block["ops"][1]))


def _unused(cell: Cell) -> list[int]:
    """States that no block takes: the cell's output."""
    used = {state for block in cell for state in block.inputs}
    return [state for state in range(len(cell) + 2) if state not in used]


@lru_cache(maxsize=4096)
def _canonical(cell: Cell) -> Cell:
    """The same cell with its blocks and each block's two halves in a fixed order; equal exactly for isomorphic cells.

    A block's term spells out what it computes from the inputs, and blocks go by its depth and text. Blocks of equal
    terms are copies with weights of their own, so who takes which of them matters: of the orders among them the one
    that reads smallest is taken.
    """
    terms: list[tuple[int, str]] = [(0, "a"), (0, "b")]
    for block in cell:
        halves = sorted((terms[state][1], op) for state, op in zip(block.inputs, block.ops, strict=True))
        depth = 1 + max(terms[state][0] for state in block.inputs)
        terms.append((depth, "(" + "+".join(f"{op}{term}" for term, op in halves) + ")"))
    order = sorted(range(2, len(terms)), key=lambda state: (terms[state], state))
    ties = [list(group) for _, group in groupby(order, key=lambda state: terms[state])]
    return min(
        _renumbered(cell, [state for group in choice for state in group])
        for choice in product(*(permutations(group) for group in ties))
    )


def _renumbered(cell: Cell, order: Sequence[int]) -> "Cell":
    names = {0: 0, 1: 1} | {state: 2 + place for place, state in enumerate(order)}
    blocks = []
    for state in order:
        block = cell[state - 2]
        first, second = sorted(zip((names[i] for i in block.inputs), block.ops, strict=True))
        blocks.append(Block((first[0], second[0]), (first[1], second[1])))
    return tuple(blocks)


# ---------------------------------------------------------------------------------------------- operations


def _halved(side: int) -> int:
    return (side + 1) // 2


class Norm(nn.BatchNorm2d):
    """Batch normalisation with a shift alone; quick running averages."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels, momentum=0.2)
        self.weight.requires_grad_(False)


@dataclass(frozen=True, slots=True)
class Convolution:
    """ReLU, convolution, normalisation. separable: each channel alone, then 1×1 across channels."""

    height: int
    width: int
    dilation: int = 1
    separable: bool = False

    def cost(self, inputs: int, outputs: int, side: int, stride: int) -> Cost:
        out = side if stride == 1 else _halved(side)
        window = self.height * self.width
        filters = inputs * window + inputs * outputs if self.separable else inputs * outputs * window
        kept = inputs * side**2 + outputs * out**2 + (inputs * out**2 if self.separable else 0)
        return Cost(filters + outputs, filters * out**2, kept)

    def build(self, inputs: int, outputs: int, stride: int) -> nn.Module:
        kernel = (self.height, self.width)
        padding = (self.dilation * (self.height // 2), self.dilation * (self.width // 2))
        layers: list[nn.Module] = [nn.ReLU()]
        groups = inputs if self.separable else 1
        first = inputs if self.separable else outputs
        layers.append(nn.Conv2d(inputs, first, kernel, stride, padding, self.dilation, groups, bias=False))
        if self.separable:
            layers.append(nn.Conv2d(inputs, outputs, 1, bias=False))
        return nn.Sequential(*layers, Norm(outputs))


@dataclass(frozen=True, slots=True)
class Pooling:
    kind: str
    size: int

    def cost(self, _inputs: int, outputs: int, side: int, stride: int) -> Cost:
        out = side if stride == 1 else _halved(side)
        kept = 2 * outputs * out**2 if self.kind == "max" else 0  # the places of the maxima are 64 bits each
        return Cost(0, 0, kept)

    def build(self, _inputs: int, _outputs: int, stride: int) -> nn.Module:
        if self.kind == "max":
            return nn.MaxPool2d(self.size, stride, self.size // 2)
        return nn.AvgPool2d(self.size, stride, self.size // 2, count_include_pad=False)


@dataclass(frozen=True, slots=True)
class Identity:
    """Nothing; at stride 2 a `Shrinking`."""

    def cost(self, inputs: int, outputs: int, side: int, stride: int) -> Cost:
        return Cost(0, 0, 0) if stride == 1 else Shrinking().cost(inputs, outputs, side, stride)

    def build(self, inputs: int, outputs: int, stride: int) -> nn.Module:
        return nn.Identity() if stride == 1 else Shrinking().build(inputs, outputs, stride)


@dataclass(frozen=True, slots=True)
class Shrinking:
    """Half the resolution without losing every other pixel: two 1×1 convolutions of stride 2, one shifted by a pixel."""

    def cost(self, inputs: int, outputs: int, side: int, _stride: int) -> Cost:
        area = _halved(side) ** 2
        kept = inputs * side**2 + inputs * (side + 1) ** 2 + outputs * area
        return Cost(inputs * outputs + outputs, inputs * outputs * area, kept)

    def build(self, inputs: int, outputs: int, _stride: int) -> nn.Module:
        return _Shrinking(inputs, outputs)


class _Shrinking(nn.Module):
    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.straight = nn.Conv2d(inputs, outputs // 2, 1, stride=2, bias=False)
        self.shifted = nn.Conv2d(inputs, outputs - outputs // 2, 1, stride=2, bias=False)
        self.norm = Norm(outputs)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(x)
        shifted = F.pad(x, (0, 1, 0, 1))[:, :, 1:, 1:]  # (B, inputs, S, S), the picture moved up and left
        out: Tensor = self.norm(torch.cat([self.straight(x), self.shifted(shifted)], 1))  # (B, outputs, ⌈S/2⌉, ⌈S/2⌉)
        return out


Part = Convolution | Pooling | Identity | Shrinking

OPS: Mapping[str, tuple[Part, ...]] = {
    "identity": (Identity(),),
    "conv1x1": (Convolution(1, 1),),
    "conv3x3": (Convolution(3, 3),),
    "conv1x3_3x1": (Convolution(1, 3), Convolution(3, 1)),
    "conv1x7_7x1": (Convolution(1, 7), Convolution(7, 1)),
    "dil3x3": (Convolution(3, 3, dilation=2),),
    "sep3x3": (Convolution(3, 3, separable=True),) * 2,
    "sep5x5": (Convolution(5, 5, separable=True),) * 2,
    "sep7x7": (Convolution(7, 7, separable=True),) * 2,
    "avg3x3": (Pooling("avg", 3),),
    "max3x3": (Pooling("max", 3),),
    "max5x5": (Pooling("max", 5),),
    "max7x7": (Pooling("max", 7),),
}


# ---------------------------------------------------------------------------------------------- layout


@dataclass(frozen=True, slots=True)
class Edge:
    """Parts applied one after the other: the first from `inputs` channels at `side` with `stride`, the rest within."""

    parts: tuple[Part, ...]
    inputs: int
    outputs: int
    side: int
    stride: int = 1

    def costs(self) -> Iterator[Cost]:
        inputs, side, stride = self.inputs, self.side, self.stride
        for part in self.parts:
            yield part.cost(inputs, self.outputs, side, stride)
            inputs, side, stride = self.outputs, side if stride == 1 else _halved(side), 1

    def build(self) -> nn.Module:
        inputs, stride, layers = self.inputs, self.stride, []
        for part in self.parts:
            layers.append(part.build(inputs, self.outputs, stride))
            inputs, stride = self.outputs, 1
        return layers[0] if len(layers) == 1 else nn.Sequential(*layers)


@dataclass(frozen=True, slots=True)
class CellLayout:
    """One cell in its place. entries: bring the two inputs to one shape. blocks: pairs of edges with their states.
    outputs: what is concatenated, with the edge that brings it to the cell's own resolution."""

    entries: tuple[Edge, Edge]
    blocks: tuple[tuple[tuple[int, Edge], tuple[int, Edge]], ...]
    outputs: tuple[tuple[int, Edge], ...]
    filters: int
    side: int

    @property
    def channels(self) -> int:
        return self.filters * len(self.outputs)

    def edges(self) -> Iterator[Edge]:
        yield from self.entries
        for (_, one), (_, other) in self.blocks:
            yield one
            yield other
        for _, edge in self.outputs:
            yield edge


def _laid_out(cell: Cell, filters: int, before: tuple[int, int], last: tuple[int, int], shrinks: bool) -> CellLayout:
    """before, last: (channels, side) of the two inputs, the earlier first."""
    side = last[1]
    halved = _halved(side) if shrinks else side
    entries = tuple(
        Edge((Shrinking(),), channels, filters, own, 2)
        if own != side
        else Edge((Convolution(1, 1) if channels != filters else Identity(),), channels, filters, side)
        for channels, own in (before, last)
    )

    def edge(state: int, op: str) -> Edge:
        is_input = state < 2
        return Edge(OPS[op], filters, filters, side if is_input else halved, 2 if is_input and shrinks else 1)

    blocks = tuple(
        ((block.inputs[0], edge(block.inputs[0], block.ops[0])), (block.inputs[1], edge(block.inputs[1], block.ops[1])))
        for block in cell
    )
    outputs = tuple((state, edge(state, "identity")) for state in _unused(cell))
    return CellLayout((entries[0], entries[1]), blocks, outputs, filters, halved)


# ---------------------------------------------------------------------------------------------- networks


class CellModule(nn.Module):
    def __init__(self, layout: CellLayout) -> None:
        super().__init__()
        self.entries = nn.ModuleList(edge.build() for edge in layout.entries)
        self.edges = nn.ModuleList(edge.build() for block in layout.blocks for _, edge in block)
        self.exits = nn.ModuleList(edge.build() for _, edge in layout.outputs)
        self.inputs = [state for block in layout.blocks for state, _ in block]
        self.outputs = [state for state, _ in layout.outputs]

    def forward(self, before: Tensor, last: Tensor) -> Tensor:
        states = [entry(x) for entry, x in zip(self.entries, (before, last), strict=True)]
        halves = list(zip(self.inputs, self.edges, strict=True))
        for (one, op), (other, other_op) in zip(halves[::2], halves[1::2], strict=True):
            states.append(op(states[one]) + other_op(states[other]))  # (B, filters, S, S)
        return torch.cat([op(states[state]) for state, op in zip(self.outputs, self.exits, strict=True)], 1)


class CellNetwork(nn.Module):
    """float (B, C, S, S), normalised, of any S, to logits (B, classes)."""

    def __init__(self, stem: Edge, cells: Sequence[CellLayout], classes: int) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(stem.inputs, stem.outputs, 3, padding=1, bias=False), Norm(stem.outputs))
        self.cells = nn.ModuleList(CellModule(layout) for layout in cells)
        channels = cells[-1].channels
        self.head = nn.Linear(channels, classes)
        nn.init.normal_(self.head.weight, std=1.0)
        nn.init.zeros_(self.head.bias)
        self.scale = 1 / channels

    def forward(self, images: Tensor) -> Tensor:
        before = last = self.stem(images)
        for cell in self.cells:
            before, last = last, cell(before, last)
        logits: Tensor = self.head(F.relu(last).mean((2, 3))) * self.scale
        return logits


# ---------------------------------------------------------------------------------------------- space


class CellSpace:
    """See `search.space.Space`.

    blocks: B. ops: a name of OP_SETS. cells: N. filters: F, of the first cells. stem_multiplier: channels of the first
    convolution as a multiple of F. side: largest training resolution.
    """

    name = NAME

    def __init__(
        self,
        shape: Shape,
        *,
        blocks: int = 5,
        ops: str = "fast",
        cells: int = 1,
        filters: int = 16,
        stem_multiplier: int = 3,
        side: int = 32,
    ) -> None:
        self.shape = shape
        self.blocks = blocks
        self.ops = OP_SETS[ops]
        self.cells = cells
        self.filters = filters
        self.stem_multiplier = stem_multiplier
        self.side = min(side, shape.side)

    def sample(self, random: Random) -> Genotype:
        return Genes(self._sample_cell(random), self._sample_cell(random)).to_genotype()

    def _sample_cell(self, random: Random) -> Cell:
        return tuple(
            Block(
                (random.randrange(number + 2), random.randrange(number + 2)),
                (random.choice(self.ops), random.choice(self.ops)),
            )
            for number in range(self.blocks)
        )

    def mutate(self, genotype: Genotype, random: Random) -> Genotype:
        """One input or one operation of one block becomes another (Real et al. 2019, without their identity)."""
        genes, key = Genes.of(genotype), self.key(genotype)
        for _ in range(_MUTATE_TRIES):
            name = random.choice(CELLS)
            cell = list(genes.normal if name == CELLS[0] else genes.reduction)
            number, half = random.randrange(self.blocks), random.randrange(2)
            if random.random() < 0.5:
                cell[number] = cell[number].with_input(half, random.randrange(number + 2))
            else:
                cell[number] = cell[number].with_op(half, random.choice(self.ops))
            child = replace(genes, **{name: tuple(cell)}).to_genotype()
            if self.key(child) != key:
                return child
        return genotype

    def neighbours(self, genotype: Genotype) -> Iterator[Genotype]:
        genes = Genes.of(genotype)
        for name, cell in zip(CELLS, genes, strict=True):
            for number, block in enumerate(cell):
                for half in (0, 1):
                    changed = [block.with_input(half, state) for state in range(number + 2)]
                    changed += [block.with_op(half, op) for op in self.ops]
                    for other in changed:
                        if other != block:
                            cells = {name: (*cell[:number], other, *cell[number + 1 :])}
                            yield replace(genes, **cells).to_genotype()

    def key(self, genotype: Genotype) -> str:
        return Genes(*map(_canonical, Genes.of(genotype))).to_genotype().digest()

    def features(self, genotype: Genotype) -> NDArray[np.float32]:
        """(F,), equal for isomorphic cells: logarithms of sizes, then for each cell the choices one-hot, how often each
        operation occurs, on which of the two inputs it works, the depth and the width of the output."""
        cost = self.cost(genotype)
        row = [np.log10(cost.params), np.log10(max(1, cost.flops))]
        for cell in map(_canonical, Genes.of(genotype)):
            halves = [half for block in cell for half in zip(block.inputs, block.ops, strict=True)]
            for state, op in halves:
                row += [float(state == each) for each in range(self.blocks + 1)]
                row += [float(op == each) for each in self.ops]
            row += [float(sum(op == each for _, op in halves)) for each in self.ops]
            row += [float(sum(half == (state, op) for half in halves)) for state in (0, 1) for op in self.ops]
            depths = [0, 0]
            for block in cell:
                depths.append(1 + max(depths[state] for state in block.inputs))
            row += [max(depths), len(_unused(cell))]
        return np.asarray(row, dtype=np.float32)

    def check(self, genotype: Genotype) -> None:
        for name, cell in zip(CELLS, Genes.of(genotype), strict=True):
            if len(cell) != self.blocks:
                raise InvalidGenotypeError(f"{name} has {len(cell)} blocks; this space has {self.blocks}")
            for number, block in enumerate(cell):
                for half in (0, 1):
                    state, op = block.inputs[half], block.ops[half]
                    if isinstance(state, bool) or not isinstance(state, int) or not 0 <= state < number + 2:
                        raise InvalidGenotypeError(
                            f"{name}[{number}].inputs[{half}] is {state!r}; possible: 0 (the cell before the last), "
                            f"1 (the last cell){f', 2 to {number + 1} (earlier blocks)' if number else ''}"
                        )
                    if op not in self.ops:
                        raise InvalidGenotypeError(
                            f"{name}[{number}].ops[{half}] is {op!r}; possible: {', '.join(self.ops)}"
                        )

    def _layout(self, genotype: Genotype) -> list[CellLayout]:
        genes = Genes.of(genotype)
        stem = (self.stem_multiplier * self.filters, self.side)
        before, last, filters = stem, stem, self.filters
        layout = []
        for stage in range(REDUCTIONS + 1):
            for number in range(self.cells + 1):
                shrinks = number == 0
                if shrinks and stage == 0:
                    continue
                filters *= 2 if shrinks else 1
                cell = _laid_out(genes.reduction if shrinks else genes.normal, filters, before, last, shrinks)
                layout.append(cell)
                before, last = last, (cell.channels, cell.side)
        return layout

    @cached_property
    def _stem(self) -> Edge:
        return Edge((Convolution(3, 3),), self.shape.channels, self.stem_multiplier * self.filters, self.side)

    def cost(self, genotype: Genotype) -> Cost:
        layout = self._layout(genotype)
        costs = [*self._stem.costs(), *(cost for cell in layout for edge in cell.edges() for cost in edge.costs())]
        sums = sum(cell.filters * cell.side**2 * len(cell.blocks) + cell.channels * cell.side**2 for cell in layout)
        head = layout[-1].channels * self.shape.classes
        return Cost(
            params=sum(cost.params for cost in costs) + head + self.shape.classes,
            flops=sum(cost.flops for cost in costs) + head,
            activations=sum(cost.activations for cost in costs) + sums,
        )

    def recipe(self, genotype: Genotype) -> Recipe:
        """One for all. Gray pictures are mostly writing and drawings, whose mirror images are another class."""
        self.check(genotype)
        return Recipe(side=self.side, start_side=self.side, flip=self.shape.channels == 3)

    def build(self, genotype: Genotype) -> nn.Module:
        self.check(genotype)
        return CellNetwork(self._stem, self._layout(genotype), self.shape.classes)

    def describe(self, genotype: Genotype) -> str:
        layout, cost = self._layout(genotype), self.cost(genotype)
        cells = (
            f"{name} cell of {', '.join(' + '.join(block.ops) for block in cell)}"
            for name, cell in zip(CELLS, Genes.of(genotype), strict=True)
        )
        return (
            f"A network of {len(layout)} cells with {self.filters} to {layout[-1].filters} filters that sees "
            f"{self.side}×{self.side} pictures: {'; '.join(cells)}; {cost.params:,} parameters, "
            f"{cost.flops:,} multiply-adds."
        )
