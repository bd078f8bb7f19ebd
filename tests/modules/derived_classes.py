"""Classes derived from linear, `Conv1D` and embedding, as models have them."""

import torch
from torch import nn
from transformers.pytorch_utils import Conv1D


class ScaledEmbedding(nn.Embedding):
    """As Gemma's: rows times a constant, in the dtype of the weight."""

    def __init__(self, rows, width, padding_idx=None, scale=2.5):
        super().__init__(rows, width, padding_idx)
        self.note = "kept"
        self.register_buffer("embed_scale", torch.tensor(scale), persistent=False)

    def forward(self, input_ids):
        return super().forward(input_ids) * self.embed_scale.to(self.weight.dtype)


class OffsetEmbedding(nn.Embedding):
    """As OPT's: positions counted by a mask, two rows further."""

    def forward(self, attention_mask, past_key_values_length=0, position_ids=None):
        if position_ids is None:
            position_ids = ((torch.cumsum(attention_mask, dim=1) * attention_mask) - 1).long()
            position_ids = position_ids[:, past_key_values_length:]
        return super().forward(position_ids + 2)


class ShapedEmbedding(nn.Embedding):
    """As Pegasus': a row for each position of a shape."""

    @torch.no_grad()
    def forward(self, shape, past_key_values_length=0):
        positions = torch.arange(past_key_values_length, past_key_values_length + shape[1], device=self.weight.device)
        return super().forward(positions)


class NormedEmbedding(nn.Embedding):
    """As Inkling's: rows through a child with weights of its own."""

    def __init__(self, rows, width):
        super().__init__(rows, width)
        self.norm = nn.LayerNorm(width)

    def forward(self, input_ids):
        return self.norm(super().forward(input_ids))


class SlicedEmbedding(nn.Embedding):
    """As Whisper's: reads its weight itself."""

    def forward(self, input_ids, past_key_values_length=0):
        return self.weight[past_key_values_length : past_key_values_length + input_ids.shape[1]]


class SumEmbedding(nn.Embedding):
    """Rows, and the mean of all rows."""

    def forward(self, input_ids):
        return super().forward(input_ids) + self.weight.mean(0)


class WrittenOutLinear(nn.Linear):
    """As Falcon's: a linear in other words."""

    def forward(self, input):
        hidden_states = input @ self.weight.T
        return hidden_states if self.bias is None else hidden_states + self.bias


class BareLinear(nn.Linear):
    """A name, and nothing else."""


class ScaledLinear(nn.Linear):
    """A multiple of what its base gives."""

    def forward(self, input):
        return super().forward(input) * 3


class ScaledConv1D(Conv1D):
    """A multiple of what its base gives."""

    def forward(self, x):
        return super().forward(x) * -0.5


class ScaledInputLinear(nn.Linear):
    """Its base gets another input, which no statistics are of."""

    def forward(self, input):
        return super().forward(input * 3)


class Router(nn.Linear):
    """As Llama4's: scores of the largest."""

    def forward(self, input):
        logits = super().forward(input)
        return torch.full_like(logits, float("-inf")).scatter_(1, *reversed(torch.topk(logits, 2, dim=-1)))


class ClampedLinear(nn.Linear):
    """A linear of ordinary inputs only."""

    def forward(self, input):
        return super().forward(input).clamp(-1e5, 1e5)


class ClampedWrittenOutLinear(WrittenOutLinear):
    """A linear of ordinary inputs only, which reads its weight itself."""

    def forward(self, input):
        return super().forward(input.clamp(-1000, 1000))


class NoisyLinear(nn.Linear):
    """A linear in evaluation only."""

    def forward(self, input):
        return input @ self.weight.T + self.training


class GroupedLinear(nn.Linear):
    """As DeepSeek's: a matrix for each group of inputs."""

    def forward(self, input):
        return torch.einsum(
            "...gi,goi->...go", input.unflatten(-1, (2, -1)), self.weight.view(2, -1, input.shape[-1] // 2)
        )


class LinearAndMore(nn.Linear):
    """As Idefics': more outputs where there is a child."""

    def __init__(self, width, rows, more=0):
        super().__init__(width, rows)
        self.more = nn.Linear(width, more) if more else None

    def forward(self, input):
        output = nn.functional.linear(input, self.weight, self.bias)
        return output if self.more is None else torch.cat((output, self.more(input)), -1)


class EmbeddingAndMore(nn.Embedding):
    """As Idefics': ids beyond its rows are those of a child."""

    def __init__(self, rows, width, more=4):
        super().__init__(rows, width)
        self.more = nn.Embedding(more, width)

    def forward(self, input_ids):
        found = nn.functional.embedding(input_ids.clamp(max=self.num_embeddings - 1), self.weight)
        beyond = input_ids >= self.num_embeddings
        found[beyond] = self.more(input_ids[beyond] - self.num_embeddings)
        return found
