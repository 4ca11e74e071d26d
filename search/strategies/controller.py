"""Controllers: policies that write an architecture as a sequence of choices, and how they learn from scores."""

import base64
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from random import Random
from statistics import fmean
from typing import Protocol

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from search.space import Decision, Json

# Picks a token for each row of (rows, choices) log-probabilities: (position, log-probabilities) -> (rows,) int64.
Choose = Callable[[int, Tensor], Tensor]

_INIT = 0.1  # weights start uniform in ±0.1, as NASNet's
_TABLE_INIT = 1e-3  # standard deviation


class Controller(Protocol):
    """A distribution over sequences of tokens. weights: all of it, as one flat vector."""

    decisions: tuple[Decision, ...]
    weights: Tensor

    def walk(self, rows: int, choose: Choose) -> Iterator[Tensor]: ...  # (rows, choices) log-probabilities, in order


class LstmController:
    """NASNet's: one LSTM layer that reads its previous choice and answers with a softmax over the next.

    Zoph & Le 2017, arXiv:1611.01578; Zoph et al. 2018, arXiv:1707.07012: 100 units, weights uniform in ±0.1. Decisions
    of one kind with equally many choices share softmax and embeddings. Departure: each decision has a shift of its own
    within the shared softmax, as decisions that look alike at the start (the six edges of NAS-Bench-201) would otherwise
    take hundreds of children to be told apart. It starts at zero.
    """

    def __init__(self, decisions: tuple[Decision, ...], hidden: int, seed: str) -> None:
        self.decisions = decisions
        self._hidden = hidden
        groups = [(each.kind, len(each.choices)) for each in decisions]
        names = list(dict.fromkeys(groups))
        self._groups = [names.index(group) for group in groups]
        drawn: list[tuple[int, ...]] = [(hidden,), (4 * hidden, hidden), (4 * hidden, hidden), (4 * hidden,)]
        for _, choices in names:
            drawn += [(choices, hidden), (choices, hidden), (choices,)]
        shifts = [(len(each.choices),) for each in decisions]
        self._shapes = [*drawn, *shifts]
        start = torch.empty(sum(map(math.prod, drawn))).uniform_(-_INIT, _INIT, generator=_generator(seed))
        self.weights = torch.cat([start, torch.zeros(sum(map(math.prod, shifts)))])

    def walk(self, rows: int, choose: Choose) -> Iterator[Tensor]:
        parts = _parts(self.weights, self._shapes)
        start, reading, recurrent, bias = parts[:4]
        shifts = parts[-len(self.decisions) :]
        x = start.expand(rows, -1)  # (rows, hidden)
        state = (x.new_zeros(rows, self._hidden), x.new_zeros(rows, self._hidden))
        for position, (group, shift) in enumerate(zip(self._groups, shifts, strict=True)):
            embedding, answering, answering_bias = parts[4 + 3 * group : 7 + 3 * group]
            state = torch.lstm_cell(x, state, reading, recurrent, bias, torch.zeros_like(bias))
            log_probs = F.log_softmax(F.linear(state[0], answering, answering_bias + shift), 1)  # (rows, choices)
            x = F.embedding(choose(position, log_probs), embedding)
            yield log_probs


class TableController:
    """A softmax for each decision, none knowing of another: what NAS-Bench-201 and NATS-Bench call REINFORCE.

    Dong & Yang 2020, arXiv:2001.00326.
    """

    def __init__(self, decisions: tuple[Decision, ...], seed: str) -> None:
        self.decisions = decisions
        self._shapes: list[tuple[int, ...]] = [(len(each.choices),) for each in decisions]
        self.weights = torch.empty(sum(map(math.prod, self._shapes))).normal_(
            0, _TABLE_INIT, generator=_generator(seed)
        )

    def walk(self, rows: int, choose: Choose) -> Iterator[Tensor]:
        for position, logits in enumerate(_parts(self.weights, self._shapes)):
            log_probs = F.log_softmax(logits, 0).expand(rows, -1)
            choose(position, log_probs)
            yield log_probs


def _generator(seed: str) -> torch.Generator:
    return torch.Generator().manual_seed(Random(seed).getrandbits(63))


def _parts(flat: Tensor, shapes: Sequence[tuple[int, ...]]) -> list[Tensor]:
    pieces = torch.split(flat, [math.prod(shape) for shape in shapes])
    return [piece.view(shape) for piece, shape in zip(pieces, shapes, strict=True)]


def draw(controller: Controller, random: Random) -> tuple[tuple[int, ...], float]:
    """One sequence, a function of the weights and of `random`, and its log-probability."""
    tokens: list[int] = []
    total = 0.0

    def choose(_position: int, log_probs: Tensor) -> Tensor:
        nonlocal total
        row = log_probs[0].tolist()
        (token,) = random.choices(range(len(row)), [math.exp(each) for each in row])
        tokens.append(token)
        total += row[token]
        return torch.tensor([token])

    with torch.no_grad():
        for _ in controller.walk(1, choose):
            pass
    return tuple(tokens), total


def judge(controller: Controller, tokens: Tensor) -> tuple[Tensor, list[Tensor]]:
    """Log-probabilities of given sequences, (rows,), and of every choice on their way, (rows, choices) a decision.

    tokens: (rows, decisions) int64.
    """
    every = list(controller.walk(len(tokens), lambda position, _: tokens[:, position]))
    chosen = [each.gather(1, tokens[:, at, None]).squeeze(1) for at, each in enumerate(every)]
    return torch.stack(chosen).sum(0), every


@dataclass(frozen=True, slots=True)
class Learned:
    """What a policy looked like in an update. entropy: nats a decision, by kind. preferences: mean probability of each
    choice, by kind."""

    entropy: Mapping[str, float]
    preferences: Mapping[str, Mapping[str, float]]

    @classmethod
    def of(
        cls, decisions: Sequence[Decision], entropies: Sequence[float], shares: Sequence[Sequence[float]]
    ) -> "Learned":
        """entropies: of each decision. shares: the probability of each of its choices."""
        of_kind: dict[str, list[float]] = {}
        of_choice: dict[str, dict[str, list[float]]] = {}
        for decision, entropy, probabilities in zip(decisions, entropies, shares, strict=True):
            of_kind.setdefault(decision.kind, []).append(entropy)
            for choice, share in zip(decision.choices, probabilities, strict=True):
                of_choice.setdefault(decision.kind, {}).setdefault(choice, []).append(share)
        return cls(
            {kind: fmean(values) for kind, values in of_kind.items()},
            {kind: {choice: fmean(each) for choice, each in choices.items()} for kind, choices in of_choice.items()},
        )

    def to_json(self) -> dict[str, Json]:
        return {
            "entropy": dict(self.entropy),
            "preferences": {kind: dict(shares) for kind, shares in self.preferences.items()},
        }


class Learner:
    """Policy gradient by Adam (Kingma & Ba 2015, arXiv:1412.6980) on a controller's weights.

    algorithm: `reinforce` (Williams 1992), or `ppo`: the clipped ratio of Schulman et al. 2017, arXiv:1707.06347, to the
    policy that drew the sequence, which also bears results that arrive late. passes: steps on each batch.
    """

    def __init__(
        self,
        controller: Controller,
        *,
        algorithm: str,
        learning_rate: float,
        entropy: float,
        clip: float,
        passes: int,
    ) -> None:
        self.controller = controller
        self._ppo = algorithm == "ppo"
        self._entropy = entropy
        self._clip = clip
        self._passes = passes
        self._adam = torch.optim.Adam([controller.weights], learning_rate)

    def learn(self, tokens: Tensor, log_probs: Tensor, advantages: Tensor) -> Learned:
        """tokens: (rows, decisions). log_probs: (rows,), when they were drawn. advantages: (rows,)."""
        self.controller.weights.requires_grad_()
        for _ in range(self._passes):
            now, every = judge(self.controller, tokens)
            gain = self.gain(now, log_probs, advantages).mean()
            entropies = torch.stack([-(each.exp() * each).sum(1).mean() for each in every])  # (decisions,)
            self._adam.zero_grad()
            torch.autograd.backward(-gain - self._entropy * entropies.sum())
            self._adam.step()
        self.controller.weights.requires_grad_(False)
        shares = [each.detach().exp().mean(0).tolist() for each in every]
        return Learned.of(self.controller.decisions, entropies.tolist(), shares)

    def gain(self, now: Tensor, then: Tensor, advantages: Tensor) -> Tensor:
        """What is maximised, (rows,). now, then: log-probabilities under today's policy and the one that drew them."""
        if not self._ppo:
            return now * advantages
        ratio = (now - then).exp()
        return torch.minimum(ratio * advantages, ratio.clamp(1 - self._clip, 1 + self._clip) * advantages)

    def dump(self) -> dict[str, Json]:
        """Weights and Adam's two moments, 16 bytes of JSON for each weight."""
        weights = self.controller.weights
        moments = self._adam.state.get(weights) or {
            "step": torch.zeros(()), "exp_avg": torch.zeros_like(weights), "exp_avg_sq": torch.zeros_like(weights)
        }  # fmt: skip
        return {
            "steps": int(moments["step"]),
            "weights": _packed(weights),
            "mean": _packed(moments["exp_avg"]),
            "square": _packed(moments["exp_avg_sq"]),
        }

    def load(self, state: Mapping[str, Json]) -> None:
        """Raises KeyError, TypeError or ValueError for what is no dump of a controller of this form."""
        count = len(self.controller.weights)
        steps = counted(state["steps"])
        weights, mean, square = (_unpacked(state[name], count) for name in ("weights", "mean", "square"))
        self.controller.weights.copy_(weights)
        self._adam.state[self.controller.weights] = {
            "step": torch.tensor(float(steps)),
            "exp_avg": mean,
            "exp_avg_sq": square,
        }


def counted(number: Json) -> int:
    """What a dump says was counted. Raises ValueError for what no count can be."""
    if isinstance(number, bool) or not isinstance(number, int) or not 0 <= number < 2**40:
        raise ValueError(f"{number!r} is not a count")
    return number


def _packed(vector: Tensor) -> str:
    return base64.b64encode(vector.numpy().astype("<f4").tobytes()).decode()


def _unpacked(text: str, count: int) -> Tensor:
    vector = np.frombuffer(base64.b64decode(text, validate=True), "<f4")
    if len(vector) != count or not np.isfinite(vector).all():
        raise ValueError(f"{len(vector)} weights, not all of them finite or not the {count} that are needed")
    return torch.from_numpy(vector.astype(np.float32))
