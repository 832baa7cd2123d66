"""A transformer layer, of the language models and of the vision transformer."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from autotune.actuators import TunableDropout


class Block(nn.Module):
    """A pre-norm transformer layer (Xiong et al. 2020).

    Args:
        width: of the residual stream, a multiple of `heads`.
        heads: of the attention.
        causal: whether a position sees only itself and those before it.
        dropout: of both residual branches.
    """

    def __init__(self, width: int, heads: int, *, causal: bool, dropout: float = 0.0) -> None:
        super().__init__()
        self.heads, self.causal = heads, causal
        self.norm = nn.LayerNorm(width)
        self.heads_in = nn.Linear(width, 3 * width)
        self.heads_out = nn.Linear(width, width)
        self.mlp = nn.Sequential(
            nn.LayerNorm(width), nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width)
        )
        self.dropout: nn.Module = TunableDropout(dropout) if dropout else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """(batch, length, width) to the same."""
        joint = self.heads_in(self.norm(x)).unflatten(-1, (3, self.heads, -1))
        query, key, value = joint.permute(2, 0, 3, 1, 4)
        mixed = scaled_dot_product_attention(query, key, value, is_causal=self.causal)
        x = x + self.dropout(self.heads_out(mixed.transpose(1, 2).flatten(2)))
        out: Tensor = x + self.dropout(self.mlp(x))
        return out
