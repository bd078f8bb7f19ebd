"""ExpertLayer experts that are called in other ways than `modules.experts.OpenedExperts`."""

from __future__ import annotations

from typing import Any

import torch

from hf_quant.modules.experts import ExpertLayer


class ExpertsOnShares(ExpertLayer):
    """ExpertLayer experts of which each gets as many rows, one expert's after the other's, as in Llama 4."""

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """Outputs ``[experts * tokens, width]`` of rows of the same shape."""
        shares = hidden_states.view(self.experts, -1, hidden_states.shape[-1])
        return torch.cat([_call(self, index, share) for index, share in enumerate(shares)])


class SortedExperts(ExpertLayer):
    """ExpertLayer linears on rows that are sorted by expert, as in JetMoE."""

    def forward(self, inputs: torch.Tensor, expert_size: Any) -> torch.Tensor:
        """Outputs ``[rows, out]`` of rows ``[rows, in]``, of which each expert takes as many as `expert_size` says."""
        return torch.cat([_call(self, index, rows) for index, rows in enumerate(inputs.split(expert_size, dim=0))])


class SharedExperts(ExpertLayer):
    """ExpertLayer experts that all get every token, each with a weight, as the shared ones of Inkling."""

    def forward(self, hidden_states: torch.Tensor, gammas: torch.Tensor) -> torch.Tensor:
        """Weighted sum of the outputs for hidden states ``[..., width]`` and weights ``[..., experts]``."""
        rows = hidden_states.reshape(-1, hidden_states.shape[-1])
        weights = gammas.reshape(-1, self.experts, 1).float()
        outputs = [_call(self, index, rows).float() * weights[:, index] for index in range(self.experts)]
        return torch.stack(outputs).sum(0).to(hidden_states.dtype).view(hidden_states.shape)


def _call(module: ExpertLayer, index: int, rows: torch.Tensor) -> torch.Tensor:
    expert: Any = module._modules[str(index)]
    output: torch.Tensor = expert(rows)
    return output
