"""Shared weights, on real handwritten digits."""

import json
import math
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from random import Random

import pytest
import torch
from torch import nn

from search import catalog, supernet
from search.candidate import Fidelity
from search.device import Device
from search.oneshot import FORMS, SupernetGenes
from search.space import Decision, Genotype, InvalidGenotypeError, OneShot, Space, Tokenised
from search.spaces import space_for
from search.spaces.macro import Genes, MacroNetwork, MacroSpace, MacroSupernet
from search.supernet import Shared, describe_supernet, fair_paths, supernet_cost, train_supernet
from search.train import CheckpointError, DivergedError, DoesNotFitError, Point
from tests.search.spaces import SMALL, small_space
from tests.search.test_train import digits, large

SPACE = MacroSpace(digits().shape(), layers=3, filters=4, side=8)
CPU = Device.cpu()
ONE_SHOT = [name for name in catalog.SPACES if isinstance(small_space(name), OneShot)]


@pytest.fixture(autouse=True)
def little_work(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """One thread, and few architectures to look at."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    monkeypatch.setattr(supernet, "_SEARCHED", 8)
    monkeypatch.setattr(supernet, "_DERIVED", 8)
    monkeypatch.setattr(supernet, "_CALIBRATED", 2)
    yield
    torch.set_num_threads(threads)


def shared(fidelity: Fidelity, form: str = "repaired", seed: int = 1, **rest: object) -> Shared:
    genotype = SupernetGenes(SPACE.name, form).to_genotype()
    return train_supernet(SPACE, genotype, digits(), fidelity, seed=seed, device=CPU, **rest)  # type: ignore[arg-type]


def told(result: Shared) -> dict[str, object]:
    """The report without what the clock decides."""
    return {name: value for name, value in result.report.items() if name != "seconds"}


@pytest.mark.parametrize("name", ONE_SHOT)
def test_every_architecture_of_a_one_shot_space_is_a_path_and_moves_its_own_weights_alone(name: str) -> None:
    space = small_space(name)
    assert isinstance(space, OneShot)
    assert isinstance(space, Tokenised)
    network = space.supernet()
    images = torch.randn(4, space.shape.channels, 16, 16, generator=torch.Generator().manual_seed(0))
    moved = []
    for seed in range(4):
        tokens = space.tokens(space.sample(Random(seed)))
        network.zero_grad()
        logits = network(images, tokens)
        assert logits.shape == (4, space.shape.classes)
        assert torch.isfinite(logits).all()
        torch.autograd.backward(logits.square().sum())
        moved.append(frozenset(n for n, p in network.named_parameters() if p.grad is not None))
    assert len(set(moved)) > 1
    every = {n for n, p in network.named_parameters() if p.requires_grad}
    assert all(len(each) < len(every) for each in moved)


def test_a_path_through_shared_weights_computes_what_the_stand_alone_network_does() -> None:
    shared_network = SPACE.supernet()
    assert isinstance(shared_network, MacroSupernet)
    images = torch.randn(8, 1, 8, 8)
    for seed in range(5):
        genotype = SPACE.sample(Random(seed))
        alone = SPACE.build(genotype)
        assert isinstance(alone, MacroNetwork)
        _take_weights(alone, shared_network, genotype)
        expected = shared_network(images, SPACE.tokens(genotype))
        torch.testing.assert_close(alone(images), expected)


def _take_weights(alone: MacroNetwork, source: MacroSupernet, genotype: Genotype) -> None:
    alone.stem.load_state_dict(source.stem.state_dict())
    alone.head.load_state_dict(source.head.state_dict())
    for number, layer in enumerate(Genes.of(genotype).layers, 1):
        ops: nn.Module = source.ops[number - 1]
        alone.get_submodule(f"layer{number}").load_state_dict(ops[SPACE.ops.index(layer.op)].state_dict())  # type: ignore[index]
        if number > 1:
            join = source.joins[number - 1]
            target = alone.get_submodule(f"join{number}")
            filters = [join.convolutions[state].weight for state in (*layer.skips, number)]  # type: ignore[index, union-attr]
            with torch.no_grad():
                target[1].weight.copy_(torch.cat(filters, 1))
            target[2].load_state_dict(join.norm.state_dict())
        for state in alone.halved[number - 1]:
            halving = source.halvings[number - 1][state]  # type: ignore[index]
            alone.get_submodule(f"halve{state}_after{number}").load_state_dict(halving.state_dict())


@pytest.mark.parametrize("name", ONE_SHOT)
def test_fair_paths_take_every_operation_of_every_decision_once(name: str) -> None:
    space = small_space(name)
    assert isinstance(space, Tokenised)
    decisions = space.decisions()
    for seed in range(5):
        paths = fair_paths(decisions, Random(seed))
        for place, decision in enumerate(decisions):
            counts = Counter(path[place] for path in paths)
            assert set(counts) <= set(range(len(decision.choices)))
            if decision.kind == "op":
                assert set(counts.values()) == {1}
                assert len(counts) == len(decision.choices)
            else:
                assert max(counts.values()) <= math.ceil(len(paths) / len(decision.choices))


@pytest.mark.parametrize("name", ONE_SHOT)
def test_shared_weights_train_at_a_lower_resolution(name: str) -> None:
    space = space_for(name, large().shape(), SMALL[name] | {"side": 64})
    genotype = SupernetGenes(name, "repaired").to_genotype()
    fidelity = Fidelity(epochs=0.01, side=9)
    assert train_supernet(space, genotype, large(), fidelity, seed=0, device=CPU).report["shortlist"]


def test_paths_are_fair_where_no_decision_is_an_operation() -> None:
    decisions = (Decision("a", "width", ("8", "16", "32")), Decision("b", "skip", ("no", "yes")))
    paths = fair_paths(decisions, Random(0))
    assert sorted(path[0] for path in paths) == [0, 1, 2]


@pytest.mark.parametrize("form", FORMS)
def test_the_same_seed_gives_the_same_report_and_another_does_not(form: str) -> None:
    one, again, other = (shared(Fidelity(epochs=1), form, seed=seed) for seed in (3, 3, 4))
    assert json.loads(json.dumps(told(one))) == json.loads(json.dumps(told(again)))
    assert told(one) != told(other)
    shortlist = [each["shared_score"] for each in one.report["shortlist"]]
    assert shortlist == sorted(shortlist, reverse=True)
    assert len(shortlist) == 5
    assert one.score == shortlist[0]
    for each in one.report["shortlist"]:
        SPACE.check(Genotype.from_json(each["genotype"]))


@pytest.mark.parametrize("form", FORMS)
def test_it_resumes_at_any_checkpoint_as_if_nothing_had_happened(form: str) -> None:
    saved: list[bytes] = []
    whole = shared(Fidelity(epochs=2), form, checkpoint=saved.append, checkpoint_every_s=0.0)
    for document in (saved[len(saved) // 3], saved[-3]):
        assert told(shared(Fidelity(epochs=2), form, resume=document)) == told(whole)
    assert b"pickle" not in saved[0]
    with pytest.raises(CheckpointError, match="seed 1"):
        shared(Fidelity(epochs=2), form, seed=2, resume=saved[0])


@pytest.mark.parametrize("form", FORMS)
def test_progress_grows_carries_scores_and_can_stop_it(form: str) -> None:
    points: list[Point] = []

    def until_half(point: Point) -> bool:
        points.append(point)
        return point.fraction < 0.5

    result = shared(Fidelity(epochs=2), form, progress=until_half)
    assert result.stopped
    assert result.score is None
    fractions = [point.fraction for point in points]
    assert fractions == sorted(fractions)
    assert all(math.isfinite(point.train_loss) for point in points)
    assert any(point.score is not None for point in points)


@pytest.mark.parametrize("form", FORMS)
def test_seconds_are_kept_and_something_is_scored_however_few_they_are(form: str) -> None:
    result = shared(Fidelity(seconds=2.0), form)
    assert result.seconds <= 4.0
    assert result.report["shortlist"]
    late = shared(Fidelity(seconds=0.01), form)
    assert late.report["shortlist"]


@pytest.mark.parametrize("form", FORMS)
def test_architectures_that_are_asked_for_are_scored_as_the_form_scores(form: str) -> None:
    plain = shared(Fidelity(epochs=1), form)
    best = [Genotype.from_json(each["genotype"]) for each in plain.report["shortlist"]]
    probing = shared(Fidelity(epochs=1), form, probes=best)
    assert told(probing) == told(plain)
    assert len(probing.probed) == len(best)
    if form == "repaired":  # the published score is of another minibatch each time
        assert list(probing.probed) == [each["shared_score"] for each in plain.report["shortlist"]]


def test_the_controller_is_taught_and_reported_in_the_published_form_alone() -> None:
    published = shared(Fidelity(epochs=3), "published").report
    assert [each["step"] for each in published["steps"]] == [1, 2, 3]
    assert set(published["steps"][0]["entropy"]) == {"op", "skip"}
    assert sum(published["steps"][0]["preferences"]["op"].values()) == pytest.approx(1.0, abs=1e-5)
    assert published["sampled"][0] == []
    repaired = shared(Fidelity(epochs=1)).report
    assert len(repaired["sampled"][0]) == len(repaired["sampled"][1]) == 11


def test_statistics_belong_to_one_architecture_and_not_to_those_before_it() -> None:
    """Its score is the same whatever was scored before."""
    run = supernet._Run(
        SPACE, SupernetGenes(SPACE.name).to_genotype(), digits(), Fidelity(epochs=1), 1, CPU, "log_loss"
    )
    one, other = (SPACE.tokens(SPACE.sample(Random(seed))) for seed in (1, 2))
    first = run.score(one)
    run.score(other)
    assert run.score(one) == first
    assert all(not norm.bias.requires_grad for norm in run.norms)


def test_a_loss_that_is_no_number_raises_diverged() -> None:
    class Broken(MacroSpace):
        def supernet(self) -> nn.Module:
            network = super().supernet()
            with torch.no_grad():
                network.head.bias.fill_(math.nan)  # type: ignore[operator, union-attr]
            return network

    space = Broken(digits().shape(), layers=3, filters=4, side=8)
    with pytest.raises(DivergedError, match="step 1"):
        train_supernet(space, SupernetGenes("macro").to_genotype(), digits(), Fidelity(epochs=1), seed=0, device=CPU)


def test_what_cannot_fit_is_refused_before_it_is_built(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Device, "free_bytes", lambda _: 100_000)
    monkeypatch.setattr(supernet, "generator", lambda *_: pytest.fail("it was built"))
    with pytest.raises(DoesNotFitError, match=r"batches of 128 needs about .* MB and 0 MB are free"):
        shared(Fidelity(epochs=1))


def test_the_cost_counts_all_weights_and_the_dearest_path() -> None:
    cost = supernet_cost(SPACE)
    assert cost.params == sum(p.numel() for p in SPACE.supernet().parameters())
    assert all(SPACE.cost(SPACE.sample(Random(seed))).flops <= 1.2 * cost.flops for seed in range(20))
    assert f"{cost.params:,} parameters" in describe_supernet(SupernetGenes("macro").to_genotype(), cost)


@pytest.mark.parametrize(
    ("genotype", "said"),
    [
        (SupernetGenes("cell").to_genotype(), "a supernet of 'cell' cannot be made of space 'macro'"),
        (replace(SupernetGenes("macro"), form="other").to_genotype(), "form is 'other'; possible: repaired, published"),
        (replace(SupernetGenes("macro"), shortlist=0).to_genotype(), "shortlist is 0; possible: 1 to 100"),
        (SPACE.sample(Random(0)), "a supernet needs entropy, form, of, shortlist"),
    ],
)
def test_what_is_no_supernet_of_the_space_is_refused(genotype: Genotype, said: str) -> None:
    with pytest.raises(InvalidGenotypeError, match=said):
        train_supernet(SPACE, genotype, digits(), Fidelity(epochs=1), seed=0, device=CPU)


def test_a_space_without_shared_weights_is_refused() -> None:
    space: Space = small_space("stages")
    with pytest.raises(InvalidGenotypeError, match="space 'stages'"):
        train_supernet(space, SupernetGenes("stages").to_genotype(), digits(), Fidelity(epochs=1), seed=0, device=CPU)
    with pytest.raises(InvalidGenotypeError, match="cannot share weights"):
        supernet_cost(space)


@pytest.mark.slow
def test_shared_weights_come_to_read_digits() -> None:
    """Measured: the architectures that the search ends with reach 0.8 with shared weights after 12 epochs."""
    space = space_for("macro", digits().shape(), {"layers": 6, "filters": 8, "side": 16})
    result = train_supernet(
        space, SupernetGenes("macro").to_genotype(), digits(), Fidelity(epochs=12), seed=1, device=CPU
    )
    assert result.score is not None
    assert result.score >= 0.6
