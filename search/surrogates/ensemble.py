"""The surrogate of Progressive NAS: five small networks that read an architecture's choices and predict its score."""

from collections.abc import Sequence
from itertools import groupby
from random import Random
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from search.space import Decision

Tokens = tuple[int, ...]

MEMBERS = 5
_STEPS = 150  # full-batch; the loss on a few hundred cells is flat by then
_LEARNING_RATE = 0.01
_EMBEDDING, _HIDDEN = 32, 64
_LOW, _HIGH = 0.1, 0.9  # where the worst and the best score seen lie on the sigmoid
_CHUNK = 4096  # rows predicted at once


class Ensemble:
    """Five predictors, each fitted to a different 4/5 of what is known; their mean is the prediction.

    Liu et al. 2018, arXiv:1712.00559. `mlp`: the embedded choices of a block side by side, their mean over blocks, one
    hidden layer. `lstm`: a recurrent layer over all choices. Choices of one kind share embeddings; a sigmoid answers; the loss
    is L1, the optimizer Adam at .01. Departures: of cells that are not tied each has a mean of its own. Scores are scaled
    to the sigmoid's range by the worst and the best seen (no bias of 1.8), so that any objective fits. Fitted anew each time,
    so there is no slower rate for later levels. 32 and 64 units instead of 100: there are tens of cells and not thousands.

    decisions: of the space's largest architectures; smaller ones have fewer blocks. blocks: how many the largest have.
    """

    def __init__(self, decisions: Sequence[Decision], blocks: int, form: Literal["mlp", "lstm"], seed: str) -> None:
        cells = len({each.name.split("[")[0] for each in decisions})
        width = len(decisions) // (cells * blocks)  # choices of one block
        kinds = [each.kind for each in decisions[:width]]
        choices = {kind: max(len(each.choices) for each in decisions if each.kind == kind) for kind in kinds}
        offsets, total = {}, 0
        for kind, count in choices.items():
            offsets[kind] = total
            total += count
        self._offsets = [offsets[kind] for kind in kinds]
        self._cells = cells
        with torch.device("meta"):  # the start is drawn below, from the seed alone
            maker = _Mlp if form == "mlp" else _Lstm
            self._members: list[nn.Module] = [maker(total, cells, width) for _ in range(MEMBERS)]
        self._members = [member.to_empty(device="cpu") for member in self._members]
        self._seed = seed
        self._low, self._span = 0.0, 1.0

    def fit(self, tokens: Sequence[Tokens], scores: Sequence[float]) -> None:
        """At least one; the same arguments give the same predictions."""
        self._low = min(scores)
        self._span = max(scores) - self._low
        scaled = [
            _LOW + (_HIGH - _LOW) * (score - self._low) / self._span if self._span > 0 else 0.5 for score in scores
        ]
        order = list(range(len(tokens)))
        Random(self._seed).shuffle(order)
        for number, member in enumerate(self._members):
            generator = torch.Generator().manual_seed(Random(f"{self._seed}/{number}").getrandbits(63))
            _start(member, generator)
            own = [each for place, each in enumerate(order) if place % MEMBERS != number] or order
            self._fit_member(member, [tokens[each] for each in own], [scaled[each] for each in own])

    def _fit_member(self, member: nn.Module, tokens: Sequence[Tokens], scaled: Sequence[float]) -> None:
        groups = self._by_length(tokens)
        target = torch.tensor([scaled[each] for places, _ in groups for each in places])
        optimizer = torch.optim.Adam(member.parameters(), _LEARNING_RATE)
        for _ in range(_STEPS):
            optimizer.zero_grad()
            loss = F.l1_loss(torch.cat([member(rows) for _, rows in groups]), target)
            torch.autograd.backward(loss)
            optimizer.step()

    def predict(self, tokens: Sequence[Tokens]) -> NDArray[np.float64]:
        """(rows,): the ensemble's mean, in the units of the scores."""
        answers = np.zeros(len(tokens))
        with torch.no_grad():
            for places, rows in self._by_length(tokens):
                chunks = [
                    torch.stack([member(chunk) for member in self._members]).mean(0)
                    for chunk in torch.split(rows, _CHUNK)
                ]
                answers[places] = torch.cat(chunks).double().numpy()
        return self._low + self._span * (answers - _LOW) / (_HIGH - _LOW)

    def _by_length(self, tokens: Sequence[Tokens]) -> list[tuple[list[int], Tensor]]:
        """Places of equally many tokens, and these as (rows, cells, blocks, choices of a block) of the vocabulary."""
        order = sorted(range(len(tokens)), key=lambda place: len(tokens[place]))
        groups = []
        for _, group in groupby(order, key=lambda place: len(tokens[place])):
            places = list(group)
            rows = torch.tensor([tokens[place] for place in places])
            rows = rows.view(len(places), self._cells, -1, len(self._offsets)) + torch.tensor(self._offsets)
            groups.append((places, rows))
        return groups


class _Mlp(nn.Module):
    def __init__(self, vocabulary: int, cells: int, width: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocabulary, _EMBEDDING)
        self.hidden = nn.Linear(cells * width * _EMBEDDING, _HIDDEN)
        self.answer = nn.Linear(_HIDDEN, 1)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embedding(tokens).flatten(3).mean(2).flatten(1)  # (rows, cells · width · embedding)
        return torch.sigmoid(self.answer(F.relu(self.hidden(x)))).squeeze(1)


class _Lstm(nn.Module):
    def __init__(self, vocabulary: int, _cells: int, _width: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocabulary, _EMBEDDING)
        self.recurrent = nn.LSTM(_EMBEDDING, _HIDDEN, batch_first=True)
        self.answer = nn.Linear(_HIDDEN, 1)

    def forward(self, tokens: Tensor) -> Tensor:
        states, _ = self.recurrent(self.embedding(tokens.flatten(1)))  # (rows, tokens, hidden)
        return torch.sigmoid(self.answer(states[:, -1])).squeeze(1)


def _start(member: nn.Module, generator: torch.Generator) -> None:
    """Uniform by the number of inputs; embeddings as in the paper's controller, ten times as wide."""
    with torch.no_grad():
        for name, weights in member.named_parameters():
            bound = 1.0 if "embedding" in name else _HIDDEN**-0.5
            weights.uniform_(-bound, bound, generator=generator)
