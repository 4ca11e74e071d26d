"""NASNet's cells: when two are the same, and what the published op sets offer."""

from itertools import islice
from random import Random

import networkx as nx
import numpy as np
import pytest
import torch

from search.space import InvalidGenotypeError, Shape
from search.spaces.cell import OP_SETS, OPS, Block, Cell, CellModule, CellNetwork, CellSpace, DropPath, Edge, Genes

SHAPE = Shape(3, 16, 5)
SKELETON = CellSpace(SHAPE, filters=4).skeleton


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
        normal, reduction = (reordered(cell, Random(seed)) for cell in genes)
        other = Genes(normal, reduction, genes.skeleton)
        assert space.key(other.to_genotype()) == space.key(genes.to_genotype())
        assert np.array_equal(space.features(other.to_genotype()), space.features(genes.to_genotype()))
        assert space.cost(other.to_genotype()) == space.cost(genes.to_genotype())


def test_equal_keys_mean_isomorphic_cells() -> None:
    """Few ops and few blocks, so that many pairs of draws are the same cell or nearly so."""
    space = CellSpace(SHAPE, blocks=3, filters=4)
    space.ops = OP_SETS["fast"][:2]
    reduction = Genes.of(space.sample(Random(0))).reduction
    cells = [Genes.of(space.sample(Random(seed))).normal for seed in range(120)]
    keys = [space.key(Genes(cell, reduction, SKELETON).to_genotype()) for cell in cells]
    same = 0
    for one in range(len(cells)):
        for other in range(one):
            assert (keys[one] == keys[other]) == isomorphic(cells[one], cells[other])
            same += keys[one] == keys[other]
    assert same > 5


def test_a_copy_of_a_block_is_not_the_block_used_twice() -> None:
    twin, last = Block((0, 1), ("conv3x3", "identity")), ("identity", "identity")
    once = Genes((twin, twin, Block((2, 2), last)), (twin, twin, twin), SKELETON).to_genotype()
    twice = Genes((twin, twin, Block((2, 3), last)), (twin, twin, twin), SKELETON).to_genotype()
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


def test_a_genotype_alone_says_what_the_network_is() -> None:
    small, large = CellSpace(SHAPE, blocks=2, filters=4), CellSpace(SHAPE, blocks=2, filters=12, cells=3)
    genotype = large.sample(Random(0))
    assert small.cost(genotype) == large.cost(genotype)
    assert small.build(genotype).state_dict().keys() == large.build(genotype).state_dict().keys()
    assert small.key(genotype) != small.key(small.sample(Random(0)))
    assert Genes.of(small.mutate(genotype, Random(1))).skeleton == large.skeleton


def test_tied_cells_are_one_at_two_strides() -> None:
    space = CellSpace(SHAPE, blocks=3, filters=4, tied=True)
    genotype = space.sample(Random(0))
    for each in (genotype, space.mutate(genotype, Random(1)), *islice(space.neighbours(genotype), 10)):
        genes = Genes.of(each)
        assert genes.normal == genes.reduction
        space.check(each)
    assert len(space.decisions()) == 12
    untied = CellSpace(SHAPE, blocks=3, filters=4).sample(Random(0))
    with pytest.raises(InvalidGenotypeError, match="reduction differs from normal"):
        space.check(untied)


def test_cells_grow_block_by_block_as_in_pnas() -> None:
    space = CellSpace(SHAPE, blocks=2, ops="pnas", filters=4, tied=True)
    smallest = list(space.smallest())
    assert len(smallest) == len({space.key(each) for each in smallest}) == 136  # the paper's number
    grown = list(space.grown(smallest[7]))
    assert len(grown) == 24 * 25 // 2
    assert [space.size(each) for each in (smallest[7], grown[0])] == [1, 2]
    assert list(space.grown(grown[0])) == []
    for each in (*smallest[::20], *grown[::50]):
        space.check(each)
        assert space.from_tokens(space.tokens(each)) == each
        assert space.features(each).shape == space.features(grown[0]).shape
        assert space.size(space.mutate(each, Random(0))) == space.size(each)
        assert {space.size(other) for other in islice(space.neighbours(each), 20)} == {space.size(each)}


def test_untied_cells_grow_together() -> None:
    space = CellSpace(SHAPE, blocks=2, filters=4)
    smallest = next(iter(space.smallest()))
    for each in islice(space.grown(smallest), 500):
        space.check(each)
        assert space.size(each) == 2


def test_a_wrong_number_of_tokens_is_refused() -> None:
    with pytest.raises(ValueError, match="7 tokens; four for each block of normal and reduction"):
        CellSpace(SHAPE).from_tokens([0] * 7)


def test_cells_are_taken_to_a_deeper_then_wider_skeleton() -> None:
    space = CellSpace(Shape(3, 32, 10), blocks=2, filters=8)
    genes = Genes.of(space.sample(Random(0)))
    sizes = []
    for flops in (2 * 10**6, 10**7, 10**8, 10**9):
        scaled = space.scaled(genes.to_genotype(), flops)
        space.check(scaled)
        assert space.cost(scaled).flops <= flops
        assert (Genes.of(scaled).normal, Genes.of(scaled).reduction) == (genes.normal, genes.reduction)
        sizes.append((Genes.of(scaled).skeleton.cells, Genes.of(scaled).skeleton.filters))
    assert sizes == sorted(sizes)
    assert sizes[-1][0] == 6
    least = space.scaled(genes.to_genotype(), 1)
    assert (Genes.of(least).skeleton.cells, Genes.of(least).skeleton.filters) == (1, 4)


def test_cells_found_on_small_pictures_see_large_ones_when_scaled() -> None:
    genotype = CellSpace(Shape(3, 64, 10), blocks=2, side=16).sample(Random(0))
    scaled = CellSpace(Shape(3, 64, 10), blocks=2, side=48).scaled(genotype, 10**8)
    assert Genes.of(scaled).skeleton.side == 48


def test_graph_counts_tell_the_least_and_the_most_of_an_operation_on_a_path() -> None:
    chain = (Block((0, 1), ("conv3x3", "identity")), Block((2, 2), ("conv3x3", "max3x3")))
    space = CellSpace(SHAPE, blocks=2, filters=4, tied=True)
    row = space.features(Genes(chain, chain, SKELETON).to_genotype())
    counts = row[2 + 2 * 2 * (3 + 5) + 15 :].tolist()  # behind sizes, choices and occurrences
    by_op = dict(zip((*space.ops, "length"), zip(counts[::2], counts[1::2], strict=False), strict=False))
    assert by_op["conv3x3"] == (0, 2)
    assert by_op["max3x3"] == (0, 1)
    assert by_op["conv1x1"] == (0, 0)
    assert by_op["length"] == (2, 2)
    assert counts[12:] == [1, 1, 2, 1, 2]  # degrees of the inputs and the blocks, width of the output, blocks


def test_paths_are_dropped_more_often_later_and_deeper_and_never_when_answering() -> None:
    space = CellSpace(SHAPE, blocks=2, filters=4, drop_path=0.6)
    network = space.build(space.sample(Random(0)))
    assert isinstance(network, CellNetwork)
    cells = [cell for cell in network.cells if isinstance(cell, CellModule)]
    images = torch.randn(4, 3, 16, 16)
    network.set_progress(0.5, torch.Generator().manual_seed(0))
    np.testing.assert_allclose([cell.drop_path.probability for cell in cells], [0.06, 0.12, 0.18, 0.24, 0.3])
    one = network(images)
    network.set_progress(0.5, torch.Generator().manual_seed(0))
    assert torch.equal(network(images), one)  # a function of the generator
    network.set_progress(1.0, torch.Generator().manual_seed(1))
    assert not torch.equal(network(images), one)
    network.eval()
    plain = replace_drop_path(space, 0.0).build(space.sample(Random(0))).eval()
    plain.load_state_dict(network.state_dict())
    assert torch.equal(network(images), plain(images))


def replace_drop_path(space: CellSpace, drop_path: float) -> CellSpace:
    return CellSpace(space.shape, blocks=space.blocks, filters=space.skeleton.filters, drop_path=drop_path)


def test_what_is_dropped_is_made_up_for() -> None:
    drop = DropPath(0.5)
    drop.probability, drop.random = 0.25, torch.Generator().manual_seed(0)
    answers = drop(torch.ones(4000, 2, 1, 1))
    assert answers.unique().tolist() == [0.0, pytest.approx(4 / 3)]
    assert torch.equal(answers[:, 0], answers[:, 1])  # a path is dropped as a whole
    assert abs(answers.mean().item() - 1) < 0.05
