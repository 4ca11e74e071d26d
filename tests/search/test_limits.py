"""Hard limits: what is proposed, what is refused and in which words, in every space."""

from itertools import islice
from random import Random

import pytest

from search import catalog
from search.floor import floor
from search.limits import Limits, Measured, OverLimitError, foretold, measured_of, nearest, reachable, within
from search.space import Genotype, OneShot, Progressive, Scalable, Shape, Space, Tokenised
from search.spaces import space_for
from search.spaces.nb201 import Nb201Space
from tests.search.spaces import small_space
from tests.search.test_strategies import fresh

LABELS = ["cat", "dog", "hen", "fox", "owl"]
PROTOCOLS = (Space, Tokenised, Scalable, Progressive, OneShot)


@pytest.fixture(params=catalog.SPACES)
def space(request: pytest.FixtureRequest) -> Space:
    return small_space(request.param)


def strict(space: Space, kind: str) -> Limits:
    """Limits that the smaller third of some draws is inside of."""
    costs = [space.cost(space.sample(Random(seed))) for seed in range(30)]
    params, flops = (sorted(getattr(cost, name) for cost in costs)[10] for name in ("params", "flops"))
    return {
        "params": Limits(params=params),
        "flops": Limits(flops=flops),
        "both": Limits(params=params, flops=flops),
        "size": Limits(size_mb=4 * params / 1e6),
    }[kind]


@pytest.fixture(params=["params", "flops", "both", "size"])
def limits(request: pytest.FixtureRequest, space: Space) -> Limits:
    return strict(space, request.param)


def is_inside(space: Space, limits: Limits, genotype: Genotype) -> bool:
    space.check(genotype)
    cost = space.cost(genotype)
    return (
        cost.params <= (limits.params or cost.params)
        and cost.flops <= (limits.flops or cost.flops)
        and 4e-6 * cost.params <= (limits.size_mb or 1e9)
    )


def test_nothing_outside_the_limits_is_proposed(space: Space, limits: Limits) -> None:
    limited = within(space, limits)
    for seed in range(15):
        genotype = limited.sample(Random(seed))
        assert is_inside(space, limits, genotype)
        assert is_inside(space, limits, limited.mutate(genotype, Random(seed)))
        for neighbour in islice(limited.neighbours(genotype), 20):
            assert is_inside(space, limits, neighbour)
        limited.check(genotype)


def test_a_change_of_something_outside_is_inside(space: Space, limits: Limits) -> None:
    limited = within(space, limits)
    outside = next(g for seed in range(100) if not is_inside(space, limits, g := space.sample(Random(seed))))
    assert is_inside(space, limits, limited.mutate(outside, Random(1)))


def test_any_tokens_mean_a_network_inside_the_limits_and_always_the_same(space: Space, limits: Limits) -> None:
    limited = within(space, limits)
    assert isinstance(limited, Tokenised)
    assert isinstance(space, Tokenised)
    assert limited.decisions() == space.decisions()
    for seed in range(15):
        random = Random(seed)
        tokens = [random.randrange(len(each.choices)) for each in space.decisions()]
        genotype = limited.from_tokens(tokens)
        assert is_inside(space, limits, genotype)
        assert limited.from_tokens(tokens) == genotype
        if is_inside(space, limits, space.from_tokens(tokens)):
            assert genotype == space.from_tokens(tokens)


def test_scaling_stays_inside_the_limits(space: Space, limits: Limits) -> None:
    limited = within(space, limits)
    assert isinstance(limited, Scalable)
    genotype = limited.sample(Random(3))
    for flops in (10_000, 1_000_000, 100_000_000, 10_000_000_000):
        assert is_inside(space, limits, limited.scaled(genotype, flops))


def test_scaling_uses_most_of_what_is_allowed() -> None:
    space, limits = small_space("cell"), Limits(params=1_000_000)
    limited = within(space, limits)
    assert isinstance(limited, Scalable)
    scaled = limited.scaled(space.sample(Random(0)), 10**12)
    assert 700_000 < space.cost(scaled).params <= 1_000_000


def test_an_architecture_is_not_made_smaller_where_a_larger_skeleton_is_outside(space: Space) -> None:
    genotype = space.sample(Random(4))
    cost = space.cost(genotype)
    limited = within(space, Limits(params=cost.params, flops=cost.flops))
    assert isinstance(limited, Scalable)
    scaled = limited.scaled(genotype, 10 * cost.flops)
    assert is_inside(space, Limits(params=cost.params, flops=cost.flops), scaled)
    assert space.cost(scaled).flops >= cost.flops


def test_draws_differ_where_hardly_anything_is_inside(space: Space) -> None:
    smallest = space.cost(nearest(space, Limits(params=1), space.sample(Random(0)))).params
    limited = within(space, Limits(params=int(1.3 * smallest)))
    drawn = [limited.sample(Random(seed)) for seed in range(20)]
    assert drawn == [within(space, Limits(params=int(1.3 * smallest))).sample(Random(seed)) for seed in range(20)]
    assert len({space.key(each) for each in drawn}) > 10
    changed = [limited.mutate(each, Random(1)) for each in drawn]
    assert sum(space.key(a) != space.key(b) for a, b in zip(drawn, changed, strict=True)) > 10


def test_a_space_keeps_its_protocols(space: Space) -> None:
    limited = within(space, Limits(params=10**9))
    assert [isinstance(limited, each) for each in PROTOCOLS] == [isinstance(space, each) for each in PROTOCOLS]
    assert (limited.name, limited.shape) == (space.name, space.shape)
    assert within(space, Limits()) is space


def test_what_is_likely_too_slow_is_not_proposed_and_yet_legal_where_it_comes_from_elsewhere(space: Space) -> None:
    likely = strict(space, "flops")
    limited = within(space, Limits(latency_ms=5.0), likely)
    outside = next(g for seed in range(100) if not is_inside(space, likely, g := space.sample(Random(seed))))
    limited.check(outside)
    assert all(is_inside(space, likely, limited.sample(Random(seed))) for seed in range(15))


def test_cells_grow_inside_the_limits() -> None:
    space = small_space("cell")
    smallest = space.cost(nearest(space, Limits(params=1), space.sample(Random(0)))).params
    limits = Limits(params=3 * smallest)
    limited = within(space, limits)
    assert isinstance(limited, Progressive)
    one = list(limited.smallest())
    assert one
    for genotype in one[:20]:
        assert is_inside(space, limits, genotype)
        for grown in islice(limited.grown(genotype), 5):
            assert is_inside(space, limits, grown)
            assert limited.size(grown) == 2
        continued = limited.continued(genotype, Random(1))
        assert continued is None or is_inside(space, limits, continued)


@pytest.mark.parametrize("strategy", [name for name in catalog.STRATEGIES if name != "fixed"])
def test_no_strategy_proposes_what_is_outside(strategy: str) -> None:
    space = small_space("cell")
    limits = strict(space, "both")
    proposed = fresh((strategy, within(space, limits), {})).ask(8, [])
    assert len(proposed) == 8
    assert all(is_inside(space, limits, each.genotype) for each in proposed)


def test_what_is_outside_is_refused_with_the_limit_the_value_and_the_nearest(space: Space) -> None:
    limits = strict(space, "params")
    outside = next(g for seed in range(100) if not is_inside(space, limits, g := space.sample(Random(seed))))
    with pytest.raises(OverLimitError) as refusal:
        within(space, limits).check(outside)
    message = str(refusal.value)
    assert f"max_params: {limits.params:,}; this network has {space.cost(outside).params:,} parameters" in message
    assert "the nearest that was found: A" in message


def test_a_limit_that_no_network_meets_is_refused_with_the_smallest(space: Space) -> None:
    with pytest.raises(OverLimitError) as refusal:
        foretold(space, Limits(params=100), LABELS)
    assert "max_params: 100; the smallest network of space" in str(refusal.value)
    smallest = int(str(refusal.value).split(" has ")[1].split()[0].replace(",", ""))
    assert space.cost(reachable(space, Limits(params=smallest))).params == smallest


def test_the_smallest_that_is_found_is_the_smallest_there_is() -> None:
    space = small_space("nb201")
    assert isinstance(space, Nb201Space)
    some = min(space.cost(space.sample(Random(seed))).flops for seed in range(300))
    with pytest.raises(OverLimitError, match="max_flops: 1,000") as refusal:
        reachable(space, Limits(flops=1_000))
    assert int(str(refusal.value).split(" has ")[1].split()[0].replace(",", "")) <= some


def test_a_file_is_as_large_and_an_answer_takes_as_long_as_measured_before_training() -> None:
    small, large = (space_for("cell", Shape(3, 32, 4), {"filters": filters}) for filters in (4, 64))
    of_small, of_large = (measured_of(each, each.sample(Random(0)), LABELS[:4]) for each in (small, large))
    assert of_small.latency_ms < of_large.latency_ms
    assert of_small.size_bytes < of_large.size_bytes
    assert of_large.size_bytes > 4 * large.cost(large.sample(Random(0))).params


def test_a_limit_that_is_measured_is_foretold_and_refused_where_nothing_meets_it(space: Space) -> None:
    likely = foretold(space, Limits(size_mb=10.0, latency_ms=1000.0), LABELS)
    assert likely.params is not None
    assert 1_000_000 < likely.params < 2_500_000
    assert likely.flops is not None
    with pytest.raises(OverLimitError, match=r"max_latency_ms: 0\.0001; the smallest network of space .* ms"):
        foretold(space, Limits(latency_ms=0.0001), LABELS)
    with pytest.raises(OverLimitError, match=r"max_size_mb: 0\.001; the smallest network of space .* MB"):
        foretold(space, Limits(size_mb=0.001), LABELS)


def test_the_labels_count_for_the_file() -> None:
    space = small_space("stages")
    genotype = space.sample(Random(0))
    short, long = (measured_of(space, genotype, [letter * 1000 for letter in letters]) for letters in (["", ""], "ab"))
    assert long.size_bytes >= short.size_bytes + 2000


def test_a_measured_limit_names_limit_and_value() -> None:
    limits = Limits(size_mb=1.0, latency_ms=2.0)
    words = [words.format("it has") for _, words in limits.measured_shares(Measured(1_500_000, 5.0))]
    assert words == ["max_size_mb: 1; it has 1.5 MB as an ONNX file", "max_latency_ms: 2; it has 5 ms for a picture"]


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("limits", [Limits(params=5_000), Limits(flops=500_000), Limits(size_mb=0.05)])
def test_the_floor_is_as_large_as_the_limits_allow(channels: int, limits: Limits) -> None:
    shape = Shape(channels, 32, 10)
    genotype = floor(shape, 5_000, flops_per_s=1e11, seconds=600, limits=limits, labels=LABELS)
    space = space_for("stages", shape, {})
    assert is_inside(space, limits, genotype)
    limits.measure(space, genotype, LABELS)
    assert (
        limits.excess(space.cost(genotype)) > 0.2
    )  # widths come in steps of eight, and a file is more than its weights


def test_a_floor_that_no_limit_allows_is_refused_with_the_smallest() -> None:
    with pytest.raises(OverLimitError, match="max_params: 100; the smallest floor that was found has"):
        floor(Shape(3, 32, 10), 5_000, flops_per_s=1e11, seconds=600, limits=Limits(params=100))


def test_without_limits_the_floor_is_what_it_was() -> None:
    shape = Shape(3, 32, 10)
    assert floor(shape, 5_000, flops_per_s=1e10, seconds=60) == floor(
        shape, 5_000, flops_per_s=1e10, seconds=60, limits=Limits(params=10**9, size_mb=1000, latency_ms=60_000)
    )
