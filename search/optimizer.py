"""The optimizer: Muon for convolution filters, Nesterov momentum for everything else."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

_FILTER_RATE = 0.24  # airbench94_muon's on filters of norm sqrt(outputs), at its batch of 2,000
_FILTER_BATCH = 2000
_FILTER_MOMENTUM = 0.6
_HEAD_RATE, _BIAS_RATE = 0.67, 0.053  # airbench94_muon's, per example of the batch
_MOMENTUM = 0.85
_DECAY = 2e-6  # per example of the batch, on everything but filters, whose norm is fixed
_NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)
_NEWTON_SCHULZ_STEPS = 3


class Optimizer:
    """Steps the trainable parameters of a network whose every convolution is followed by a normalisation.

    Filters (4-D parameters) are kept at a fixed norm and move by the orthogonalised gradient (Muon, Jordan 2024;
    constants of airbench94_muon): a normalisation behind them makes their scale meaningless. The rest follows
    Nesterov momentum with decoupled rates for the head and for biases. matrices: number format in which gradients
    are orthogonalised, the device's own: airbench's, too, is half precision.
    """

    def __init__(
        self,
        network: nn.Module,
        batch_size: int,
        learning_rate: float,
        weight_decay: float,
        matrices: torch.dtype = torch.float32,
    ):
        self._matrices = matrices
        named: list[tuple[str, Tensor]] = [(name, p) for name, p in network.named_parameters() if p.requires_grad]
        self._filters = [p for _, p in named if p.ndim == 4]
        self._others = [p for _, p in named if p.ndim != 4]
        self._names = [name for name, p in named if p.ndim == 4] + [name for name, p in named if p.ndim != 4]
        self._momenta = [torch.zeros_like(p) for p in (*self._filters, *self._others)]
        self._filter_rate = learning_rate * _FILTER_RATE * (batch_size / _FILTER_BATCH) ** 0.5
        self._rates = [learning_rate * batch_size * (_HEAD_RATE if p.ndim > 1 else _BIAS_RATE) for p in self._others]
        self._decays = [weight_decay * _DECAY * batch_size / rate for rate in self._rates]

    @torch.no_grad()
    def step(self, rate: float) -> None:
        """One step along the gradients of the mean loss, which are cleared. rate: the schedule's height, 0 to 1.

        Parameters without a gradient (of paths that a network with shared weights did not take) stay where they are.
        """
        moved = [number for number, p in enumerate((*self._filters, *self._others)) if p.grad is not None]
        count = len(self._filters)
        self._step_filters([number for number in moved if number < count], rate)
        self._step_others([number - count for number in moved if number >= count], rate)

    def _step_filters(self, numbers: Sequence[int], rate: float) -> None:
        if not numbers:
            return
        chosen, momenta = [self._filters[n] for n in numbers], [self._momenta[n] for n in numbers]
        gradients = [_gradient(p) for p in chosen]
        torch._foreach_mul_(momenta, _FILTER_MOMENTUM)
        torch._foreach_add_(momenta, gradients)
        torch._foreach_add_(gradients, momenta, alpha=_FILTER_MOMENTUM)
        norms = torch._foreach_norm(chosen)
        for filters, norm, gradient in zip(chosen, norms, gradients, strict=True):
            filters.mul_(len(filters) ** 0.5 / norm.clamp(min=1e-12))
            filters.add_(orthogonalised(gradient, self._matrices), alpha=-rate * self._filter_rate)
            filters.grad = None

    def _step_others(self, numbers: Sequence[int], rate: float) -> None:
        if not numbers:
            return
        chosen = [self._others[n] for n in numbers]
        momenta = [self._momenta[len(self._filters) + n] for n in numbers]
        gradients = [_gradient(p) for p in chosen]
        torch._foreach_add_(gradients, list(torch._foreach_mul(chosen, [self._decays[n] for n in numbers])))
        torch._foreach_mul_(momenta, _MOMENTUM)
        torch._foreach_add_(momenta, gradients)
        torch._foreach_add_(gradients, momenta, alpha=_MOMENTUM)
        torch._foreach_mul_(gradients, [-rate * self._rates[n] for n in numbers])
        torch._foreach_add_(chosen, gradients)
        for p in chosen:
            p.grad = None

    def state(self) -> dict[str, Tensor]:
        """Momentum by parameter name."""
        return dict(zip(self._names, self._momenta, strict=True))

    @torch.no_grad()
    def restore(self, state: Mapping[str, Tensor]) -> None:
        for name, momentum in zip(self._names, self._momenta, strict=True):
            momentum.copy_(state[name])


def _gradient(parameter: Tensor) -> Tensor:
    assert parameter.grad is not None
    return parameter.grad


def orthogonalised(gradient: Tensor, matrices: torch.dtype = torch.float32) -> Tensor:
    """The nearest matrix with singular values about 1 (0.5 to 1.5), by Newton-Schulz iterations.

    gradient: (outputs, inputs, k, k), taken as outputs × inputs·k·k; of a grouped filter with one input each row by
    itself. matrices: number format of the iterations.
    """
    a, b, c = _NEWTON_SCHULZ
    if gradient.shape[1] == 1:
        lengths: Tensor = gradient.flatten(1).norm(dim=1)
        return gradient / lengths.clamp(min=1e-7).reshape(-1, 1, 1, 1)
    x = gradient.flatten(1)
    tall = x.shape[0] > x.shape[1]
    x = x.T if tall else x
    length: Tensor = x.norm()
    x = (x / length.clamp(min=1e-7)).to(matrices)
    for _ in range(_NEWTON_SCHULZ_STEPS):
        gram = x @ x.T
        x = torch.addmm(x, torch.addmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return (x.T if tall else x).reshape(gradient.shape).to(gradient.dtype)
