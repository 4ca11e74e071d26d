"""NASNet's cells: when two are the same, and what the published op sets offer."""

from random import Random

import networkx as nx
import numpy as np
import pytest
import torch

from search.space import Shape
from search.spaces.cell import OP_SETS, OPS, Block, Cell, CellSpace, Edge, Genes

SHAPE = Shape(3, 16, 5)


def graph_of(cell: Cell) -> nx.MultiDiGraph:
    graph = nx.MultiDiGraph()
    graph.add_nodes_from([(0, {"kind": "before"}), (1, {"kind": "last"})])
    for number, block in enumerate(cell):
        graph.add_node(number + 2, kind="block")
        for state, op in zip(block.inputs, block.ops, strict=True):
            graph.add_edge(state, number + 2, op=op)
    return graph


def isomorphic(one: Cell, other: Cell) -> bool:
    return nx.is_isomorphic(
        graph_of(one),
        graph_of(other),
        node_match=lambda a, b: a["kind"] == b["kind"],
        edge_match=lambda a, b: sorted(e["op"] for e in a.values()) == sorted(e["op"] for e in b.values()),
    )


def reordered(cell: Cell, random: Random) -> Cell:
    """The same cell, its blocks in another order that names no state before it exists, halves swapped by chance."""
    names, blocks, left = {0: 0, 1: 1}, list[Block](), list(range(len(cell)))
    while left:
        ready = [number for number in left if all(state in names for state in cell[number].inputs)]
        number = random.choice(ready)
        left.remove(number)
        halves = [(names[state], op) for state, op in zip(cell[number].inputs, cell[number].ops, strict=True)]
        random.shuffle(halves)
        names[number + 2] = 2 + len(blocks)
        blocks.append(Block((halves[0][0], halves[1][0]), (halves[0][1], halves[1][1])))
    return tuple(blocks)


def test_renamed_cells_share_key_and_features() -> None:
    space = CellSpace(SHAPE, blocks=5, filters=4)
    for seed in range(30):
        genes = Genes.of(space.sample(Random(seed)))
        other = Genes(*(reordered(cell, Random(seed)) for cell in genes))
        assert space.key(other.to_genotype()) == space.key(genes.to_genotype())
        assert np.array_equal(space.features(other.to_genotype()), space.features(genes.to_genotype()))
        assert space.cost(other.to_genotype()) == space.cost(genes.to_genotype())


def test_equal_keys_mean_isomorphic_cells() -> None:
    """Few ops and few blocks, so that many pairs of draws are the same cell or nearly so."""
    space = CellSpace(SHAPE, blocks=3, filters=4)
    space.ops = OP_SETS["fast"][:2]
    reduction = Genes.of(space.sample(Random(0))).reduction
    cells = [Genes.of(space.sample(Random(seed))).normal for seed in range(120)]
    keys = [space.key(Genes(cell, reduction).to_genotype()) for cell in cells]
    same = 0
    for one in range(len(cells)):
        for other in range(one):
            assert (keys[one] == keys[other]) == isomorphic(cells[one], cells[other])
            same += keys[one] == keys[other]
    assert same > 5


def test_a_copy_of_a_block_is_not_the_block_used_twice() -> None:
    twin, last = Block((0, 1), ("conv3x3", "identity")), ("identity", "identity")
    once = Genes((twin, twin, Block((2, 2), last)), (twin, twin, twin)).to_genotype()
    twice = Genes((twin, twin, Block((2, 3), last)), (twin, twin, twin)).to_genotype()
    space = CellSpace(SHAPE, blocks=3, filters=4)
    assert space.key(once) != space.key(twice)
    assert space.cost(once).params > space.cost(twice).params  # the copy nobody takes is a part of the output


def test_the_op_sets_are_the_published_ones() -> None:
    assert {name: len(ops) for name, ops in OP_SETS.items()} == {"fast": 5, "enas": 5, "pnas": 8, "nasnet": 13}
    assert set(OPS) == {op for ops in OP_SETS.values() for op in ops}


@pytest.mark.parametrize("op", OPS)
@pytest.mark.parametrize("stride", [1, 2])
def test_an_operation_keeps_or_halves_the_map_and_costs_what_it_says(op: str, stride: int) -> None:
    edge = Edge(OPS[op], 6, 5 if not op.startswith(("identity", "avg", "max")) else 6, 7, stride)
    module = edge.build()
    out = module(torch.randn(2, 6, 7, 7))
    assert out.shape == (2, edge.outputs, 7 if stride == 1 else 4, 7 if stride == 1 else 4)
    assert sum(cost.params for cost in edge.costs()) == sum(p.numel() for p in module.parameters() if p.requires_grad)


def test_the_skeleton_has_normal_cells_between_two_reductions() -> None:
    space = CellSpace(Shape(3, 32, 10), blocks=2, cells=2, filters=8)
    genotype = space.sample(Random(0))
    network = space.build(genotype)
    seen: list[tuple[int, ...]] = []
    for cell in network.cells:  # type: ignore[union-attr]  # a ModuleList
        cell.register_forward_hook(lambda _module, _input, output: seen.append(tuple(output.shape)))
    network(torch.zeros(1, 3, 32, 32))
    assert [shape[2] for shape in seen] == [32, 32, 16, 16, 16, 8, 8, 8]
    assert [shape[1] % (8 * 32 // shape[2]) for shape in seen] == [0] * 8


def test_a_network_answers_at_other_resolutions() -> None:
    space = CellSpace(SHAPE, blocks=2, filters=4)
    network = space.build(space.sample(Random(1)))
    assert network(torch.zeros(2, 3, 11, 11)).shape == (2, 5)
