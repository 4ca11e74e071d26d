"""ENAS's whole networks: for each layer one of six operations and any skip connections.

Pham et al. 2018, arXiv:1802.03268 (macro search), and the authors' code. After a 3×3 convolution come `layers` layers.
A layer brings the layer before it to F channels (1×1) and applies its operation; then, from the second layer on, that answer
and the answers of any earlier layers that it skips to are concatenated and brought back to F channels (1×1). After a
third and two thirds of the layers every state is halved (factorised reduction) and F doubles, as the authors' final
networks do. The mean over the map and one linear layer close it. 6^L · 2^(L(L-1)/2) networks.

Departures: where the final network of the authors' code knows no separable convolutions and no pooling (`_fixed_layer`), those of
its supernet stand; states that no later layer takes are not halved; a ReLU before the mean; normalisation has a shift but
no scale, and the head's start is that of space `stages`, as the trainer's optimizer expects.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from itertools import pairwise
from random import Random

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from search import catalog
from search.space import Cost, Decision, Genotype, InvalidGenotypeError, Json, Recipe, Shape
from search.spaces.cell import Convolution, Edge, Norm, Part, Pooling, SharedJoin, Shrinking
from search.spaces.skeleton import check_skeleton, largest_within, recipe_at
from search.spaces.writing import indented, module_of

NAME = "macro"
_SCALED_FILTERS = 4  # F is scaled in multiples of this

OPS: Mapping[str, tuple[Part, ...]] = {
    "conv3x3": (Convolution(1, 1), Convolution(3, 3)),
    "sep3x3": (Convolution(1, 1), Convolution(3, 3, separable=True)),
    "conv5x5": (Convolution(1, 1), Convolution(5, 5)),
    "sep5x5": (Convolution(1, 1), Convolution(5, 5, separable=True)),
    "avg3x3": (Convolution(1, 1), Pooling("avg", 3)),
    "max3x3": (Convolution(1, 1), Pooling("max", 3)),
}


# ---------------------------------------------------------------------------------------------- genes


@dataclass(frozen=True, slots=True)
class Layer:
    """skips: states beside the last that the layer takes, ascending; 0 is the stem, n the answer of the nth layer."""

    op: str
    skips: tuple[int, ...]

    def with_skip_flipped(self, state: int) -> "Layer":
        return replace(self, skips=tuple(sorted({*self.skips} ^ {state})))


@dataclass(frozen=True, slots=True)
class Skeleton:
    """filters: F, of the first layers; doubled at each of the two reductions. side: training resolution in pixels."""

    filters: int
    side: int


@dataclass(frozen=True, slots=True)
class Genes:
    """The genes of a genotype, typed."""

    layers: tuple[Layer, ...]
    skeleton: Skeleton

    def to_genotype(self) -> Genotype:
        layers = [{"op": layer.op, "skips": list(layer.skips)} for layer in self.layers]
        return Genotype.of(NAME, {"layers": layers, "skeleton": asdict(self.skeleton)})

    @classmethod
    def of(cls, genotype: Genotype) -> "Genes":
        """Raises InvalidGenotypeError for what is not layers and a skeleton; legal values are the space's matter."""
        if genotype.space != NAME:
            raise InvalidGenotypeError(f"a genotype of space {genotype.space!r} was given to space {NAME!r}")
        genes = genotype.genes
        if set(genes) != {"layers", "skeleton"}:
            raise InvalidGenotypeError(f"genes are {', '.join(sorted(genes)) or 'empty'}; needed: layers, skeleton")
        layers, skeleton, names = genes["layers"], genes["skeleton"], [field.name for field in fields(Skeleton)]
        if not isinstance(layers, list):
            raise InvalidGenotypeError(f"layers is {layers!r}; needed: a list of layers")
        if not isinstance(skeleton, Mapping) or set(skeleton) != set(names):
            raise InvalidGenotypeError(f"skeleton is {skeleton!r}; needed: an object of {', '.join(names)}")
        return cls(tuple(_layer_of(f"layers[{n}]", layer) for n, layer in enumerate(layers)), Skeleton(**skeleton))


def _layer_of(place: str, layer: Json) -> Layer:
    if not isinstance(layer, Mapping) or set(layer) != {"op", "skips"} or not isinstance(layer["skips"], list):
        raise InvalidGenotypeError(f'{place} is {layer!r}; needed: {{"op": name, "skips": [state, …]}}')
    return Layer(layer["op"], tuple(layer["skips"]))


# ---------------------------------------------------------------------------------------------- layout


@dataclass(frozen=True, slots=True)
class LayerLayout:
    """One layer in its place. join: brings the concatenated states back to F channels; None in the first layer.
    halved: edges that halve the states still needed, by state, where a reduction follows."""

    op: Edge
    skips: tuple[int, ...]
    join: Edge | None
    halved: Mapping[int, Edge]
    filters: int  # behind the layer and its reduction
    side: int

    def edges(self) -> Iterator[Edge]:
        yield self.op
        if self.join is not None:
            yield self.join
        yield from self.halved.values()


def reductions(layers: int) -> tuple[int, int]:
    """After how many layers everything is halved."""
    return layers // 3, 2 * (layers // 3)


def laid_out(genes: Genes) -> list[LayerLayout]:
    filters, side, layout = genes.skeleton.filters, genes.skeleton.side, []
    for number, layer in enumerate(genes.layers, 1):
        op = Edge(OPS[layer.op], filters, filters, side)
        taken = (len(layer.skips) + 1) * filters
        join = Edge((Convolution(1, 1),), taken, filters, side) if number > 1 else None
        halved: dict[int, Edge] = {}
        if number in reductions(len(genes.layers)):
            needed = {number} | {state for later in genes.layers[number:] for state in later.skips if state <= number}
            halved = {state: Edge((Shrinking(),), filters, 2 * filters, side, 2) for state in sorted(needed)}
            filters, side = 2 * filters, (side + 1) // 2
        layout.append(LayerLayout(op, layer.skips, join, halved, filters, side))
    return layout


# ---------------------------------------------------------------------------------------------- networks


class MacroNetwork(nn.Module):
    """float (B, C, S, S), normalised, of any S, to logits (B, classes)."""

    def __init__(self, channels: int, filters: int, layers: Sequence[LayerLayout], classes: int) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(channels, filters, 3, padding=1, bias=False), Norm(filters))
        self.skips = [layer.skips for layer in layers]
        self.halved = [tuple(layer.halved) for layer in layers]
        for number, layer in enumerate(layers, 1):
            self.add_module(f"layer{number}", layer.op.build())
            if layer.join is not None:
                self.add_module(f"join{number}", layer.join.build())
            for state, edge in layer.halved.items():
                self.add_module(f"halve{state}_after{number}", edge.build())
        last = layers[-1].filters
        self.head = nn.Linear(last, classes)
        nn.init.normal_(self.head.weight, std=1.0)
        nn.init.zeros_(self.head.bias)
        self.scale = 1 / last

    def forward(self, images: Tensor) -> Tensor:
        states: list[Tensor] = [self.stem(images)]
        for number, (skips, halved) in enumerate(zip(self.skips, self.halved, strict=True), 1):
            x: Tensor = self.get_submodule(f"layer{number}")(states[-1])  # (B, F, S, S)
            if number > 1:
                x = self.get_submodule(f"join{number}")(torch.cat([*(states[state] for state in skips), x], 1))
            states.append(x)
            for state in halved:
                states[state] = self.get_submodule(f"halve{state}_after{number}")(states[state])  # (B, 2F, S/2, S/2)
        logits: Tensor = self.head(F.relu(states[-1]).mean((2, 3))) * self.scale
        return logits


# ---------------------------------------------------------------------------------------------- shared weights


def _layers_of(tokens: Sequence[int], layers: int) -> list[tuple[int, tuple[int, ...]]]:
    """Operation and skips of each layer. Raises ValueError for another number of tokens than there are decisions."""
    needed = layers * (layers + 1) // 2
    if len(tokens) != needed:
        raise ValueError(f"{len(tokens)} tokens; {needed} are needed for {layers} layers")
    chosen, at = [], 0
    for number in range(layers):
        skips = tuple(state for state in range(number) if tokens[at + 1 + state] % 2)
        chosen.append((tokens[at] % len(OPS), skips))
        at += number + 1
    return chosen


class MacroSupernet(nn.Module):
    """All networks of the space with one set of weights: operations by layer, joins and halvings by layer and state.

    Pham et al. 2018, arXiv:1802.03268, macro search. There skipped states are added; here they go through a 1×1
    convolution each, which is what the stand-alone network does to their concatenation.
    """

    def __init__(self, channels: int, skeleton: Skeleton, layers: int, classes: int) -> None:
        super().__init__()
        filters, side = skeleton.filters, skeleton.side
        self.stem = nn.Sequential(nn.Conv2d(channels, filters, 3, padding=1, bias=False), Norm(filters))
        ops, joins, halvings = list[nn.Module](), list[nn.Module](), list[nn.Module]()
        for number in range(1, layers + 1):
            ops.append(nn.ModuleList(Edge(parts, filters, filters, side).build() for parts in OPS.values()))
            joins.append(SharedJoin(number + 1, filters))
            halving = nn.ModuleList()
            if number in reductions(layers):
                halving.extend(Edge((Shrinking(),), filters, 2 * filters, side, 2).build() for _ in range(number + 1))
                filters, side = 2 * filters, (side + 1) // 2
            halvings.append(halving)
        self.ops, self.joins, self.halvings = nn.ModuleList(ops), nn.ModuleList(joins), nn.ModuleList(halvings)
        self.head = nn.Linear(filters, classes)
        nn.init.normal_(self.head.weight, std=1.0)
        nn.init.zeros_(self.head.bias)
        self.scale = 1 / filters

    def forward(self, images: Tensor, tokens: Sequence[int]) -> Tensor:
        chosen = _layers_of(tokens, len(self.ops))
        states: list[Tensor] = [self.stem(images)]
        for number, (op, skips) in enumerate(chosen, 1):
            x: Tensor = self.ops[number - 1][op](states[-1])  # type: ignore[index]  # a list of lists
            if number > 1:
                x = self.joins[number - 1]({state: states[state] for state in skips} | {number: x})
            states.append(x)
            halving = self.halvings[number - 1]
            if len(halving):  # type: ignore[arg-type]  # a list
                needed = {number} | {state for _, later in chosen[number:] for state in later if state <= number}
                for state in needed:
                    states[state] = halving[state](states[state])  # type: ignore[index]  # a list
        logits: Tensor = self.head(F.relu(states[-1]).mean((2, 3))) * self.scale
        return logits


# ---------------------------------------------------------------------------------------------- space

_RANGES = {option.name: option for option in catalog.SPACES[NAME].options}


class MacroSpace:
    """See `search.space`: a Space that is Tokenised, Scalable and OneShot.

    layers: L, which all genotypes have. filters, side: of the skeleton that new genotypes get.
    """

    name = NAME

    def __init__(self, shape: Shape, *, layers: int = 8, filters: int = 16, side: int = 32) -> None:
        self.shape = shape
        self.layers = layers
        self.ops = tuple(OPS)
        self.skeleton = Skeleton(filters, min(side, shape.side))

    def sample(self, random: Random) -> Genotype:
        """Uniform: each of the networks is as likely."""
        return Genes(
            tuple(
                Layer(random.choice(self.ops), tuple(state for state in range(number) if random.random() < 0.5))
                for number in range(self.layers)
            ),
            self.skeleton,
        ).to_genotype()

    def mutate(self, genotype: Genotype, random: Random) -> Genotype:
        """One operation becomes another, or one skip connection comes or goes."""
        genes = Genes.of(genotype)
        if random.random() < 0.5:
            place = random.randrange(self.layers)
            layer = genes.layers[place]
            changed = replace(layer, op=random.choice([op for op in self.ops if op != layer.op]))
        else:
            place, state = random.choice([(layer, state) for layer in range(self.layers) for state in range(layer)])
            changed = genes.layers[place].with_skip_flipped(state)
        return _with_layer(genes, place, changed)

    def neighbours(self, genotype: Genotype) -> Iterator[Genotype]:
        genes = Genes.of(genotype)
        for place, layer in enumerate(genes.layers):
            for op in self.ops:
                if op != layer.op:
                    yield _with_layer(genes, place, replace(layer, op=op))
            for state in range(place):
                yield _with_layer(genes, place, layer.with_skip_flipped(state))

    def key(self, genotype: Genotype) -> str:
        """No two genotypes are the same network: each layer takes the one before."""
        return genotype.digest()

    # ------------------------------------------------------------------------------------------ tokens and scaling

    def decisions(self) -> tuple[Decision, ...]:
        """Layer by layer, as the authors' controller: the operation, then a yes or no for each earlier state."""
        decisions = []
        for number in range(self.layers):
            decisions.append(Decision(f"layers[{number}].op", "op", self.ops))
            decisions += [
                Decision(f"layers[{number}].skips[{state}]", "skip", ("no", "yes")) for state in range(number)
            ]
        return tuple(decisions)

    def tokens(self, genotype: Genotype) -> tuple[int, ...]:
        tokens = []
        for number, layer in enumerate(Genes.of(genotype).layers):
            tokens += [self.ops.index(layer.op), *(int(state in layer.skips) for state in range(number))]
        return tuple(tokens)

    def from_tokens(self, tokens: Sequence[int]) -> Genotype:
        """Raises ValueError for another number of tokens than there are decisions."""
        layers = tuple(Layer(self.ops[op], skips) for op, skips in _layers_of(tokens, self.layers))
        return Genes(layers, self.skeleton).to_genotype()

    def scaled(self, genotype: Genotype, flops: int) -> Genotype:
        """The same layers with most filters, so that the network has at most `flops` multiply-adds.

        Resolution is the space's own where that is larger. The smallest skeleton when all have more.
        """
        genes = Genes.of(genotype)
        side = min(max(self.skeleton.side, genes.skeleton.side), self.shape.side)
        widths = range(_SCALED_FILTERS, int(_RANGES["filters"].maximum) + 1, _SCALED_FILTERS)

        def at(filters: int) -> Genotype:
            return replace(genes, skeleton=Skeleton(filters, side)).to_genotype()

        return at(largest_within(widths, flops, lambda width: self.cost(at(width)).flops))

    # ------------------------------------------------------------------------------------------ description

    def features(self, genotype: Genotype) -> NDArray[np.float32]:
        """(F,): logarithms of sizes; for each layer its operation one-hot, its skips and how often it is taken; and
        counts over the graph: operations in all and at each resolution, least and most of each on a path through the
        network, the shortest path (the longest takes every layer)."""
        genes, cost = Genes.of(genotype), self.cost(genotype)
        row: list[float] = [np.log10(cost.params), np.log10(cost.flops)]
        taken = [sum(state in later.skips for later in genes.layers) for state in range(self.layers + 1)]
        for number, layer in enumerate(genes.layers):
            row += [float(layer.op == op) for op in self.ops]
            row += [float(state in layer.skips) for state in range(number)]
            row.append(taken[number])
        bounds = (0, *reductions(self.layers), self.layers)
        for start, end in ((0, self.layers), *pairwise(bounds)):
            row += [sum(layer.op == op for layer in genes.layers[start:end]) for op in self.ops]
            row.append(sum(len(layer.skips) for layer in genes.layers[start:end]))
        for weigh in (*({op} for op in self.ops), set(self.ops)):
            least, most = [0], [0]
            for layer in genes.layers:
                own = int(layer.op in weigh)
                least.append(min(least[-1] + own, *(least[state] for state in layer.skips), self.layers))
                most.append(max(most[-1] + own, *(most[state] for state in layer.skips), 0))
            row += [least[-1], most[-1]]
        return np.asarray(row, dtype=np.float32)

    def check(self, genotype: Genotype) -> None:
        genes = Genes.of(genotype)
        if len(genes.layers) != self.layers:
            raise InvalidGenotypeError(f"layers has {len(genes.layers)} entries; this space has {self.layers}")
        for number, layer in enumerate(genes.layers):
            if layer.op not in self.ops:
                raise InvalidGenotypeError(f"layers[{number}].op is {layer.op!r}; possible: {', '.join(self.ops)}")
            for place, state in enumerate(layer.skips):
                earlier = f"0 (the stem){f', 1 to {number - 1} (answers of layers)' if number > 1 else ''}"
                if isinstance(state, bool) or not isinstance(state, int) or not 0 <= state < number:
                    raise InvalidGenotypeError(
                        f"layers[{number}].skips[{place}] is {state!r}; possible: {earlier if number else 'none here'}"
                    )
            if list(layer.skips) != sorted(set(layer.skips)):
                raise InvalidGenotypeError(
                    f"layers[{number}].skips is {list(layer.skips)}; needed: ascending, each state once"
                )
        check_skeleton(asdict(genes.skeleton), _RANGES, self.shape)

    # ------------------------------------------------------------------------------------------ networks

    def cost(self, genotype: Genotype) -> Cost:
        genes = Genes.of(genotype)
        layout, skeleton = laid_out(genes), genes.skeleton
        stem = Edge((Convolution(3, 3),), self.shape.channels, skeleton.filters, skeleton.side)
        costs = [*stem.costs(), *(cost for layer in layout for edge in layer.edges() for cost in edge.costs())]
        last = layout[-1]
        head = last.filters * self.shape.classes
        return Cost(
            params=sum(cost.params for cost in costs) + head + self.shape.classes,
            flops=sum(cost.flops for cost in costs) + head,
            activations=sum(cost.activations for cost in costs) + last.filters * last.side**2,
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
        return MacroNetwork(self.shape.channels, genes.skeleton.filters, laid_out(genes), self.shape.classes)

    def supernet(self) -> nn.Module:
        return MacroSupernet(self.shape.channels, self.skeleton, self.layers, self.shape.classes)

    def to_python(self, genotype: Genotype) -> str:
        """One class, `Network`, a line for each layer."""
        self.check(genotype)
        genes = Genes.of(genotype)
        layout, filters, side = laid_out(genes), genes.skeleton.filters, genes.skeleton.side
        made, lines = list[str](), [f"x0 = self.stem(images)  # (B, {filters}, {side}, {side})"]
        for number, layer in enumerate(layout, 1):
            made.append(f"self.layer{number} = {layer.op.source()}")
            answer = f"self.layer{number}(x{number - 1})"
            if layer.join is not None:
                made.append(f"self.join{number} = {layer.join.source()}")
                skipped = ", ".join(f"x{state}" for state in layer.skips)
                answer = f"self.join{number}({f'torch.cat([{skipped}, {answer}], 1)' if skipped else answer})"
            lines.append(f"x{number} = {answer}  # {genes.layers[number - 1].op}")
            if layer.halved:
                names = {state: f"self.halve{state}_after{number}" for state in layer.halved}
                made += [f"{name} = {layer.halved[state].source()}" for state, name in names.items()]
                lines += [f"x{state} = {name}(x{state})" for state, name in names.items()]
                lines[-1] += f"  # (B, {layer.filters}, {layer.side}, {layer.side})"
        channels, classes, last = self.shape.channels, self.shape.classes, layout[-1].filters
        network = f'''
class Network(nn.Module):
    """Normalised pictures (B, {channels}, S, S) to logits (B, {classes}); trained at S = {side}."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d({channels}, {filters}, 3, padding=1, bias=False), Norm({filters}))
{indented(made, 2)}
        self.head = nn.Linear({last}, {classes})

    def forward(self, images: Tensor) -> Tensor:
{indented(lines, 2)}
        x = F.relu(x{self.layers}).mean((2, 3))  # (B, {last})
        return self.head(x) / {last}
'''
        return module_of(self.describe(genotype), network)

    def describe(self, genotype: Genotype) -> str:
        genes, cost = Genes.of(genotype), self.cost(genotype)
        skeleton, skips = genes.skeleton, sum(len(layer.skips) for layer in genes.layers)
        return (
            f"A network of {len(genes.layers)} layers ({', '.join(layer.op for layer in genes.layers)}) with {skips} skip "
            f"connections and {skeleton.filters} to {4 * skeleton.filters} filters that sees "
            f"{skeleton.side}×{skeleton.side} pictures; {cost.params:,} parameters, {cost.flops:,} multiply-adds."
        )


def _with_layer(genes: Genes, place: int, layer: Layer) -> Genotype:
    return replace(genes, layers=(*genes.layers[:place], layer, *genes.layers[place + 1 :])).to_genotype()
