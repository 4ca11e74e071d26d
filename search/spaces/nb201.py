"""The cell of NAS-Bench-201, trained like any other: six edges, one of five operations on each.

Dong & Yang 2020, arXiv:2001.00326. A cell has four nodes; node 0 is its input, node 3 its output, and each node is the sum of what
the edges from all earlier nodes bring. Network: a 3×3 convolution, N cells, a residual block that halves the
resolution and doubles the channels, N cells, another, N cells, normalisation, ReLU, the mean over the map and one
linear layer; N = 5 and C = 16 in the paper, smaller here unless asked for. A genotype carries the published string
and its skeleton. 15,625 cells.

Departures: edges that bring nothing to the output are not built; normalisation has a shift but no scale, and the
head's start is that of space `stages`, as the trainer's optimizer expects; the pooling of the residual block's
shortcut rounds up where the side is odd. A cell that is not connected answers zeros; it is legal, but neither drawn nor
moved to.
"""

import hashlib
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from functools import lru_cache, partial
from itertools import combinations
from random import Random

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from search import catalog
from search.space import Cost, Decision, Genotype, InvalidGenotypeError, Recipe, Shape
from search.spaces.cell import Convolution, Edge, Identity, Norm, Part, Pooling
from search.spaces.skeleton import check_skeleton, largest_within, recipe_at
from search.spaces.writing import indented, module_of

NAME = "nb201"
NODES = 4
EDGES: tuple[tuple[int, int], ...] = tuple((start, end) for end in range(1, NODES) for start in range(end))
_STAGES = 3
_SCALED_CHANNELS = 4  # C is scaled in multiples of this

NONE, SKIP = "none", "skip_connect"
OPS: Mapping[str, tuple[Part, ...]] = {
    NONE: (),
    SKIP: (Identity(),),
    "nor_conv_1x1": (Convolution(1, 1),),
    "nor_conv_3x3": (Convolution(3, 3),),
    "avg_pool_3x3": (Pooling("avg", 3),),
}
_WORKING = tuple(op for op in OPS if op != NONE)

Cell = tuple[str, ...]  # an operation for each of EDGES


# ---------------------------------------------------------------------------------------------- genes


def to_string(cell: Cell) -> str:
    """The published form: `|op~0|+|op~0|op~1|+|op~0|op~1|op~2|`, the edges into nodes 1, 2 and 3."""
    into = [
        "".join(f"|{op}~{start}" for (start, end), op in zip(EDGES, cell, strict=True) if end == node)
        for node in range(1, NODES)
    ]
    return "+".join(f"{edges}|" for edges in into)


def from_string(text: str) -> Cell:
    """Reads the published form. Raises InvalidGenotypeError that names the node and what is possible there."""
    nodes = text.split("+")
    if len(nodes) != NODES - 1:
        raise InvalidGenotypeError(
            f"cell {text!r} has {len(nodes)} nodes; needed: 3, as in |op~0|+|op~0|op~1|+|op~0|op~1|op~2|"
        )
    cell: list[str] = []
    for node, edges in enumerate(nodes, 1):
        found = re.fullmatch(r"\|(?:[^|~]*~\d+\|)*", edges) and re.findall(r"([^|~]*)~(\d+)\|", edges)
        if not found or [int(start) for _, start in found] != list(range(node)):
            form = "".join(f"|op~{start}" for start in range(node)) + "|"
            raise InvalidGenotypeError(f"node {node} of the cell is {edges!r}; needed: {form}")
        for op, start in found:
            if op not in OPS:
                raise InvalidGenotypeError(
                    f"node {node} of the cell takes {op!r} from node {start}; possible: {', '.join(OPS)}"
                )
            cell.append(op)
    return tuple(cell)


@dataclass(frozen=True, slots=True)
class Skeleton:
    """The network around the cells. cells: N. channels: C, of the first stage. side: training resolution in pixels."""

    cells: int
    channels: int
    side: int


@dataclass(frozen=True, slots=True)
class Genes:
    """The genes of a genotype, typed."""

    cell: Cell
    skeleton: Skeleton

    def to_genotype(self) -> Genotype:
        return Genotype.of(NAME, {"cell": to_string(self.cell), "skeleton": asdict(self.skeleton)})

    @classmethod
    def of(cls, genotype: Genotype) -> "Genes":
        """Raises InvalidGenotypeError for what is not a cell and a skeleton; a legal skeleton is the space's matter."""
        if genotype.space != NAME:
            raise InvalidGenotypeError(f"a genotype of space {genotype.space!r} was given to space {NAME!r}")
        return _genes_of(genotype.genes_json)


@lru_cache(maxsize=20_000)  # a search of many candidates reads each of the 15,625 cells often
def _genes_of(genes_json: str) -> Genes:
    genes = Genotype(NAME, genes_json).genes
    if set(genes) != {"cell", "skeleton"}:
        raise InvalidGenotypeError(f"genes are {', '.join(sorted(genes)) or 'empty'}; needed: cell, skeleton")
    cell, skeleton, names = genes["cell"], genes["skeleton"], [field.name for field in fields(Skeleton)]
    if not isinstance(cell, str):
        raise InvalidGenotypeError(f"cell is {cell!r}; needed: a text such as {to_string((SKIP,) * len(EDGES))}")
    if not isinstance(skeleton, Mapping) or set(skeleton) != set(names):
        raise InvalidGenotypeError(f"skeleton is {skeleton!r}; needed: an object of {', '.join(names)}")
    return Genes(from_string(cell), Skeleton(**skeleton))


# ---------------------------------------------------------------------------------------------- graph


@lru_cache(maxsize=20_000)
def live_edges(cell: Cell) -> Cell:
    """The cell with `none` wherever nothing passes from the input to the output."""
    edges = [edge for edge, op in zip(EDGES, cell, strict=True) if op != NONE]
    reached, needed = {0}, {NODES - 1}
    for start, end in edges:  # EDGES go by their ends
        if start in reached:
            reached.add(end)
    for start, end in sorted(edges, reverse=True):
        if end in needed:
            needed.add(start)
    return tuple(
        op if start in reached and end in needed else NONE for (start, end), op in zip(EDGES, cell, strict=True)
    )


def is_connected(cell: Cell) -> bool:
    return any(op != NONE for op in live_edges(cell))


@lru_cache(maxsize=20_000)
def _term(cell: Cell) -> str:
    """What the output computes, as the paper's code spells it to find isomorphic cells: 6,466 among the 15,625.

    `none` and what it leads to are `#`, and a skip passes on what it takes. Each node keeps its number of summands, so
    some classes still compute the same; merging these would make other classes than the published ones.
    """
    terms = ["0"]
    for node in range(1, NODES):
        summands = []
        for (start, end), op in zip(EDGES, cell, strict=True):
            if end == node:
                if op == NONE or terms[start] == "#":
                    summands.append("#")
                else:
                    summands.append(terms[start] if op == SKIP else f"({terms[start]})@{op}")
        terms.append("+".join(sorted(summands)))
    return terms[-1]


_PATHS = tuple(
    tuple(EDGES.index(edge) for edge in zip((0, *middle), (*middle, NODES - 1), strict=True))
    for count in range(NODES - 1)
    for middle in combinations(range(1, NODES - 1), count)
)
_SUBSETS = tuple(frozenset(subset) for size in range(1, len(_WORKING) + 1) for subset in combinations(_WORKING, size))


@lru_cache(maxsize=20_000)
def _graph_features(cell: Cell) -> tuple[float, ...]:
    """One-hot edges; how often each operation occurs, and least and most on one path; then for every set of operations
    the edges that have one of it: shortest and longest path of them, edges out of the input, into the output, in all.

    The last group is GRAF: Kadlecová et al. 2024, arXiv:2404.16551. Edges that bring nothing count as `none`.
    """
    live = live_edges(cell)
    row = [float(op == each) for op in live for each in OPS]
    paths = [[live[edge] for edge in path] for path in _PATHS if all(live[edge] != NONE for edge in path)]
    for op in _WORKING:
        counts = [path.count(op) for path in paths] or [0]
        row += [live.count(op), min(counts), max(counts)]
    for subset in _SUBSETS:
        lengths = [len(path) for path in paths if subset.issuperset(path)]
        ends = [edge for edge, op in zip(EDGES, live, strict=True) if op in subset]
        row += [min(lengths, default=NODES), max(lengths, default=0)]
        row += [sum(start == 0 for start, _ in ends), sum(end == NODES - 1 for _, end in ends), len(ends)]
    return tuple(row)


# ---------------------------------------------------------------------------------------------- networks


@dataclass(frozen=True, slots=True)
class Reduction:
    """The residual block between stages: half the resolution, twice the channels."""

    inputs: int
    side: int

    @property
    def main(self) -> Edge:
        return Edge((Convolution(3, 3), Convolution(3, 3)), self.inputs, 2 * self.inputs, self.side, 2)

    @property
    def halved(self) -> int:
        return (self.side + 1) // 2

    def costs(self) -> Iterator[Cost]:
        yield from self.main.costs()
        weights, area = 2 * self.inputs**2, self.halved**2
        yield Cost(weights, weights * area, self.inputs * (self.side**2 + area))


class CellModule(nn.Module):
    """cell: live edges alone. float (B, C, S, S) to the same shape."""

    def __init__(self, cell: Cell, channels: int) -> None:
        super().__init__()
        self.edges: list[tuple[int, int, str]] = []
        for (start, end), op in zip(EDGES, cell, strict=True):
            if op != NONE:
                name = f"edge{start}{end}"
                self.add_module(name, Edge(OPS[op], channels, channels, 0).build())
                self.edges.append((start, end, name))

    def forward(self, x: Tensor) -> Tensor:
        nodes: dict[int, Tensor] = {0: x}
        for start, end, name in self.edges:
            brought: Tensor = self.get_submodule(name)(nodes[start])
            nodes[end] = nodes[end] + brought if end in nodes else brought
        return nodes[NODES - 1] if self.edges else x * 0.0


class ReductionModule(nn.Module):
    def __init__(self, reduction: Reduction) -> None:
        super().__init__()
        self.main = reduction.main.build()
        self.shortcut = nn.Sequential(
            nn.AvgPool2d(2, ceil_mode=True, count_include_pad=False),  # so that odd sides fit, too
            nn.Conv2d(reduction.inputs, 2 * reduction.inputs, 1, bias=False),
        )

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.main(x) + self.shortcut(x)  # (B, 2C, ⌈S/2⌉, ⌈S/2⌉)
        return out


class Nb201Network(nn.Module):
    """float (B, C, side, side), normalised, to logits (B, classes). cell_of: makes a cell of so many channels."""

    def __init__(self, shape: Shape, skeleton: Skeleton, cell_of: Callable[[int], nn.Module]) -> None:
        super().__init__()
        channels = skeleton.channels
        self.stem = nn.Sequential(nn.Conv2d(shape.channels, channels, 3, padding=1, bias=False), Norm(channels))
        self.cells = nn.ModuleList()
        for reduction in (*_reductions(skeleton), None):
            self.cells.extend(cell_of(channels) for _ in range(skeleton.cells))
            if reduction is not None:
                self.cells.append(ReductionModule(reduction))
                channels *= 2
        self.norm = Norm(channels)
        self.head = nn.Linear(channels, shape.classes)
        nn.init.normal_(self.head.weight, std=1.0)
        nn.init.zeros_(self.head.bias)
        self.scale = 1 / channels

    def forward(self, images: Tensor) -> Tensor:
        x: Tensor = self.stem(images)
        for cell in self.cells:
            x = cell(x)
        logits: Tensor = self.head(F.relu(self.norm(x)).mean((2, 3))) * self.scale
        return logits


def _reductions(skeleton: Skeleton) -> list[Reduction]:
    reductions, side = list[Reduction](), skeleton.side
    for stage in range(_STAGES - 1):
        reductions.append(Reduction(skeleton.channels * 2**stage, side))
        side = reductions[-1].halved
    return reductions


# ---------------------------------------------------------------------------------------------- shared weights


class SharedCell(nn.Module):
    """All cells in one place of the network: weights [edge][operation]; an edge stands for node and input.

    live: the cell that is computed, live edges alone as in stand-alone networks.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.live: Cell = (SKIP,) * len(EDGES)
        self.edges = nn.ModuleList(
            nn.ModuleDict({op: Edge(OPS[op], channels, channels, 0).build() for op in _WORKING}) for _ in EDGES
        )

    def forward(self, x: Tensor) -> Tensor:
        nodes: dict[int, Tensor] = {0: x}
        for (start, end), op, edge in zip(EDGES, self.live, self.edges, strict=True):
            if op != NONE:
                brought: Tensor = edge[op](nodes[start])  # type: ignore[index]  # a dictionary
                nodes[end] = nodes[end] + brought if end in nodes else brought
        return nodes.get(NODES - 1, x * 0.0)


class Nb201Supernet(nn.Module):
    """All networks of the space with one set of weights."""

    def __init__(self, shape: Shape, skeleton: Skeleton) -> None:
        super().__init__()
        self.network = Nb201Network(shape, skeleton, SharedCell)
        self.ops = tuple(OPS)

    def forward(self, images: Tensor, tokens: Sequence[int]) -> Tensor:
        live = live_edges(tuple(self.ops[token] for token in tokens))
        for cell in self.network.cells:
            if isinstance(cell, SharedCell):
                cell.live = live
        logits: Tensor = self.network(images)
        return logits


# ---------------------------------------------------------------------------------------------- space

_RANGES = {option.name: option for option in catalog.SPACES[NAME].options}


class Nb201Space:
    """See `search.space`: a Space that is Tokenised, Scalable and OneShot.

    cells, channels, side: of the skeleton that new genotypes get.
    """

    name = NAME

    def __init__(self, shape: Shape, *, cells: int = 1, channels: int = 16, side: int = 32) -> None:
        self.shape = shape
        self.ops = tuple(OPS)
        self.skeleton = Skeleton(cells, channels, min(side, shape.side))

    def genotype(self, cell: Cell) -> Genotype:
        """The genotype of a cell in the space's own skeleton."""
        return Genes(cell, self.skeleton).to_genotype()

    def sample(self, random: Random) -> Genotype:
        """Uniform among the cells that are connected."""
        while True:
            cell = tuple(random.choice(self.ops) for _ in EDGES)
            if is_connected(cell):
                return self.genotype(cell)

    def mutate(self, genotype: Genotype, random: Random) -> Genotype:
        """The operation of one edge becomes another, so that the network is another and connected."""
        genes, key = Genes.of(genotype), self.key(genotype)
        while True:  # ends: an edge 0-3 with another operation is among the changes
            child = _with_op(genes, random.randrange(len(EDGES)), random.choice(self.ops))
            if is_connected(child.cell) and self.key(child.to_genotype()) != key:
                return child.to_genotype()

    def neighbours(self, genotype: Genotype) -> Iterator[Genotype]:
        """All changes of one edge's operation that are connected."""
        genes = Genes.of(genotype)
        for edge, old in enumerate(genes.cell):
            for op in self.ops:
                child = _with_op(genes, edge, op)
                if op != old and is_connected(child.cell):
                    yield child.to_genotype()

    def key(self, genotype: Genotype) -> str:
        genes = Genes.of(genotype)
        return hashlib.sha256(f"{_term(genes.cell)} {genes.skeleton}".encode()).hexdigest()[:16]

    # ------------------------------------------------------------------------------------------ tokens and scaling

    def decisions(self) -> tuple[Decision, ...]:
        return tuple(Decision(f"{end}~{start}", "op", self.ops) for start, end in EDGES)

    def tokens(self, genotype: Genotype) -> tuple[int, ...]:
        return tuple(self.ops.index(op) for op in Genes.of(genotype).cell)

    def from_tokens(self, tokens: Sequence[int]) -> Genotype:
        """Raises ValueError for another number of tokens than there are edges."""
        if len(tokens) != len(EDGES):
            raise ValueError(f"{len(tokens)} tokens; {len(EDGES)} are needed, one for each edge")
        return self.genotype(tuple(self.ops[token % len(self.ops)] for token in tokens))

    def scaled(self, genotype: Genotype, flops: int) -> Genotype:
        """The same cell with most channels, so that the network has at most `flops` multiply-adds.

        Cells and resolution are the space's own where these are more. The smallest skeleton when all have more.
        """
        genes = Genes.of(genotype)
        side = min(max(self.skeleton.side, genes.skeleton.side), self.shape.side)
        cells = max(self.skeleton.cells, genes.skeleton.cells)
        widths = range(_SCALED_CHANNELS, int(_RANGES["channels"].maximum) + 1, _SCALED_CHANNELS)

        def at(channels: int) -> Genotype:
            return replace(genes, skeleton=Skeleton(cells, channels, side)).to_genotype()

        return at(largest_within(widths, flops, lambda width: self.cost(at(width)).flops))

    # ------------------------------------------------------------------------------------------ description

    def features(self, genotype: Genotype) -> NDArray[np.float32]:
        """(F,): logarithms of sizes, one-hot edges, and counts over the graph: see `_graph_features`."""
        cost = self.cost(genotype)
        sizes = (np.log10(cost.params), np.log10(cost.flops))
        return np.asarray((*sizes, *_graph_features(Genes.of(genotype).cell)), dtype=np.float32)

    def check(self, genotype: Genotype) -> None:
        check_skeleton(asdict(Genes.of(genotype).skeleton), _RANGES, self.shape)

    # ------------------------------------------------------------------------------------------ networks

    def cost(self, genotype: Genotype) -> Cost:
        genes = Genes.of(genotype)
        return _cost(self.shape, live_edges(genes.cell), genes.skeleton)

    def recipe(self, genotype: Genotype) -> Recipe:
        self.check(genotype)
        return recipe_at(Genes.of(genotype).skeleton.side, self.shape)

    def least_side(self, genotype: Genotype) -> int:
        self.check(genotype)
        return 1  # halving rounds up

    def build(self, genotype: Genotype) -> nn.Module:
        self.check(genotype)
        genes = Genes.of(genotype)
        return Nb201Network(self.shape, genes.skeleton, partial(CellModule, live_edges(genes.cell)))

    def supernet(self) -> nn.Module:
        return Nb201Supernet(self.shape, self.skeleton)

    def to_python(self, genotype: Genotype) -> str:
        """Classes of the cell, the residual block and `Network`."""
        self.check(genotype)
        genes = Genes.of(genotype)
        live, skeleton, shape = live_edges(genes.cell), genes.skeleton, self.shape
        made, lines, reached = list[str](), list[str](), {0}
        for (start, end), op in zip(EDGES, live, strict=True):
            if op != NONE:
                made.append(f"self.edge{start}{end} = {Edge(OPS[op], 1, 1, 0).source('channels')}")
                so_far = f"x{end} + " if end in reached else ""
                lines.append(f"x{end} = {so_far}self.edge{start}{end}(x{start})")
                reached.add(end)
        lines.append(f"return x{NODES - 1}" if made else "return x0 * 0.0  # nothing connects input and output")
        channels, side, stages = skeleton.channels, skeleton.side, list[str]()
        for reduction in (*_reductions(skeleton), None):
            stages.append(f"*(Cell({channels}) for _ in range({skeleton.cells})),")
            if reduction is not None:
                stages.append(f"Reduction({channels}),  # from side {reduction.side}")
                channels *= 2
        network = f'''
class Cell(nn.Module):
    """{to_string(genes.cell)}"""

    def __init__(self, channels: int):
        super().__init__()
{indented(made, 2)}

    def forward(self, x0: Tensor) -> Tensor:
{indented(lines, 2)}


class Reduction(nn.Module):
    """Half the resolution, rounded up, and twice the channels."""

    def __init__(self, channels: int):
        super().__init__()
        self.main = nn.Sequential(
            convolution(channels, 2 * channels, 3, stride=2),
            convolution(2 * channels, 2 * channels, 3),
        )
        self.shortcut = nn.Sequential(
            nn.AvgPool2d(2, ceil_mode=True, count_include_pad=False),
            nn.Conv2d(channels, 2 * channels, 1, bias=False),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.main(x) + self.shortcut(x)


class Network(nn.Module):
    """Normalised pictures (B, {shape.channels}, {side}, {side}) to logits (B, {shape.classes})."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d({shape.channels}, {skeleton.channels}, 3, padding=1, bias=False),
            Norm({skeleton.channels}),
        )
        self.cells = nn.Sequential(
{indented(stages, 3)}
        )
        self.norm = Norm({channels})
        self.head = nn.Linear({channels}, {shape.classes})

    def forward(self, images: Tensor) -> Tensor:
        x = self.cells(self.stem(images))
        x = F.relu(self.norm(x)).mean((2, 3))  # (B, {channels})
        return self.head(x) / {channels}
'''
        return module_of(self.describe(genotype), network)

    def describe(self, genotype: Genotype) -> str:
        genes, cost = Genes.of(genotype), self.cost(genotype)
        skeleton = genes.skeleton
        return (
            f"A network of {_STAGES} × {skeleton.cells} cells {to_string(genes.cell)} with {skeleton.channels} to "
            f"{4 * skeleton.channels} channels that sees {skeleton.side}×{skeleton.side} pictures; "
            f"{cost.params:,} parameters, {cost.flops:,} multiply-adds."
        )


def _with_op(genes: Genes, edge: int, op: str) -> Genes:
    return replace(genes, cell=(*genes.cell[:edge], op, *genes.cell[edge + 1 :]))


@lru_cache(maxsize=20_000)
def _cost(shape: Shape, live: Cell, skeleton: Skeleton) -> Cost:
    channels, side = skeleton.channels, skeleton.side
    costs = list(Edge((Convolution(3, 3),), shape.channels, channels, side).costs())
    for reduction in (*_reductions(skeleton), None):
        for op in live:
            edge = Edge(OPS[op], channels, channels, side)
            costs += [cost for cost in edge.costs() for _ in range(skeleton.cells)]
        pooled = {start for (start, _), op in zip(EDGES, live, strict=True) if OPS[op] == OPS["avg_pool_3x3"]}
        costs.append(Cost(0, 0, len(pooled) * skeleton.cells * channels * side**2))  # pooling keeps what it takes
        if reduction is not None:
            costs += reduction.costs()
            channels, side = 2 * channels, reduction.halved
    head = channels * shape.classes
    return Cost(
        params=sum(cost.params for cost in costs) + channels + head + shape.classes,
        flops=sum(cost.flops for cost in costs) + head,
        activations=sum(cost.activations for cost in costs) + 2 * channels * side**2,
    )
