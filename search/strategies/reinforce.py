"""NASNet's search: a controller that learns by policy gradient."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from random import Random

import torch

from search.candidate import Candidate, Note, Observation
from search.space import Genotype, Json, Space, Tokenised
from search.strategies.controller import (
    Controller,
    Learned,
    Learner,
    LstmController,
    TableController,
    counted,
    draw,
    judge,
)
from search.strategies.history import DAMAGE, History, Remembering, StateError


@dataclass(frozen=True, slots=True)
class Sample:
    """A sequence that the controller drew, or was shown, and has not learned from. log_prob: at that moment."""

    key: str
    tokens: tuple[int, ...]
    log_prob: float


class Reinforce(Remembering):
    """A controller proposes, the scores are its rewards. Zoph & Le 2017, arXiv:1611.01578; Zoph et al. 2018,
    arXiv:1707.07012: PPO at a learning rate of 3.5e-4, minibatches of 20 children, entropy weight 1e-5, a moving
    average of earlier rewards with decay .95 as the baseline.

    An update takes the `batch` earliest sequences as soon as all of them have come back, so that neither the speed of
    workers nor the order of results changes what is learned; failures teach nothing but fill their place. Departures:
    an architecture drawn again is not trained again, its known score is the reward; when all draws are known, a
    uniform one is proposed. The average is corrected for its start (as in Adam) and moves before it is compared with.
    Architectures that others proposed count as drawn when their score arrives. Defaults are a
    compromise for a few hundred children, where the published rate has hardly moved the policy: a rate of .01, 5 children an
    update, entropy .001. Four passes of PPO over batches of 10 with entropy .003 did better on NAS-Bench-201 and worse in `cell`.

    Notes, `controller`, one an update: see `_note`.
    """

    def __init__(self, space: Space, options: Mapping[str, Json], seed: int) -> None:
        if not isinstance(space, Tokenised):
            raise TypeError(f"space {space.name!r} has no token form for a controller")
        self._space = space
        self._tokenised: Tokenised = space
        self._batch = int(options["batch"])
        self._decay = float(options["baseline_decay"])
        decisions = space.decisions()
        controller: Controller = (
            TableController(decisions, f"{seed}/controller")
            if options["controller"] == "table"
            else LstmController(decisions, int(options["hidden"]), f"{seed}/controller")
        )
        self._learner = Learner(
            controller,
            algorithm=str(options["algorithm"]),
            learning_rate=float(options["learning_rate"]),
            entropy=float(options["entropy"]),
            clip=float(options["clip"]),
            passes=int(options["passes"]) if options["algorithm"] == "ppo" else 1,  # it has no hold on further steps
        )
        super().__init__(History("reinforce", space, seed, keep=0, worth=lambda member: (member.score, 0)))
        self._outcomes: dict[str, float | None] = {}  # key → score, None when it failed
        self._samples: list[Sample] = []  # in the order they were drawn
        self._average = 0.0
        self._rewards = 0  # that the average is of
        self._updates = 0

    def ask(self, count: int, pending: Sequence[Candidate]) -> list[Candidate]:
        proposals = self._history.propose(count, pending, self._draw)
        for each in proposals:
            self._show(each.genotype)
        return proposals

    def _draw(self, random: Random) -> tuple[Genotype, str | None]:
        tokens, log_prob = draw(self._learner.controller, random)
        genotype = self._tokenised.from_tokens(tokens)
        self._samples.append(Sample(self._space.key(genotype), tokens, log_prob))
        self._learn()
        return genotype, None

    def _show(self, genotype: Genotype) -> None:
        """Have the controller learn from an architecture that it did not draw itself."""
        key, tokens = self._space.key(genotype), self._tokenised.tokens(genotype)
        drawn = any(sample.key == key for sample in self._samples)
        if not drawn and len(tokens) == len(self._learner.controller.decisions):
            with torch.no_grad():
                log_prob = float(judge(self._learner.controller, torch.tensor([tokens]))[0])
            self._samples.append(Sample(key, tokens, log_prob))

    def tell(self, seen: Sequence[Observation]) -> None:
        for observation in sorted(seen, key=lambda each: each.trial):
            genotype = observation.candidate.genotype
            if genotype.space != self._space.name or self._space.key(genotype) in self._outcomes:
                continue
            self._outcomes[self._space.key(genotype)] = observation.score
            self._show(genotype)
        super().tell(seen)
        self._learn()

    def _learn(self) -> None:
        while len(self._samples) >= self._batch and all(
            sample.key in self._outcomes for sample in self._samples[: self._batch]
        ):
            batch, self._samples = self._samples[: self._batch], self._samples[self._batch :]
            scored = [(each, score) for each in batch if (score := self._outcomes[each.key]) is not None]
            if scored:
                self._update([each for each, _ in scored], [score for _, score in scored])

    def _update(self, batch: Sequence[Sample], rewards: Sequence[float]) -> None:
        for reward in rewards:
            self._average = self._decay * self._average + (1 - self._decay) * reward
            self._rewards += 1
        baseline = self._average / (1 - self._decay**self._rewards)
        learned = self._learner.learn(
            torch.tensor([each.tokens for each in batch]),
            torch.tensor([each.log_prob for each in batch]),
            torch.tensor([reward - baseline for reward in rewards]),
        )
        self._updates += 1
        self._notes.append(_note(self._updates, rewards, baseline, learned))

    def dump(self) -> dict[str, Json]:
        return super().dump() | {
            "outcomes": self._outcomes,
            "samples": [[each.key, list(each.tokens), each.log_prob] for each in self._samples],
            "average": self._average,
            "rewards": self._rewards,
            "updates": self._updates,
            "controller": self._learner.dump(),
        }

    def load(self, state: Mapping[str, Json]) -> None:
        super().load(state)
        try:
            self._outcomes = {str(key): _score(score) for key, score in state["outcomes"].items()}
            self._samples = [self._sample(*each) for each in state["samples"]]
            self._average, self._rewards = float(state["average"]), counted(state["rewards"])
            self._updates = counted(state["updates"])
            self._learner.load(state["controller"])
        except DAMAGE as damage:
            raise StateError(f"state of 'reinforce' cannot be read: {damage}") from damage

    def _sample(self, key: Json, tokens: Json, log_prob: Json) -> Sample:
        choices = [len(each.choices) for each in self._learner.controller.decisions]
        if not all(0 <= int(token) < count for token, count in zip(tokens, choices, strict=True)):
            raise ValueError(f"tokens {tokens} are not among the choices")
        return Sample(str(key), tuple(map(int, tokens)), float(log_prob))


def _score(score: Json) -> float | None:
    if score is None:
        return None
    if not math.isfinite(score):
        raise ValueError(f"score {score} is not a number")
    return float(score)


def _note(step: int, rewards: Sequence[float], baseline: float, learned: Learned) -> Note:
    """reward: mean of the update's. entropy: nats a decision and preferences: mean probability of each choice, by kind
    of decision."""
    return Note(
        step,
        "controller",
        {
            "reward": sum(rewards) / len(rewards),
            "children": len(rewards),
            "baseline": baseline,
        }
        | learned.to_json(),
    )
