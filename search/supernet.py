"""Trains one network whose weights all architectures of a space share, and looks for good ones with them.

Two forms. `published` is ENAS (Pham et al. 2018, arXiv:1802.03268): an epoch of training, one architecture a minibatch, drawn by a
controller, then as many validation minibatches for the controller, each the reward of one architecture; normalisation by
the minibatch; in the end architectures are drawn and scored on one minibatch each. Departures: the controller is that of
`search/strategies/controller.py` (no tanh constant, no temperature, no built-in preference for separable convolutions,
Adam with its usual moments, the entropy in the loss); optimizer, schedule, augmentation and label smoothing are those of
`search/train.py`; as many draws in the end as the port to NAS-Bench-201 takes (100; the authors 10).

`repaired` keeps the shared weights and replaces what is known to fail. Paths are drawn fairly: each step takes as many as
there are operations, so that each choice of each decision is taken equally often, averages their gradients and moves
once (FairNAS, Chu et al. 2019, arXiv:1907.01845). No policy steers the training; the search comes afterwards (SPOS, Guo et al.
2019, arXiv:1904.00420). No statistics are tracked and normalisation has neither scale nor shift; each candidate has
its own estimated from training pictures (Yu et al. 2020, arXiv:2003.04276). Scores are of up to 1,000 validation pictures.
Uniform draws, then changes of the best by shared score, lead to a shortlist, which the strategy trains anew.
"""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from random import Random
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from search.candidate import Fidelity
from search.classifier import Classifier
from search.data import Images, Pool, generator
from search.device import Device
from search.evaluate import metrics_of, score_of
from search.feed import Feed, batch_size_of, share_of
from search.oneshot import Shortlisted, SupernetGenes
from search.optimizer import Optimizer
from search.space import Cost, Decision, Genotype, InvalidGenotypeError, Json, OneShot, Space, Tokenised, side_of
from search.strategies.controller import Learned, Learner, LstmController, draw
from search.train import (
    DivergedError,
    Point,
    below,
    out_of_memory_typed,
    read_checkpoint,
    refuse_what_does_not_fit,
    written_checkpoint,
)

_WARM_UP = 0.05  # share of the training in which the learning rate rises

# The published form's controller: the authors' for cells.
_HIDDEN, _CONTROLLER_RATE, _AGGREGATE, _BASELINE_DECAY = 64, 3.5e-3, 10, 0.99
_DERIVED = 100  # architectures drawn in the end

# The repaired form's search.
_TRAINED_SHARE = {"repaired": 0.7, "published": 0.97}  # of the seconds; the rest searches
_SEARCHED = 200  # architectures scored under a budget in epochs
_UNIFORM = 0.5  # share of the search that draws from the whole space
_ELITE = 20  # best of which changes are tried
_PATIENCE = 100  # draws without a new architecture before the space counts as exhausted

_SCORED = 1_000  # validation pictures of a score
_CALIBRATED = 20  # batches from which an architecture's statistics are estimated
_WATCHED = 4  # architectures scored on the way
_SCORED_EVERY = 0.125  # of the training
_REPORT_EVERY_S = 1.0
_COSTED = 64  # architectures from which the most expensive path is estimated
_FORWARD_BATCH = 256


@dataclass(frozen=True, slots=True, eq=False)
class Shared:
    """report: {form, of, shortlist, sampled, scored, steps, seconds}; see `_Run.report`. score: the best shared one, None
    when it was stopped before there was one. probed: shared scores of the architectures that were asked for."""

    report: dict[str, Json]
    score: float | None
    probed: tuple[float, ...]
    curve: tuple[Point, ...]
    images_per_s: float
    epochs: float
    seconds: float
    stopped: bool


def train_supernet(
    space: Space,
    genotype: Genotype,
    images: Images,
    fidelity: Fidelity,
    *,
    seed: int,
    device: Device,
    objective: str = "accuracy",
    progress: Callable[[Point], bool] = lambda _: True,
    resume: bytes | None = None,
    checkpoint: Callable[[bytes], None] | None = None,
    checkpoint_every_s: float = 15.0,
    probes: Sequence[Genotype] = (),
) -> Shared:
    """As `search.train.train`, for a genotype of `search.oneshot` over `space`.

    probes: architectures to score in the end as well, whatever the search has found.
    Raises DivergedError, OutOfMemoryError, DoesNotFitError, CheckpointError, InvalidGenotypeError.
    """
    with out_of_memory_typed():
        run = _Run(space, genotype, images, fidelity, seed, device, objective)
        if resume is not None:
            run.restore(resume)
        return run.to_the_end(progress, checkpoint, checkpoint_every_s, probes)


def supernet_cost(space: Space) -> Cost:
    """Parameters of all shared weights; arithmetic and memory of its most expensive path, as some draws let expect."""
    if not isinstance(space, OneShot):
        raise InvalidGenotypeError(f"networks of space {space.name!r} cannot share weights")
    with torch.device("meta"):
        params = sum(p.numel() for p in space.supernet().parameters())
    costs = [space.cost(space.sample(Random(f"cost/{number}"))) for number in range(_COSTED)]
    return Cost(params, max(cost.flops for cost in costs), max(cost.activations for cost in costs))


def describe_supernet(genotype: Genotype, cost: Cost) -> str:
    """One sentence for a reader. cost: see `supernet_cost`."""
    genes = SupernetGenes.read(genotype)
    return (
        f"The shared weights of all networks of space {genes.of}, {genes.form} form: {cost.params:,} parameters, "
        f"up to about {cost.flops:,} multiply-adds a path."
    )


def fair_paths(decisions: Sequence[Decision], random: Random) -> list[tuple[int, ...]]:
    """Paths for one step, as many as there are operations: each takes another, and no choice of any decision is taken
    twice more often than another.

    FairNAS, Chu et al. 2019, arXiv:1907.01845 (strict fairness), which knows decisions of equally many choices alone.
    """
    ops = [len(each.choices) for each in decisions if each.kind == "op"]
    count = max(ops or [len(each.choices) for each in decisions])
    columns = []
    for decision in decisions:
        column: list[int] = []
        while len(column) < count:
            column += random.sample(range(len(decision.choices)), len(decision.choices))
        columns.append(column[:count])
    return list(zip(*columns, strict=True))


class _Run:
    def __init__(
        self,
        space: Space,
        genotype: Genotype,
        images: Images,
        fidelity: Fidelity,
        seed: int,
        device: Device,
        objective: str,
    ) -> None:
        self._started = time.perf_counter()
        self._used_s = 0.0  # by earlier runs of the same training
        self.genes = SupernetGenes.read(genotype)
        if self.genes.of != space.name or not isinstance(space, Tokenised) or not isinstance(space, OneShot):
            raise InvalidGenotypeError(f"a supernet of {self.genes.of!r} cannot be made of space {space.name!r}")
        self.space, self.genotype, self.fidelity = space, genotype, fidelity
        self.tokenised: Tokenised = space
        self.seed, self.device, self.objective = seed, device, objective
        self.decisions = space.decisions()
        self.fair = self.genes.form == "repaired"
        any_of_them = space.sample(Random(0))
        recipe = space.recipe(any_of_them)
        rows = share_of(images.train, images.targets, fidelity.fraction, seed)
        self.batch_size = batch_size_of(recipe, len(rows))
        refuse_what_does_not_fit(supernet_cost(space), self.batch_size, device)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(int(torch.randint(2**62, (), generator=generator(seed, "weights"))))
            self.network = space.supernet()
        self.norms = [each for each in self.network.modules() if isinstance(each, nn.BatchNorm2d)]
        for norm in self.norms:
            norm.track_running_stats = False
            norm.momentum = None  # a plain mean, where statistics are estimated
            if self.fair:
                norm.bias.requires_grad_(False)
        self.side = min(side_of(space, any_of_them, fidelity.side), images.side)
        self.smoothing = recipe.label_smoothing
        mean, deviation = images.statistics()
        classifier = Classifier.around(self.network, len(images.labels), mean, deviation, images.side, self.side)
        device.place(classifier)
        self.feed = Feed(images, rows, recipe, seed, device, classifier.normalised)
        self.optimizer = Optimizer(
            self.network, self.batch_size, recipe.learning_rate, recipe.weight_decay, matrices=device.dtype
        )
        self.validation, self.targets = _validation(images, self.side, seed, device, classifier)
        self.calibration = self.feed.few(_CALIBRATED * self.batch_size, self.side, "calibration")
        self.learner = Learner(
            LstmController(self.decisions, _HIDDEN, f"{seed}/controller"),
            algorithm="reinforce",
            learning_rate=_CONTROLLER_RATE,
            entropy=self.genes.entropy,
            clip=0.0,
            passes=1,
        )
        self.baseline: float | None = None
        self.step, self.updates, self.drawn, self.in_vain = 0, 0, 0, 0
        self.trained, self.searched = 0.0, 0.0  # shares of the two parts that are done
        self.scored: dict[tuple[int, ...], float] = {}  # in the order they were scored
        self.uniform = 0  # how many of these were drawn from the whole space
        self.keys: set[str] = set()
        self.learned: list[dict[str, Json]] = []
        self.curve: list[Point] = []

    # ------------------------------------------------------------------------------------------ time

    def seconds(self) -> float:
        return self._used_s + time.perf_counter() - self._started

    @property
    def fraction(self) -> float:
        share = _TRAINED_SHARE[self.genes.form]
        return share * self.trained + (1 - share) * self.searched

    @property
    def epoch_steps(self) -> int:
        return max(1, round(len(self.feed.rows) / self.batch_size))

    @property
    def epochs(self) -> float:
        return self.step * self.batch_size / len(self.feed.rows)

    def _advance(self) -> None:
        share, most = _TRAINED_SHARE[self.genes.form], _SEARCHED if self.fair else _DERIVED
        if self.fidelity.seconds is not None:
            train_s, search_s = share * self.fidelity.seconds, (1 - share) * self.fidelity.seconds
            self.trained = min(1.0, max(self.trained, self.seconds() / train_s))
            self.searched = min(1.0, max(self.searched, (self.seconds() - train_s) / search_s))
        else:
            assert self.fidelity.epochs is not None
            self.trained = min(1.0, self.step / max(1, round(self.fidelity.epochs * self.epoch_steps)))
            self.searched = min(1.0, self.drawn / most)
        if self.in_vain >= _PATIENCE or (not self.fair and self.drawn >= most):
            self.searched = 1.0
        if self.trained >= 1.0 and not self.scored and self.in_vain < _PATIENCE:
            self.searched = min(self.searched, 0.99)  # late as it may be, something has to be scored

    # ------------------------------------------------------------------------------------------ training

    def _do_next(self) -> Tensor | None:
        """A training step, an update of the controller or a look at an architecture. The loss of a training step."""
        due = self.step // self.epoch_steps * max(1, self.epoch_steps // _AGGREGATE)
        if not self.fair and self.updates < due and not self.drawn:
            self._teach()
        elif self.trained < 1.0:
            return self._train_step()
        else:
            self._look_at_next()
        return None

    def _train_step(self) -> Tensor:
        self.network.train()
        images, targets = self.feed.batch(self.step, self.side)
        random = Random(f"{self.seed}/paths/{self.step}")
        paths = fair_paths(self.decisions, random) if self.fair else [draw(self.learner.controller, random)[0]]
        losses = []
        for tokens in paths:
            with self.device.autocast():
                logits = self.network(images, tokens)
            loss = F.cross_entropy(logits.float(), targets, label_smoothing=self.smoothing)
            torch.autograd.backward(loss / len(paths))
            losses.append(loss.detach())
        rise = min(1.0, (self.trained + 1e-3) / _WARM_UP)
        self.optimizer.step(rise * (1 - self.trained))
        self.step += 1
        return torch.stack(losses).mean()

    def _teach(self) -> None:
        """One update of the controller from as many architectures, each judged by one validation minibatch."""
        sequences, log_probs, rewards, advantages = [], [], [], []
        for number in range(_AGGREGATE):
            tokens, log_prob = draw(self.learner.controller, Random(f"{self.seed}/reward/{self.updates}/{number}"))
            reward = self._minibatch_score(self._meant(tokens), f"reward/{self.updates}/{number}")
            start = reward if self.baseline is None else self.baseline
            self.baseline = _BASELINE_DECAY * start + (1 - _BASELINE_DECAY) * reward
            sequences.append(tokens)
            log_probs.append(log_prob)
            rewards.append(reward)
            advantages.append(reward - self.baseline)
        learned = self.learner.learn(torch.tensor(sequences), torch.tensor(log_probs), torch.tensor(advantages))
        self.updates += 1
        if self.updates % max(1, self.epoch_steps // _AGGREGATE) == 0:
            self._note(learned, sum(rewards) / len(rewards))

    def _note(self, learned: Learned, score: float) -> None:
        self.learned.append({"step": len(self.learned) + 1, "score": score} | learned.to_json())

    # ------------------------------------------------------------------------------------------ scores

    def score(self, tokens: Sequence[int]) -> float:
        """The objective on the validation pictures, with statistics estimated for this architecture."""
        self._calibrate(tokens)
        self.network.eval()
        with torch.no_grad(), self.device.autocast():
            logits = [self.network(part, tokens).float() for part in torch.split(self.validation, _FORWARD_BATCH)]
        return self._objective(torch.cat(logits), self.targets)

    def _calibrate(self, tokens: Sequence[int]) -> None:
        self.network.train()
        for norm in self.norms:
            norm.track_running_stats = True
            norm.reset_running_stats()  # does nothing while they are not tracked
        with torch.no_grad(), self.device.autocast():
            for part in torch.split(self.calibration, self.batch_size):
                self.network(part, tokens)
        for norm in self.norms:
            norm.track_running_stats = False

    def _minibatch_score(self, tokens: Sequence[int], purpose: str) -> float:
        """The objective on one validation minibatch, normalised by itself."""
        self.network.train()
        rows = torch.randperm(len(self.targets), generator=generator(self.seed, purpose))[: self.batch_size]
        with torch.no_grad(), self.device.autocast():
            logits = self.network(self.validation[rows.to(self.device.torch_device)], tokens).float()
        return self._objective(logits, self.targets[rows.numpy()])

    def _objective(self, logits: Tensor, targets: Any) -> float:
        return score_of(metrics_of(targets, torch.softmax(logits, 1).cpu().numpy()), self.objective)

    def _derived_score(self, tokens: Sequence[int], purpose: str) -> float:
        """As the form scores what it reports."""
        return self.score(tokens) if self.fair else self._minibatch_score(tokens, purpose)

    def _meant(self, tokens: Sequence[int]) -> tuple[int, ...]:
        """The tokens of the network that these mean: others, where limits let none be as they say."""
        return self.tokenised.tokens(self.tokenised.from_tokens(tokens))

    def _watched_score(self) -> float:
        """Mean shared score of the same few architectures, whatever the moment."""
        scores = [
            self.score(self.tokenised.tokens(self.space.sample(Random(f"{self.seed}/watched/{number}"))))
            for number in range(_WATCHED)
        ]
        return sum(scores) / len(scores)

    # ------------------------------------------------------------------------------------------ search

    def _look_at_next(self) -> None:
        """Draw one architecture and score it, unless it is known."""
        random = Random(f"{self.seed}/search/{self.drawn}")
        uniform = self.fair and (self.searched < _UNIFORM or not self.scored)
        if uniform:
            tokens = self.tokenised.tokens(self.space.sample(random))
        elif self.fair:
            parent = random.choice(self._best(_ELITE))
            tokens = self.tokenised.tokens(self.space.mutate(self.tokenised.from_tokens(parent), random))
        else:
            tokens = self._meant(draw(self.learner.controller, random)[0])
        self.drawn += 1
        key = self.space.key(self.tokenised.from_tokens(tokens))
        if key in self.keys:
            self.in_vain += 1
            return
        self.in_vain = 0
        self.keys.add(key)
        self.scored[tokens] = self._derived_score(tokens, f"derived/{self.drawn}")
        self.uniform += uniform
        if self.fair and len(self.scored) % _ELITE == 0:
            best = self._best(_ELITE)
            self._note(_shares(self.decisions, best), sum(self.scored[each] for each in best) / len(best))

    def _best(self, count: int) -> list[tuple[int, ...]]:
        """By shared score, the earlier of equals first."""
        return sorted(self.scored, key=lambda tokens: -self.scored[tokens])[:count]

    def report(self) -> dict[str, Json]:
        """shortlist: the best by shared score. sampled: deciles of the scores of uniform draws, and of those that the
        search (published: the controller) led to. steps: what the controller, or the best so far, look like in the
        course of it: entropy (nats a decision) and mean share of each choice by kind of decision."""
        scores = list(self.scored.values())
        return {
            "form": self.genes.form,
            "of": self.genes.of,
            "shortlist": [
                Shortlisted(self.tokenised.from_tokens(tokens), self.scored[tokens]).to_json()
                for tokens in self._best(self.genes.shortlist)
            ],
            "sampled": [_deciles(scores[: self.uniform]), _deciles(scores[self.uniform :])],
            "scored": len(scores),
            "steps": self.learned,
            "seconds": self.seconds(),
        }

    # ------------------------------------------------------------------------------------------ the whole

    def to_the_end(
        self,
        progress: Callable[[Point], bool],
        checkpoint: Callable[[bytes], None] | None,
        checkpoint_every_s: float,
        probes: Sequence[Genotype],
    ) -> Shared:
        stopped, losses, loss = False, list[Tensor](), self.curve[-1].train_loss if self.curve else 0.0
        reported, saved, reported_step = self.seconds(), time.perf_counter(), self.step
        while self.searched < 1.0 and not stopped:
            before = int(self.trained / _SCORED_EVERY)
            step_loss = self._do_next()
            if step_loss is not None:
                losses.append(step_loss)
                if not math.isfinite(step_loss.item()):
                    raise DivergedError(f"the loss became {step_loss.item()} at step {self.step} ({self.trained:.0%})")
            self._advance()
            due = int(self.trained / _SCORED_EVERY) > before
            now = self.seconds()
            if due or now - reported > _REPORT_EVERY_S or self.searched >= 1.0:
                loss = float(torch.stack(losses).mean()) if losses else loss
                speed = (self.step - reported_step) * self.batch_size / max(1e-6, now - reported)
                point = Point(self.fraction, self.epochs, now, loss, self._score_to_report(due), speed)
                losses, reported, reported_step = [], self.seconds(), self.step
                self.curve.append(point)
                stopped = not progress(point) and self.searched < 1.0
                self._advance()
            if checkpoint is not None and time.perf_counter() - saved > checkpoint_every_s:
                checkpoint(self.dump())
                saved = time.perf_counter()
        best = self._best(1)
        seconds = self.seconds()
        return Shared(
            report=self.report(),
            score=self.scored[best[0]] if best else None,
            probed=tuple(
                self._derived_score(self.tokenised.tokens(each), f"probe/{number}")
                for number, each in enumerate(probes)
            ),
            curve=tuple(self.curve),
            images_per_s=self.step * self.batch_size / max(1e-6, seconds),
            epochs=self.epochs,
            seconds=seconds,
            stopped=stopped,
        )

    def _score_to_report(self, due: bool) -> float | None:
        if self.scored:
            return sum(self.scored.values()) / len(self.scored)
        return self._watched_score() if due else None

    # ------------------------------------------------------------------------------------------ checkpoints

    def dump(self) -> bytes:
        """Everything that a later run needs to go on exactly here."""
        tensors: dict[str, Tensor] = {f"network.{name}": p for name, p in self.network.named_parameters()}
        tensors |= {f"momentum.{name}": momentum for name, momentum in self.optimizer.state().items()}
        header = {
            "genotype": self.genotype.digest(),
            "seed": self.seed,
            "batch_size": self.batch_size,
            "step": self.step,
            "updates": self.updates,
            "drawn": self.drawn,
            "in_vain": self.in_vain,
            "uniform": self.uniform,
            "trained": self.trained,
            "searched": self.searched,
            "seconds": self.seconds(),
            "baseline": self.baseline,
            "scored": [[list(tokens), score] for tokens, score in self.scored.items()],
            "learned": self.learned,
            "controller": None if self.fair else self.learner.dump(),
            "curve": [asdict(point) for point in self.curve],
        }
        return written_checkpoint(header, tensors)

    @torch.no_grad()
    def restore(self, checkpoint: bytes) -> None:
        header, tensors = read_checkpoint(checkpoint, self.genotype, self.seed, self.batch_size)
        parameters = dict(self.network.named_parameters())
        for name, value in below("network.", tensors).items():
            parameters[name].copy_(value)
        self.optimizer.restore(below("momentum.", tensors))
        if header["controller"] is not None:
            self.learner.load(header["controller"])
        for name in ("step", "updates", "drawn", "in_vain", "uniform", "trained", "searched", "baseline", "learned"):
            setattr(self, name, header[name])
        self._used_s = header["seconds"]
        self.scored = {tuple(tokens): score for tokens, score in header["scored"]}
        self.keys = {self.space.key(self.tokenised.from_tokens(tokens)) for tokens in self.scored}
        self.curve = [Point(**point) for point in header["curve"]]


def _validation(
    images: Images, side: int, seed: int, device: Device, classifier: Classifier
) -> tuple[Tensor, NDArray[np.int64]]:
    """The pictures that scores are of, ready for the network, float (n, C, side, side), and their targets."""
    order = torch.randperm(len(images.validation), generator=generator(seed, "s")).numpy()
    rows = images.validation[order[:_SCORED]]
    pool = Pool(images, rows, side, device.torch_device, budget_bytes=2**62)
    pixels = pool.take(torch.arange(len(rows), device=device.torch_device))
    return classifier.normalised(pixels.permute(0, 3, 1, 2).float()), images.targets[rows]


def _shares(decisions: Sequence[Decision], sequences: Sequence[Sequence[int]]) -> Learned:
    """How often each choice is taken in these sequences, and how undecided that is, by kind of decision."""
    shares = [
        np.bincount([tokens[place] for tokens in sequences], minlength=len(decision.choices)) / len(sequences)
        for place, decision in enumerate(decisions)
    ]
    entropies = [float(-(each * np.log(np.maximum(each, 1e-12))).sum()) for each in shares]
    return Learned.of(decisions, entropies, [each.tolist() for each in shares])


def _deciles(scores: Sequence[float]) -> list[float]:
    return np.quantile(scores, np.linspace(0, 1, 11)).tolist() if scores else []
