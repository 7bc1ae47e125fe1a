"""Attention pooling: learned queries attend to all tokens, as in SigLIP (Zhai et al., 2023)."""

from __future__ import annotations

from torch import Tensor, nn


class AttentionPool(nn.Module):
    """A latent query attends to the tokens; then an MLP in a residual branch.

    Only `kv` reads the residual channels; everything after it has a width of its own, which pruning does not change.
    """

    def __init__(self, latent: nn.Parameter, heads: int, q: nn.Module, kv: nn.Linear, proj: nn.Linear) -> None:
        super().__init__()
        self.heads = heads
        self.latent = latent  # [1, queries, width of the latent]
        self.q, self.kv, self.proj = q, kv, proj
        self.proj_drop: nn.Module = nn.Identity()
        self.norm: nn.Module = nn.Identity()
        self.mlp: nn.Module | None = None
        self.mean = False
        """The mean of all queries' results instead of the first."""

    def forward(self, x: Tensor) -> Tensor:
        """[batch, tokens, width] -> [batch, output width]"""
        k, v = (part.unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in self.kv(x).chunk(2, dim=-1))
        queries = self.q(self.latent).unflatten(-1, (self.heads, -1)).transpose(1, 2)  # [1, heads, queries, head_dim]
        weights = (queries * queries.shape[-1] ** -0.5) @ k.transpose(2, 3)  # [batch, heads, queries, tokens]
        mixed = weights.softmax(dim=-1) @ v
        pooled: Tensor = self.proj_drop(self.proj(mixed.transpose(1, 2).flatten(2)))  # [batch, queries, output width]
        if self.mlp is not None:
            pooled = pooled + self.mlp(self.norm(pooled))
        return pooled.mean(dim=1) if self.mean else pooled[:, 0]

    @property
    def macs_per_token(self) -> int:
        """MACs of the two products, for each token."""
        return 2 * self.latent.shape[1] * self.proj.in_features
