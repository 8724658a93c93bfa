"""Muon: momentum made orthogonal, for the kernels of convolutions.

Source: Jordan et al. 2024, "Muon: An optimizer for hidden layers"
(kellerjordan.github.io/posts/muon). torch.optim.Muon takes matrices only; here
a kernel [out, in, 3, 3] is one matrix [out, in*9].
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from vaekit.engine.placement import computes_in_bfloat16

NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)
"""Coefficients of the quintic iteration that pushes singular values towards 1."""


def orthogonalise(matrix: Tensor, steps: int = 5) -> Tensor:
    """The nearest semi-orthogonal matrix to `matrix` [rows, columns], approximately, in its own dtype."""
    a, b, c = NEWTON_SCHULZ
    wide = matrix if matrix.shape[0] <= matrix.shape[1] else matrix.T
    x = (wide / (wide.norm() + 1e-7)).to(_quick(matrix.device))
    for _ in range(steps):
        gram = x @ x.T
        x = a * x + (b * gram + c * gram @ gram) @ x
    return (x if matrix.shape[0] <= matrix.shape[1] else x.T).to(matrix)


def _quick(device: torch.device) -> torch.dtype:
    """What the iteration runs in, for which bfloat16 is exact enough; emulated it took 20 times as long as float32."""
    return torch.float32 if device.type == "cpu" and not computes_in_bfloat16() else torch.bfloat16


class Muon(torch.optim.Optimizer):
    """Nesterov momentum, orthogonalised; step lr * 0.2 * sqrt(max(1, rows / columns))."""

    def __init__(self, parameters: Iterable[Tensor], lr: float = 1e-2, momentum: float = 0.95):
        super().__init__(parameters, {"lr": lr, "momentum": momentum})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self._update(parameter, group["lr"], group["momentum"])

    def _update(self, parameter: Tensor, lr: float, momentum: float) -> None:
        state = self.state[parameter]
        if not state:
            state["momentum"] = torch.zeros_like(parameter)
        velocity = state["momentum"].mul_(momentum).add_(parameter.grad)
        direction = (parameter.grad + momentum * velocity).flatten(1)
        rows, columns = direction.shape
        update = orthogonalise(direction).view_as(parameter)
        parameter.add_(update, alpha=-lr * 0.2 * max(1.0, rows / columns) ** 0.5)
