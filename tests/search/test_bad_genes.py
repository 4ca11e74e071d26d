"""Genes of any JSON, as callers may send them: refused with their place, or whole enough for everything that follows."""

import json
from random import Random

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from search import catalog
from search.space import Genotype, InvalidGenotypeError, Json, Space, Tokenised
from tests.search.damage import damaged
from tests.search.spaces import small_space

quickly = settings(
    max_examples=60, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck)
)
LEAVES = (
    st.none()
    | st.booleans()
    | st.integers(-3, 70)
    | st.sampled_from([2**31, 2**70, -(2**70), 10**400])
    | st.floats(allow_nan=False)
    | st.sampled_from(["", "conv3x3", "identity", "relu", "0", "\u2028", "|nor_conv_3x3~0|"])
    | st.text(max_size=5)
)
DOCUMENTS = st.recursive(
    LEAVES,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=8,
)


@pytest.fixture(params=catalog.SPACES)
def space(request: pytest.FixtureRequest) -> Space:
    return small_space(request.param)


def refused(space: Space, genotype: Genotype) -> str | None:
    """Why, None when it is legal; then everything else has to work as well."""
    try:
        space.check(genotype)
    except InvalidGenotypeError as refusal:
        return str(refusal)
    cost = space.cost(genotype)
    assert min(cost.params, cost.flops, cost.activations) > 0
    assert len(space.key(genotype)) > 0
    assert space.features(genotype).ndim == 1
    assert space.describe(genotype)
    assert space.recipe(genotype).side > 0
    assert "class Network" in space.to_python(genotype)
    space.check(space.mutate(genotype, Random(0)))
    if isinstance(space, Tokenised):
        space.tokens(genotype)
    assert json.loads(json.dumps(genotype.to_json(), allow_nan=False)) == genotype.to_json()
    return None


def test_genes_with_one_thing_wrong_are_refused_with_its_place_or_work(space: Space) -> None:
    genes = [space.sample(Random(seed)).genes for seed in range(5)]
    for seed in range(400):
        wrong, place = damaged(genes[seed % len(genes)], Random(seed))
        why = refused(space, Genotype.of(space.name, wrong))
        if why is not None:
            assert any(isinstance(step, str) and step in why for step in [*place, "odd"]), (why, place)
            assert len(why) < 410


def test_any_json_object_is_refused_as_genes(space: Space) -> None:
    known = space.sample(Random(0)).genes

    @quickly
    @given(st.dictionaries(st.sampled_from(sorted(known)) | st.text(max_size=6), DOCUMENTS, max_size=6))
    def check(genes: dict[str, Json]) -> None:
        why = refused(space, Genotype.of(space.name, genes))
        assert why
        assert len(why) < 410

    check()
