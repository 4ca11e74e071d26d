"""NASNet's space: two small cells, a normal one and a reduction one, stacked into a network.

Zoph et al. 2018, arXiv:1707.07012. A cell has `blocks` blocks. Each takes two of the states so far (the outputs of the
two cells before, and of earlier blocks), applies an operation to each and adds the results (PNAS and ENAS fixed this
combination; NASNet could also concatenate). States that no block took are concatenated: the cell's output. In a
reduction cell operations on the two inputs have stride 2. Network: a 3×3 convolution, N normal cells, a reduction,
N normal, a reduction, N normal, the mean over the map, one linear layer; filters double at each reduction. A genotype
carries its skeleton (N, F, stem, resolution), so that cells found in a small one can be taken to a larger one.

`tied` is the form of PNAS (Liu et al. 2018, arXiv:1712.00559): the reduction cell is the normal one at stride 2, and
cells may grow block by block.

Departures: normalisation has a shift but no scale, and the head's start is that of space `stages`, as the trainer's
optimizer expects; no auxiliary head.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from functools import lru_cache
from itertools import combinations_with_replacement, groupby, permutations, product
from random import Random

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from search import catalog
from search.space import Cost, Decision, Genotype, InvalidGenotypeError, Json, Recipe, Shape
from search.spaces.skeleton import check_skeleton, largest_within, recipe_at
from search.spaces.writing import indented, module_of

NAME = "cell"
CELLS = ("normal", "reduction")
REDUCTIONS = 2
_SCALED_CELLS = 6  # the largest N that a skeleton is scaled to by itself: NASNet's on CIFAR-10; then F grows
_SCALED_FILTERS = 4  # F is scaled in multiples of this
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
class Skeleton:
    """The network around the cells. cells: N. filters: F, of the first cells. stem_multiplier: channels of the first
    convolution as a multiple of F. side: training resolution in pixels."""

    cells: int
    filters: int
    stem_multiplier: int
    side: int


@dataclass(frozen=True, slots=True)
class Genes:
    """The genes of a genotype, typed. Iterating gives the cells in the order of CELLS."""

    normal: Cell
    reduction: Cell
    skeleton: Skeleton

    def to_genotype(self) -> Genotype:
        cells: dict[str, Json] = {
            name: [{"inputs": list(block.inputs), "ops": list(block.ops)} for block in cell]
            for name, cell in zip(CELLS, self, strict=True)
        }
        return Genotype.of(NAME, cells | {"skeleton": asdict(self.skeleton)})

    def __iter__(self) -> Iterator[Cell]:
        return iter((self.normal, self.reduction))

    @classmethod
    def of(cls, genotype: Genotype) -> "Genes":
        """Raises InvalidGenotypeError for what is not two lists of blocks and a skeleton; legal values are the space's
        matter."""
        if genotype.space != NAME:
            raise InvalidGenotypeError(f"a genotype of space {genotype.space!r} was given to space {NAME!r}")
        genes, needed = genotype.genes, (*CELLS, "skeleton")
        if set(genes) != set(needed):
            raise InvalidGenotypeError(f"genes are {', '.join(sorted(genes)) or 'empty'}; needed: {', '.join(needed)}")
        normal, reduction = (_cell_of(name, genes[name]) for name in CELLS)
        return cls(normal, reduction, _skeleton_of(genes["skeleton"]))


def _skeleton_of(skeleton: Json) -> Skeleton:
    names = [field.name for field in fields(Skeleton)]
    if not isinstance(skeleton, Mapping) or set(skeleton) != set(names):
        raise InvalidGenotypeError(f"skeleton is {skeleton!r}; needed: an object of {', '.join(names)}")
    return Skeleton(**skeleton)


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

    def source(self, inputs: object, outputs: object, stride: int) -> str:
        kernel = self.height if self.height == self.width else (self.height, self.width)
        rest = (", stride=2" if stride == 2 else "") + (f", dilation={self.dilation}" if self.dilation > 1 else "")
        return f"{'separable' if self.separable else 'convolution'}({inputs}, {outputs}, {kernel}{rest})"


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

    def source(self, _inputs: object, _outputs: object, stride: int) -> str:
        numbers = f"{self.size}, stride={stride}, padding={self.size // 2}"
        return f"nn.MaxPool2d({numbers})" if self.kind == "max" else f"nn.AvgPool2d({numbers}, count_include_pad=False)"


@dataclass(frozen=True, slots=True)
class Identity:
    """Nothing; at stride 2 a `Shrinking`."""

    def cost(self, inputs: int, outputs: int, side: int, stride: int) -> Cost:
        return Cost(0, 0, 0) if stride == 1 else Shrinking().cost(inputs, outputs, side, stride)

    def build(self, inputs: int, outputs: int, stride: int) -> nn.Module:
        return nn.Identity() if stride == 1 else Shrinking().build(inputs, outputs, stride)

    def source(self, inputs: object, outputs: object, stride: int) -> str:
        return "nn.Identity()" if stride == 1 else Shrinking().source(inputs, outputs, stride)


@dataclass(frozen=True, slots=True)
class Shrinking:
    """Half the resolution without losing every other pixel: two 1×1 convolutions of stride 2, one shifted by a pixel."""

    def cost(self, inputs: int, outputs: int, side: int, _stride: int) -> Cost:
        area = _halved(side) ** 2
        kept = inputs * side**2 + inputs * (side + 1) ** 2 + outputs * area
        return Cost(inputs * outputs + outputs, inputs * outputs * area, kept)

    def build(self, inputs: int, outputs: int, _stride: int) -> nn.Module:
        return _Shrinking(inputs, outputs)

    def source(self, inputs: object, outputs: object, _stride: int) -> str:
        return f"Shrinking({inputs}, {outputs})"


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

    def source(self, filters: object = None) -> str:
        """An expression that makes what `build` makes; all channels are called `filters` where that is given."""
        inputs, stride, layers = filters or self.inputs, self.stride, []
        for part in self.parts:
            layers.append(part.source(inputs, filters or self.outputs, stride))
            inputs, stride = filters or self.outputs, 1
        return layers[0] if len(layers) == 1 else "nn.Sequential(\n    " + ",\n    ".join(layers) + ",\n)"

    @property
    def is_nothing(self) -> bool:
        return isinstance(self.parts[0], Identity) and self.stride == 1


@dataclass(frozen=True, slots=True)
class CellLayout:
    """One cell in its place. entries: bring the two inputs to one shape. blocks: pairs of edges with their states.
    outputs: what is concatenated, with the edge that brings it to the cell's own resolution."""

    entries: tuple[Edge, Edge]
    blocks: tuple[tuple[tuple[int, Edge], tuple[int, Edge]], ...]
    outputs: tuple[tuple[int, Edge], ...]
    filters: int
    side: int
    shrinks: bool

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
    entries = _entries(filters, before, last)
    blocks = tuple(
        (
            (block.inputs[0], _edge(block.ops[0], block.inputs[0], filters, side, shrinks)),
            (block.inputs[1], _edge(block.ops[1], block.inputs[1], filters, side, shrinks)),
        )
        for block in cell
    )
    outputs = tuple((state, _edge("identity", state, filters, side, shrinks)) for state in _unused(cell))
    return CellLayout(entries, blocks, outputs, filters, _halved(side) if shrinks else side, shrinks)


def _entries(filters: int, before: tuple[int, int], last: tuple[int, int]) -> tuple[Edge, Edge]:
    side = last[1]
    earlier, later = (
        Edge((Shrinking(),), channels, filters, own, 2)
        if own != side
        else Edge((Convolution(1, 1) if channels != filters else Identity(),), channels, filters, side)
        for channels, own in (before, last)
    )
    return earlier, later


def _edge(op: str, state: int, filters: int, side: int, shrinks: bool) -> Edge:
    """An operation on a state of a cell whose inputs are of that side; a reduction cell halves these alone."""
    is_input = state < 2
    own = _halved(side) if shrinks and not is_input else side
    return Edge(OPS[op], filters, filters, own, 2 if is_input and shrinks else 1)


def _places(skeleton: "Skeleton") -> Iterator[tuple[int, bool]]:
    """Filters of each cell in the network and whether it halves the resolution."""
    for stage in range(REDUCTIONS + 1):
        for number in range(skeleton.cells + 1):
            if stage > 0 or number > 0:
                yield skeleton.filters * 2**stage, number == 0


# ---------------------------------------------------------------------------------------------- networks


class DropPath(nn.Module):
    """ScheduledDropPath: in training, the answer of an operation is dropped for each picture by chance, ever more often
    towards the end of the training and of the network. Zoph et al. 2018, arXiv:1707.07012.

    most: the probability in this cell at the end of the training.
    """

    def __init__(self, most: float) -> None:
        super().__init__()
        self.most = most
        self.probability = 0.0
        self.random: torch.Generator | None = None

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or self.probability == 0.0:
            return x
        kept = torch.rand((len(x), 1, 1, 1), generator=self.random) >= self.probability
        return x * (kept.to(x.device, x.dtype) / (1 - self.probability))


class CellModule(nn.Module):
    """One cell. drop_path: the probability that an operation's answer is dropped at the end of a training."""

    def __init__(self, layout: CellLayout, drop_path: float = 0.0) -> None:
        super().__init__()
        self.from_before, self.from_last = (edge.build() for edge in layout.entries)
        self.blocks: list[tuple[tuple[int, str, bool], tuple[int, str, bool]]] = []
        for number, block in enumerate(layout.blocks):
            names = (f"block{number}_left", f"block{number}_right")
            for name, (_, edge) in zip(names, block, strict=True):
                self.add_module(name, edge.build())
            (one, edge), (other, other_edge) = block
            self.blocks.append(((one, names[0], _drops(edge)), (other, names[1], _drops(other_edge))))
        self.outputs: list[tuple[int, str]] = []
        for state, edge in layout.outputs:
            self.add_module(f"output{state}", edge.build())
            self.outputs.append((state, f"output{state}"))
        self.drop_path = DropPath(drop_path)

    def forward(self, before: Tensor, last: Tensor) -> Tensor:
        states = [self.from_before(before), self.from_last(last)]
        for left, right in self.blocks:
            states.append(self._half(states, *left) + self._half(states, *right))  # (B, filters, S, S)
        return torch.cat([self.get_submodule(name)(states[state]) for state, name in self.outputs], 1)

    def _half(self, states: Sequence[Tensor], state: int, name: str, drops: bool) -> Tensor:
        answer: Tensor = self.get_submodule(name)(states[state])
        return self.drop_path(answer) if drops else answer


def _drops(edge: Edge) -> bool:
    """Identities are kept, as in the authors' code."""
    return not isinstance(edge.parts[0], Identity)


class CellNetwork(nn.Module):
    """float (B, C, S, S), normalised, of any S, to logits (B, classes)."""

    def __init__(self, stem: Edge, cells: Sequence[CellLayout], classes: int, drop_path: float = 0.0) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(stem.inputs, stem.outputs, 3, padding=1, bias=False), Norm(stem.outputs))
        self.cells = nn.ModuleList(
            CellModule(layout, drop_path * (number + 1) / len(cells)) for number, layout in enumerate(cells)
        )
        channels = cells[-1].channels
        self.head = nn.Linear(channels, classes)
        nn.init.normal_(self.head.weight, std=1.0)
        nn.init.zeros_(self.head.bias)
        self.scale = 1 / channels

    def set_progress(self, fraction: float, random: torch.Generator) -> None:
        """Called before each training step. fraction: share of the training done. random: draws this step's paths."""
        for module in self.modules():
            if isinstance(module, DropPath):
                module.probability, module.random = fraction * module.most, random

    def forward(self, images: Tensor) -> Tensor:
        before = last = self.stem(images)
        for cell in self.cells:
            before, last = last, cell(before, last)
        logits: Tensor = self.head(F.relu(last).mean((2, 3))) * self.scale
        return logits


# ---------------------------------------------------------------------------------------------- shared weights


class SharedJoin(nn.Module):
    """ReLU, 1×1 convolution and normalisation of the concatenation of any of some states, with weights by state."""

    def __init__(self, states: int, channels: int) -> None:
        super().__init__()
        self.convolutions = nn.ModuleList(nn.Conv2d(channels, channels, 1, bias=False) for _ in range(states))
        self.norm = Norm(channels)

    def forward(self, taken: Mapping[int, Tensor]) -> Tensor:
        parts = [self.convolutions[state](F.relu(x)) for state, x in taken.items()]
        joined: Tensor = self.norm(torch.stack(parts).sum(0))
        return joined


class SharedCell(nn.Module):
    """All cells of a space in one place of the network: weights [block][half][input][operation]."""

    def __init__(self, entries: tuple[Edge, Edge], blocks: int, ops: Sequence[str], side: int, shrinks: bool) -> None:
        super().__init__()
        filters = entries[0].outputs
        self.from_before, self.from_last = (edge.build() for edge in entries)
        self.halves = nn.ModuleList(
            nn.ModuleList(
                nn.ModuleList(_edge(op, state, filters, side, shrinks).build() for op in ops)
                for state in range(half // 2 + 2)
            )
            for half in range(2 * blocks)
        )
        exits = [_edge("identity", state, filters, side, shrinks).build() for state in range(blocks + 2)]
        self.exits = nn.ModuleList(exits)
        self.join = SharedJoin(blocks + 2, filters)

    def forward(self, before: Tensor, last: Tensor, tokens: Sequence[int]) -> Tensor:
        states: dict[int, Tensor] = {0: self.from_before(before), 1: self.from_last(last)}
        unused = {0, 1}
        for block in range(len(tokens) // 4):
            one, other, op, other_op = tokens[4 * block : 4 * block + 4]
            left, right = self.halves[2 * block], self.halves[2 * block + 1]
            states[block + 2] = left[one][op](states[one]) + right[other][other_op](states[other])  # type: ignore[index]  # lists of lists
            unused = (unused - {one, other}) | {block + 2}
        joined: Tensor = self.join({state: self.exits[state](states[state]) for state in sorted(unused)})
        return joined


class CellSupernet(nn.Module):
    """All networks of a cell space with one set of weights (Pham et al. 2018, arXiv:1802.03268, micro search).

    Departure of shared from stand-alone networks, as in the authors' code: states that no block took are brought to
    F channels before the next cell sees them, so that its weights do not depend on how many these are.
    """

    def __init__(self, stem: Edge, skeleton: "Skeleton", blocks: int, ops: Sequence[str], classes: int) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(stem.inputs, stem.outputs, 3, padding=1, bias=False), Norm(stem.outputs))
        before = last = (stem.outputs, stem.side)
        cells, self.shrinks = list[SharedCell](), list[bool]()
        for filters, shrinks in _places(skeleton):
            side = last[1]
            cells.append(SharedCell(_entries(filters, before, last), blocks, ops, side, shrinks))
            self.shrinks.append(shrinks)
            before, last = last, (filters, _halved(side) if shrinks else side)
        self.cells = nn.ModuleList(cells)
        self.per_cell = 4 * blocks
        self.head = nn.Linear(last[0], classes)
        nn.init.normal_(self.head.weight, std=1.0)
        nn.init.zeros_(self.head.bias)
        self.scale = 1 / last[0]

    def forward(self, images: Tensor, tokens: Sequence[int]) -> Tensor:
        """tokens: of the normal and the reduction cell; those of one cell serve both."""
        before = last = self.stem(images)
        for cell, shrinks in zip(self.cells, self.shrinks, strict=True):
            own = tokens[-self.per_cell :] if shrinks else tokens[: self.per_cell]
            before, last = last, cell(before, last, own)
        logits: Tensor = self.head(F.relu(last).mean((2, 3))) * self.scale
        return logits


# ---------------------------------------------------------------------------------------------- space


_RANGES = {option.name: option for option in catalog.SPACES[NAME].options}


class CellSpace:
    """See `search.space`: a Space that is Tokenised, Progressive, Scalable and OneShot.

    blocks: B; genotypes of fewer are legal, and both cells have as many. ops: a name of OP_SETS. tied: the reduction
    cell is the normal one at stride 2. cells, filters, stem_multiplier, side: of the skeleton that new genotypes get.
    drop_path: how often paths are dropped at the end of a training (1 - the keep probability of the paper).
    """

    name = NAME

    def __init__(
        self,
        shape: Shape,
        *,
        blocks: int = 5,
        ops: str = "fast",
        tied: bool = False,
        cells: int = 1,
        filters: int = 16,
        stem_multiplier: int = 3,
        side: int = 32,
        drop_path: float = 0.0,
    ) -> None:
        self.shape = shape
        self.blocks = blocks
        self.ops = OP_SETS[ops]
        self.tied = tied
        self.skeleton = Skeleton(cells, filters, stem_multiplier, min(side, shape.side))
        self.drop_path = drop_path

    # ------------------------------------------------------------------------------------------ drawing and moving

    @property
    def _chosen(self) -> tuple[str, ...]:
        """The cells that a genotype chooses; of tied ones the second follows from the first."""
        return CELLS[:1] if self.tied else CELLS

    def _genotype(self, cells: Sequence[Cell], skeleton: Skeleton | None = None) -> Genotype:
        """cells: those of `_chosen`."""
        return Genes(cells[0], cells[-1], skeleton or self.skeleton).to_genotype()

    def sample(self, random: Random) -> Genotype:
        return self._genotype([self._sample_cell(random) for _ in self._chosen])

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
            place = random.randrange(len(self._chosen))
            cell = list(tuple(genes)[place])
            number, half = random.randrange(len(cell)), random.randrange(2)
            if random.random() < 0.5:
                cell[number] = cell[number].with_input(half, random.randrange(number + 2))
            else:
                cell[number] = cell[number].with_op(half, random.choice(self.ops))
            child = self._with_cell(genes, place, tuple(cell))
            if self.key(child) != key:
                return child
        return genotype

    def _with_cell(self, genes: Genes, place: int, cell: Cell) -> Genotype:
        cells = [cell if each == place else old for each, old in enumerate(genes)]
        return self._genotype(cells[: len(self._chosen)], genes.skeleton)

    def neighbours(self, genotype: Genotype) -> Iterator[Genotype]:
        genes = Genes.of(genotype)
        for place, cell in enumerate(tuple(genes)[: len(self._chosen)]):
            for number, block in enumerate(cell):
                for half in (0, 1):
                    changed = [block.with_input(half, state) for state in range(number + 2)]
                    changed += [block.with_op(half, op) for op in self.ops]
                    for other in changed:
                        if other != block:
                            yield self._with_cell(genes, place, (*cell[:number], other, *cell[number + 1 :]))

    # ------------------------------------------------------------------------------------------ growing

    def _next_blocks(self, number: int) -> list[Block]:
        """Every block that may come after `number` others, those that differ in the order of their halves once."""
        halves = list(product(range(number + 2), self.ops))
        return [
            Block((one[0], other[0]), (one[1], other[1])) for one, other in combinations_with_replacement(halves, 2)
        ]

    def smallest(self) -> Iterator[Genotype]:
        """Every genotype of one block: 136 of tied cells of PNAS's operations, that number squared of untied ones."""
        for blocks in product(self._next_blocks(0), repeat=len(self._chosen)):
            yield self._genotype([(block,) for block in blocks])

    def grown(self, genotype: Genotype) -> Iterator[Genotype]:
        """Every genotype that continues it by one block, none when it has them all. Those of untied cells are many:
        each of the normal cell's with each of the reduction cell's."""
        genes, size = Genes.of(genotype), self.size(genotype)
        if size < self.blocks:
            for blocks in product(self._next_blocks(size), repeat=len(self._chosen)):
                cells = [(*cell, block) for cell, block in zip(genes, blocks, strict=False)]
                yield self._genotype(cells, genes.skeleton)

    def continued(self, genotype: Genotype, random: Random) -> Genotype:
        """Raises ValueError for a genotype that has all its blocks."""
        genes, size = Genes.of(genotype), self.size(genotype)
        if size >= self.blocks:
            raise ValueError(f"a genotype of {size} blocks cannot grow in a space of {self.blocks}")
        choices = self._next_blocks(size)
        cells = [(*cell, random.choice(choices)) for cell in tuple(genes)[: len(self._chosen)]]
        return self._genotype(cells, genes.skeleton)

    def size(self, genotype: Genotype) -> int:
        return len(Genes.of(genotype).normal)

    # ------------------------------------------------------------------------------------------ tokens

    def decisions(self) -> tuple[Decision, ...]:
        """Cell by cell and block by block: two inputs, two operations."""
        states = ("before the last", "last", *(f"block {number}" for number in range(self.blocks)))
        return tuple(
            Decision(f"{name}[{number}].{field}[{half}]", kind, choices)
            for name in self._chosen
            for number in range(self.blocks)
            for field, kind, choices in (("inputs", "input", states[: number + 2]), ("ops", "op", self.ops))
            for half in (0, 1)
        )

    def tokens(self, genotype: Genotype) -> tuple[int, ...]:
        """A genotype of fewer blocks has the tokens of its own blocks alone, four each."""
        return tuple(
            token
            for cell in tuple(Genes.of(genotype))[: len(self._chosen)]
            for block in cell
            for token in (*block.inputs, *map(self.ops.index, block.ops))
        )

    def from_tokens(self, tokens: Sequence[int]) -> Genotype:
        """Raises ValueError for a number of tokens that is not four for each of 1 to `blocks` blocks of each cell."""
        size, rest = divmod(len(tokens), 4 * len(self._chosen))
        if rest or not 1 <= size <= self.blocks:
            raise ValueError(
                f"{len(tokens)} tokens; four for each block of {' and '.join(self._chosen)} are needed, of up to "
                f"{self.blocks} blocks"
            )
        blocks = [
            Block(
                (tokens[at] % (at // 4 % size + 2), tokens[at + 1] % (at // 4 % size + 2)),
                (self.ops[tokens[at + 2] % len(self.ops)], self.ops[tokens[at + 3] % len(self.ops)]),
            )
            for at in range(0, len(tokens), 4)
        ]
        return self._genotype([tuple(blocks[at : at + size]) for at in range(0, len(blocks), size)])

    # ------------------------------------------------------------------------------------------ scaling

    def scaled(self, genotype: Genotype, flops: int) -> Genotype:
        """The same cells in the skeleton with most cells, then most filters, that has at most `flops` multiply-adds.

        Resolution and stem are the space's own where these are larger, so that cells found on small pictures see
        large ones. The smallest skeleton when all have more. As in NASNet, depth comes before width, up to N = 6.
        """
        genes = Genes.of(genotype)
        cells_least, cells_most = int(_RANGES["cells"].minimum), int(_RANGES["cells"].maximum)
        widths = range(_SCALED_FILTERS, int(_RANGES["filters"].maximum) + 1, _SCALED_FILTERS)
        side = min(max(self.skeleton.side, genes.skeleton.side), self.shape.side)

        def at(cells: int, filters: int) -> Genotype:
            skeleton = replace(self.skeleton, cells=cells, filters=filters, side=side)
            return replace(genes, skeleton=skeleton).to_genotype()

        base = min(widths, key=lambda width: abs(width - genes.skeleton.filters))
        most = max(_SCALED_CELLS, min(genes.skeleton.cells, cells_most))
        depths = range(cells_least, most + 1)
        cells = largest_within(depths, flops, lambda depth: self.cost(at(depth, base)).flops)
        return at(cells, largest_within(widths, flops, lambda width: self.cost(at(cells, width)).flops))

    # ------------------------------------------------------------------------------------------ description

    def key(self, genotype: Genotype) -> str:
        genes = Genes.of(genotype)
        normal, reduction = map(_canonical, genes)
        return replace(genes, normal=normal, reduction=reduction).to_genotype().digest()

    def features(self, genotype: Genotype) -> NDArray[np.float32]:
        """(F,), equal for isomorphic cells: logarithms of sizes, then for each cell the choices one-hot (zeros for
        blocks it does not have) and counts over its graph.

        Counts are those of Kadlecová et al. 2024 (GRAF, arXiv:2404.16551) on our graphs: how often each operation
        occurs, on which of the two inputs it works, least and most of it on a path from an input to the output,
        length of the shortest and the longest path, and degrees.
        """
        cost = self.cost(genotype)
        row = [np.log10(cost.params), np.log10(max(1, cost.flops))]
        for cell in tuple(map(_canonical, Genes.of(genotype)))[: len(self._chosen)]:
            for block in cell:
                for state, op in zip(block.inputs, block.ops, strict=True):
                    row += [float(state == each) for each in range(self.blocks + 1)]
                    row += [float(op == each) for each in self.ops]
            row += [0.0] * (2 * (self.blocks - len(cell)) * (self.blocks + 1 + len(self.ops)))
            row += _graph_counts(cell, self.ops)
        return np.asarray(row, dtype=np.float32)

    def check(self, genotype: Genotype) -> None:
        genes = Genes.of(genotype)
        for name, cell in zip(CELLS, genes, strict=True):
            if not 1 <= len(cell) <= self.blocks:
                raise InvalidGenotypeError(f"{name} has {len(cell)} blocks; 1 to {self.blocks} are possible")
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
        if len(genes.normal) != len(genes.reduction):
            raise InvalidGenotypeError(
                f"reduction has {len(genes.reduction)} blocks and normal {len(genes.normal)}; needed: as many"
            )
        if self.tied and genes.normal != genes.reduction:
            raise InvalidGenotypeError("reduction differs from normal; this space ties them (`tied`): needed: the same")
        check_skeleton(asdict(genes.skeleton), _RANGES, self.shape)

    # ------------------------------------------------------------------------------------------ networks

    def _layout(self, genes: Genes) -> list[CellLayout]:
        skeleton = genes.skeleton
        stem = (skeleton.stem_multiplier * skeleton.filters, skeleton.side)
        before, last = stem, stem
        layout = []
        for filters, shrinks in _places(skeleton):
            cell = _laid_out(genes.reduction if shrinks else genes.normal, filters, before, last, shrinks)
            layout.append(cell)
            before, last = last, (cell.channels, cell.side)
        return layout

    def _stem(self, skeleton: Skeleton) -> Edge:
        channels = skeleton.stem_multiplier * skeleton.filters
        return Edge((Convolution(3, 3),), self.shape.channels, channels, skeleton.side)

    def cost(self, genotype: Genotype) -> Cost:
        genes = Genes.of(genotype)
        layout, stem = self._layout(genes), self._stem(genes.skeleton)
        costs = [*stem.costs(), *(cost for cell in layout for edge in cell.edges() for cost in edge.costs())]
        sums = sum(cell.filters * cell.side**2 * len(cell.blocks) + cell.channels * cell.side**2 for cell in layout)
        head = layout[-1].channels * self.shape.classes
        return Cost(
            params=sum(cost.params for cost in costs) + head + self.shape.classes,
            flops=sum(cost.flops for cost in costs) + head,
            activations=sum(cost.activations for cost in costs) + sums,
        )

    def recipe(self, genotype: Genotype) -> Recipe:
        self.check(genotype)
        return recipe_at(Genes.of(genotype).skeleton.side, self.shape)

    def least_side(self, genotype: Genotype) -> int:
        self.check(genotype)
        return 1  # halving rounds up

    def build(self, genotype: Genotype) -> nn.Module:
        self.check(genotype)
        genes = Genes.of(genotype)
        return CellNetwork(self._stem(genes.skeleton), self._layout(genes), self.shape.classes, self.drop_path)

    def supernet(self) -> nn.Module:
        return CellSupernet(self._stem(self.skeleton), self.skeleton, self.blocks, self.ops, self.shape.classes)

    def to_python(self, genotype: Genotype) -> str:
        """A class for each of the two cells, and `Network`, which stacks them."""
        self.check(genotype)
        genes, side, cells = Genes.of(genotype), Genes.of(genotype).skeleton.side, []
        layout, stem = self._layout(genes), self._stem(genes.skeleton).outputs
        for place in layout:
            before, last = (edge.inputs for edge in place.entries)
            halves = ", halve_before=True" if place.entries[0].stride == 2 else ""
            made = f"{_class_name(place)}(before={before}, last={last}, filters={place.filters}{halves})"
            cells.append(f"{made},  # (B, {place.channels}, {place.side}, {place.side})")
        classes = [
            _cell_source(cell, next(place for place in layout if place.shrinks == shrinks)).strip("\n")
            for shrinks, cell in enumerate(genes)
        ]
        network = f'''
class Network(nn.Module):
    """Normalised pictures (B, {self.shape.channels}, S, S) to logits (B, {self.shape.classes}); trained at S = {side}."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d({self.shape.channels}, {stem}, 3, padding=1, bias=False),
            Norm({stem}),
        )  # (B, {stem}, {side}, {side})
        self.cells = nn.ModuleList(
            [
{indented(cells, 4)}
            ]
        )
        self.head = nn.Linear({layout[-1].channels}, {self.shape.classes})

    def forward(self, images: Tensor) -> Tensor:
        before = last = self.stem(images)
        for cell in self.cells:
            before, last = last, cell(before, last)
        x = F.relu(last).mean((2, 3))  # (B, {layout[-1].channels})
        return self.head(x) / {layout[-1].channels}
'''
        return module_of(self.describe(genotype), "\n\n\n".join([*classes, network.strip("\n")]))

    def describe(self, genotype: Genotype) -> str:
        genes = Genes.of(genotype)
        layout, cost, side = self._layout(genes), self.cost(genotype), genes.skeleton.side
        cells = (
            f"{name} cell of {', '.join(' + '.join(block.ops) for block in cell)}"
            for name, cell in zip(CELLS, genes, strict=True)
        )
        return (
            f"A network of {len(layout)} cells with {genes.skeleton.filters} to {layout[-1].filters} filters that sees "
            f"{side}×{side} pictures: {'; '.join(cells)}; {cost.params:,} parameters, {cost.flops:,} multiply-adds."
        )


# ---------------------------------------------------------------------------------------------- source


def _cell_source(cell: Cell, layout: CellLayout) -> str:
    """The class of a cell, for any number of channels. layout: of one of its places."""
    name, maps = _class_name(layout), "2S, 2S" if layout.shrinks else "S, S"
    made, lines = [], []
    names = ["before", "last", *(f"block{number}" for number in range(len(cell)))]
    for number, (block, halves) in enumerate(zip(cell, layout.blocks, strict=True)):
        terms = []
        said = (f"{op} of {names[state]}" for state, op in zip(block.inputs, block.ops, strict=True))
        made.append(f"# block{number}: {' + '.join(said)}")
        for side, (state, edge) in zip(("left", "right"), halves, strict=True):
            if edge.is_nothing:
                terms.append(names[state])
            else:
                made.append(f"self.block{number}_{side} = {edge.source('filters')}")
                terms.append(f"self.block{number}_{side}({names[state]})")
        lines.append(f"block{number} = {' + '.join(terms)}")
    outputs = []
    for state, edge in layout.outputs:
        if edge.is_nothing:
            outputs.append(names[state])
        else:
            made.append(f"self.output{state} = {edge.source('filters')}")
            outputs.append(f"self.output{state}({names[state]})")
    lines.append(
        f"return torch.cat([{', '.join(outputs)}], 1)  # (B, {len(outputs)} × filters, S, S)"
        if len(outputs) > 1
        else f"return {outputs[0]}  # (B, filters, S, S)"
    )
    return f'''
class {name}(nn.Module):
    """From the outputs of the two cells before{" to half the resolution" if layout.shrinks else ""}."""

    def __init__(self, before: int, last: int, filters: int, halve_before: bool = False):
        super().__init__()
        self.from_before = entry(before, filters, halve_before)
        self.from_last = entry(last, filters)
{indented(made, 2)}

    def forward(self, before: Tensor, last: Tensor) -> Tensor:
        before, last = self.from_before(before), self.from_last(last)  # (B, filters, {maps})
{indented(lines, 2)}
'''


def _class_name(layout: CellLayout) -> str:
    return f"{CELLS[layout.shrinks].capitalize()}Cell"


def _graph_counts(cell: Cell, ops: Sequence[str]) -> list[float]:
    halves = [half for block in cell for half in zip(block.inputs, block.ops, strict=True)]
    unused = _unused(cell)
    counts = [float(sum(op == each for _, op in halves)) for each in ops]
    counts += [float(sum(half == (state, op) for half in halves)) for state in (0, 1) for op in ops]
    for weigh in (*({op: 1} for op in ops), dict.fromkeys(ops, 1)):  # each operation by itself, then all: the length
        least, most = [0, 0], [0, 0]
        for block in cell:
            least.append(min(least[s] + weigh.get(op, 0) for s, op in zip(block.inputs, block.ops, strict=True)))
            most.append(max(most[s] + weigh.get(op, 0) for s, op in zip(block.inputs, block.ops, strict=True)))
        counts += [min(least[state] for state in unused), max(most[state] for state in unused)]
    degrees = [sum(state == each for each, _ in halves) for state in range(len(cell) + 2)]
    counts += [degrees[0], degrees[1], max(degrees[2:]), len(unused), len(cell)]
    return [float(count) for count in counts]
