"""Training, on real handwritten digits."""

import dataclasses
import json
import math
import time
from collections.abc import Iterator, Mapping
from functools import cache
from random import Random

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn

from search.candidate import Fidelity
from search.classifier import Classifier, WeightsError
from search.data import Images, Split
from search.device import Device
from search.evaluate import Evaluation, evaluate
from search.floor import floor
from search.space import Genotype, Recipe, Shape
from search.spaces import space_for
from search.spaces.cell import CellSpace
from search.spaces.stages import Genes, Stage, StagesSpace
from search.train import (
    CheckpointError,
    DivergedError,
    DoesNotFitError,
    OutOfMemoryError,
    Point,
    Trained,
    inherit,
    train,
)
from tests.search.spaces import SMALL as SMALL_SPACES
from tests.support import pictures


@cache
def digits() -> Images:
    """scikit-learn's 1,797 digits of 8×8 gray pixels, blown up to 16×16."""
    bunch = load_digits()
    small = (bunch.images * 15.9).astype(np.uint8)
    pixels = small.repeat(2, axis=1).repeat(2, axis=2)[..., None]
    splits = np.random.default_rng(0).choice([0, 1, 2], size=len(pixels), p=[0.8, 0.1, 0.1])
    return Images.of(pixels, bunch.target, splits, [str(digit) for digit in range(10)])


SPACE = StagesSpace(digits().shape(), flops=200_000)
SMALL = Genes(
    stem_kernel=3,
    stem_stride=1,
    stages=(Stage(8, 2, 3, "plain"), Stage(16, 1, 3, "plain")),
    activation="relu",
    pooling="max",
    recipe=Recipe(side=16, start_side=12, batch_size=64, flip=False),
)
CPU = Device.cpu()


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Networks this small gain nothing from a second thread, and wait for it where other tests run beside."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def trained(fidelity: Fidelity, genes: Genes = SMALL, seed: int = 1, **rest: object) -> Trained:
    return train(SPACE, genes.to_genotype(), digits(), fidelity, seed=seed, device=CPU, **rest)  # type: ignore[arg-type]


def with_recipe(**changes: object) -> Genes:
    return dataclasses.replace(SMALL, recipe=dataclasses.replace(SMALL.recipe, **changes))  # type: ignore[arg-type]


def same(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def test_a_small_network_reads_digits_after_a_few_epochs() -> None:
    result = trained(Fidelity(epochs=8))
    test = evaluate(
        SPACE,
        SMALL.to_genotype(),
        result.weights,
        digits(),
        Split.TEST,
        mirror_at_test=result.mirror_at_test,
        device=CPU,
    )
    assert result.score == result.metrics["accuracy"] >= 0.95
    assert test.metrics["accuracy"] >= 0.93
    assert result.epochs == pytest.approx(8, abs=0.1)


def test_a_training_ends_with_the_temperature_that_its_validation_asks_for() -> None:
    result = trained(Fidelity(epochs=3))
    metrics = result.metrics
    assert result.weights["temperature"].item() == pytest.approx(metrics["temperature"])
    assert metrics["temperature"] != 1.0  # smoothed labels leave a network less sure than it might be
    assert metrics["log_loss"] < metrics["uncalibrated_log_loss"]
    genotype, mirror = SMALL.to_genotype(), result.mirror_at_test

    def looked_at(weights: dict[str, Tensor]) -> Evaluation:
        return evaluate(SPACE, genotype, weights, digits(), Split.VALIDATION, mirror_at_test=mirror, device=CPU)

    again, before = looked_at(result.weights), looked_at(result.weights | {"temperature": torch.tensor(1.0)})
    assert again.metrics["log_loss"] == pytest.approx(metrics["log_loss"], rel=1e-3)
    assert before.metrics["log_loss"] == pytest.approx(metrics["uncalibrated_log_loss"], rel=1e-3)
    assert before.metrics["accuracy"] == again.metrics["accuracy"]


def test_a_warm_start_takes_the_weights_and_not_the_temperature() -> None:
    first = trained(Fidelity(epochs=1))
    hot = first.weights | {"temperature": torch.tensor(9.0)}
    assert same(
        trained(Fidelity(epochs=1), warm_start=first.weights).weights,
        trained(Fidelity(epochs=1), warm_start=hot).weights,
    )


@cache
def large() -> Images:
    """A few of the digits in 64×64 pixels."""
    bunch = load_digits(n_class=3)
    pixels = (bunch.images[:120] * 15.9).astype(np.uint8).repeat(8, axis=1).repeat(8, axis=2)[..., None]
    return Images.of(pixels, bunch.target[:120], np.arange(120) % 2, list("012"))


@pytest.mark.parametrize("side", [8, 16])
@pytest.mark.parametrize("name", SMALL_SPACES)
def test_networks_train_at_a_lower_resolution_as_far_as_they_run_there(name: str, side: int) -> None:
    options = SMALL_SPACES[name]
    space = space_for(name, large().shape(), options | {"side": 64} if options else {})
    genotypes = [space.sample(Random(number)) for number in range(100)]
    deepest = max(genotypes, key=space.least_side)
    for genotype in [*sorted(genotypes[:20], key=lambda each: space.cost(each).params)[:3], deepest]:
        expected = max(side, space.least_side(genotype))
        fidelity = Fidelity(epochs=0.01, side=side)
        result = train(space, genotype, large(), fidelity, seed=0, device=CPU)
        assert math.isfinite(result.score)
        assert result.weights["resize"].shape == (expected, 64)
    if name != "stages":
        assert {space.least_side(each) for each in genotypes} == {1}


@pytest.mark.parametrize("name", SMALL_SPACES)
def test_networks_run_from_their_least_side_on_and_not_below(name: str) -> None:
    space = space_for(name, Shape(1, 64, 3), SMALL_SPACES[name])
    for number in range(4):
        genotype = space.sample(Random(number))
        network, least = space.build(genotype).eval(), space.least_side(genotype)
        assert least <= space.recipe(genotype).start_side
        for side in range(least, least + 10):
            assert torch.isfinite(network(torch.zeros(2, 1, side, side))).all()
        if least > 1:
            with pytest.raises(RuntimeError):
                network(torch.zeros(2, 1, least - 1, least - 1))


def test_the_same_seed_gives_the_same_weights_bit_for_bit_and_another_seed_does_not() -> None:
    one, again, other = (trained(Fidelity(epochs=1), seed=seed) for seed in (3, 3, 4))
    assert same(one.weights, again.weights)
    assert [dataclasses.replace(p, seconds=0, images_per_s=0).score for p in one.curve if p.score] == [
        p.score for p in again.curve if p.score
    ]
    assert not same(one.weights, other.weights)


def test_training_resumes_at_a_checkpoint_as_if_nothing_had_happened() -> None:
    saved: list[bytes] = []
    whole = trained(Fidelity(epochs=2), checkpoint=saved.append, checkpoint_every_s=0.0)
    resumed = trained(Fidelity(epochs=2), resume=saved[len(saved) // 2])
    assert same(whole.weights, resumed.weights)
    assert [p.epoch for p in resumed.curve if p.score is not None] == [
        p.epoch for p in whole.curve if p.score is not None
    ]
    assert b"pickle" not in saved[0]


def test_the_paths_that_are_dropped_are_a_function_of_the_seed_and_of_the_step() -> None:
    def of(drop_path: float, resume: bytes | None = None) -> Trained:
        space = CellSpace(digits().shape(), blocks=1, filters=4, stem_multiplier=1, drop_path=drop_path)
        genotype = space.from_tokens([1, 1, 2, 2] * 2)
        fidelity = Fidelity(epochs=0.6)
        checkpoint = None if resume else saved.append
        return train(
            space, genotype, digits(), fidelity, seed=1, device=CPU, resume=resume, checkpoint=checkpoint,
            checkpoint_every_s=0.0,
        )  # fmt: skip

    saved: list[bytes] = []
    whole = of(0.5)
    assert same(whole.weights, of(0.5, resume=saved[len(saved) // 2]).weights)
    assert not same(whole.weights, of(0.0).weights)


def test_a_checkpoint_of_another_training_is_refused() -> None:
    saved: list[bytes] = []
    trained(Fidelity(epochs=0.2), checkpoint=saved.append, checkpoint_every_s=0.0)
    with pytest.raises(CheckpointError, match="seed 1"):
        trained(Fidelity(epochs=0.2), seed=2, resume=saved[0])
    with pytest.raises(CheckpointError, match="genotype"):
        trained(Fidelity(epochs=0.2), with_recipe(cutout=0.25), resume=saved[0])
    with pytest.raises(CheckpointError, match="not a checkpoint"):
        trained(Fidelity(epochs=0.2), resume=b"\x00" * 40)


@pytest.mark.parametrize("seconds", [2.0, 4.0])
def test_seconds_are_kept_and_the_schedule_ends_with_them(seconds: float) -> None:
    result = trained(Fidelity(seconds=seconds))
    assert seconds - 1.0 <= result.seconds <= seconds + 1.0
    assert result.curve[-1].fraction == 1.0
    assert not result.stopped


def test_a_resumed_training_counts_the_seconds_it_has_had() -> None:
    saved: list[bytes] = []

    def until_half(point: Point) -> bool:
        return point.fraction < 0.5

    trained(Fidelity(seconds=3), progress=until_half, checkpoint=saved.append, checkpoint_every_s=0.0)
    started = time.perf_counter()
    resumed = trained(Fidelity(seconds=3), resume=saved[-1])
    assert time.perf_counter() - started < 2.5
    assert 2.0 <= resumed.seconds <= 4.0


def test_progress_reports_growing_fractions_and_can_stop_a_training() -> None:
    points: list[Point] = []

    def stop_at_the_second_score(point: Point) -> bool:
        points.append(point)
        return sum(p.score is not None for p in points) < 2

    result = trained(Fidelity(epochs=4), progress=stop_at_the_second_score)
    assert result.stopped
    assert result.epochs < 3
    fractions = [point.fraction for point in points]
    assert fractions == sorted(fractions)
    assert all(math.isfinite(p.train_loss) and p.images_per_s > 0 for p in points)
    assert points == list(result.curve)


def test_two_trainings_of_one_length_are_scored_at_the_same_fractions() -> None:
    one = trained(Fidelity(epochs=4))
    other = trained(Fidelity(epochs=4), with_recipe(learning_rate=0.5))
    at = [[p.fraction for p in result.curve if p.score is not None] for result in (one, other)]
    assert at[0] == at[1]
    assert len(at[0]) == 8


def test_a_warm_start_begins_where_the_weights_were() -> None:
    first = trained(Fidelity(epochs=4))
    cold = trained(Fidelity(epochs=0.4), seed=2)
    warm = trained(Fidelity(epochs=0.4), seed=2, warm_start=first.weights)
    assert warm.score > cold.score


def test_a_child_inherits_the_layers_that_a_change_left_alone() -> None:
    space = CellSpace(digits().shape(), blocks=2, filters=4, side=16)
    for seed in range(5):
        parent = space.sample(Random(seed))
        network = space.build(space.mutate(parent, Random(seed)))
        old, fresh = space.build(parent).state_dict(), {n: v.clone() for n, v in network.state_dict().items()}
        inherit(network, old)
        kept = {name for name in fresh if name in old and old[name].shape == fresh[name].shape}
        assert {"head.weight"} < kept
        for name, value in network.state_dict().items():
            assert torch.equal(value, old[name] if name in kept else fresh[name])


def test_a_child_that_inherits_is_better_at_once() -> None:
    first = trained(Fidelity(epochs=4))
    changed = dataclasses.replace(SMALL, stages=(SMALL.stages[0], Stage(16, 2, 3, "plain")))
    cold = trained(Fidelity(epochs=0.4), changed, seed=2)
    warm = trained(Fidelity(epochs=0.4), changed, seed=2, warm_start=first.weights)
    assert warm.score > cold.score


def test_a_fidelity_can_cap_resolution_and_data() -> None:
    result = trained(Fidelity(epochs=2, side=12, fraction=0.25))
    assert result.weights["resize"].shape == (12, 16)
    whole = trained(Fidelity(epochs=2))
    assert "resize" not in whole.weights
    evaluate(SPACE, SMALL.to_genotype(), result.weights, digits(), Split.TEST, mirror_at_test=False, device=CPU)


def test_a_loss_that_is_no_number_raises_diverged() -> None:
    class Broken(StagesSpace):
        def build(self, genotype: Genotype) -> nn.Module:
            network = super().build(genotype)
            with torch.no_grad():
                network.head.bias.fill_(math.nan)  # type: ignore[operator, union-attr]
            return network

    space = Broken(digits().shape())
    with pytest.raises(DivergedError, match="step 1"):
        train(space, SMALL.to_genotype(), digits(), Fidelity(epochs=1), seed=0, device=CPU)


def test_what_cannot_fit_is_refused_before_it_is_built(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Device, "free_bytes", lambda _: 1_000_000)
    monkeypatch.setattr(StagesSpace, "build", lambda *_: pytest.fail("it was built"))
    with pytest.raises(DoesNotFitError, match=r"batches of 64 needs about .* MB and 0 MB are free"):
        trained(Fidelity(epochs=1))


def test_memory_that_runs_out_is_an_error_of_its_own() -> None:
    class Greedy(StagesSpace):
        def build(self, genotype: Genotype) -> nn.Module:
            torch.empty(2**52, dtype=torch.uint8)
            return super().build(genotype)

    with pytest.raises(OutOfMemoryError):
        train(Greedy(digits().shape()), SMALL.to_genotype(), digits(), Fidelity(epochs=1), seed=0, device=CPU)


def test_balance_shows_rare_classes_more_often_and_helps_them() -> None:
    full = digits()
    rare = np.flatnonzero((full.targets == 8) & (full.splits == Split.TRAIN))[4:]
    keep = np.setdiff1d(np.arange(len(full.targets)), rare)
    few = Images.of(full.pixels[keep], full.targets[keep], full.splits[keep], full.labels)

    def recall(balance: float) -> float:
        genotype = with_recipe(balance=balance).to_genotype()
        result = train(SPACE, genotype, few, Fidelity(epochs=5), seed=0, device=CPU, objective="balanced_accuracy")
        test = evaluate(SPACE, genotype, result.weights, few, Split.TEST, mirror_at_test=False, device=CPU)
        return float(test.confusion[8, 8] / test.confusion[8].sum())

    assert recall(1.0) > recall(0.0)


def test_very_small_data_with_a_class_of_one_picture_trains() -> None:
    full = digits()
    few = [full.train[full.targets[full.train] == digit][: 1 if digit == 9 else 8] for digit in (0, 1, 4, 9)]
    rows = np.concatenate([*few, full.validation[np.isin(full.targets[full.validation], (0, 1, 4))][:12]])
    tiny = Images.of(full.pixels[rows], full.targets[rows], full.splits[rows], full.labels)
    result = train(SPACE, SMALL.to_genotype(), tiny, Fidelity(epochs=30), seed=0, device=CPU)
    assert result.score >= 0.7


def test_one_training_picture_is_enough_not_to_fail() -> None:
    full = digits()
    rows = np.concatenate([full.train[:1], full.validation[:1]])
    single = Images.of(full.pixels[rows], full.targets[rows], full.splits[rows], full.labels)
    assert math.isfinite(train(SPACE, SMALL.to_genotype(), single, Fidelity(epochs=3), seed=0, device=CPU).score)


def test_weights_of_another_genotype_are_refused() -> None:
    result = trained(Fidelity(epochs=0.1))
    wider = dataclasses.replace(SMALL, stages=(Stage(16, 2, 3, "plain"), SMALL.stages[1])).to_genotype()
    with pytest.raises(WeightsError, match="do not fit genotype"):
        Classifier.load(SPACE, wider, result.weights)


@pytest.mark.slow
def test_the_floor_reads_real_handwriting_within_half_a_minute() -> None:
    """5,000 real MNIST digits, 4,000 of them to learn from. Measured on 2 cores (AVX2): 99 % after 15 s."""
    images = mnist()
    genotype = floor(images.shape(), len(images.train), flops_per_s=CPU.flops_per_s, seconds=15)
    space = StagesSpace(images.shape())
    result = train(space, genotype, images, Fidelity(seconds=15), seed=0, device=CPU)
    test = evaluate(
        space, genotype, result.weights, images, Split.TEST, mirror_at_test=result.mirror_at_test, device=CPU
    )
    assert test.metrics["accuracy"] >= 0.965


def mnist() -> Images:
    pixels, targets = pictures.digits()
    splits = np.random.default_rng(0).choice([0, 1, 2], size=len(pixels), p=[0.8, 0.1, 0.1])
    return Images.of(pixels[..., None], targets, splits, [str(d) for d in range(10)])


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_a_gpu_trains_too() -> None:
    result = train(SPACE, SMALL.to_genotype(), digits(), Fidelity(epochs=8), seed=1, device=Device.best())
    assert result.score >= 0.9


def test_a_sample_of_the_space_trains_a_step_each() -> None:
    space = StagesSpace(digits().shape(), flops=200_000)
    for index in range(6):
        genotype = space.sample(Random(index))
        result = train(space, genotype, digits(), Fidelity(epochs=0.05), seed=0, device=CPU)
        assert json.dumps(genotype.to_json())
        assert math.isfinite(result.metrics["log_loss"])
