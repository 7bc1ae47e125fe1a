"""Module with the canonical form of transformers' image classifiers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from timm.layers.patch_embed import PatchEmbed
from timm.layers.pos_embed import resample_abs_pos_embed
from torch import Tensor, nn

from toolkit.models.block import Blocks, attentions

Pooling = Literal["token", "tokens", "mean", "both"]
"""Input of the classifiers: the class token; class and distillation token, one classifier each; the mean of the
patches; class token and mean of the patches, one classifier each."""
CLASSIFIERS = ("head", "head_dist", "head_mean")


@dataclass(frozen=True)
class Tokens:
    """Tokens before the patches, and position embeddings; None for those that the model lacks."""

    cls: nn.Parameter
    dist: nn.Parameter | None
    registers: nn.Parameter | None
    """[1, registers, width], without positions, between class token and patches."""
    positions: nn.Parameter | None
    """[1, tokens without registers, width]"""


class HeadwiseClassifier(nn.Module):
    """Patches, class token and others, positions, canonical blocks, a pooling and one or two linear classifiers.

    Two classifiers are averaged (`tokens`, as in DeiT with teacher) or added (`both`, as in DINOv2, where they are the
    halves of one layer).
    """

    def __init__(
        self,
        patch_embed: PatchEmbed,
        tokens: Tokens,
        blocks: Blocks,
        pooling: Pooling,
        classifiers: Sequence[nn.Linear],
    ) -> None:
        super().__init__()
        self.pooling = pooling
        self.cls_token, self.dist_token = tokens.cls, tokens.dist
        self.reg_token, self.pos_embed = tokens.registers, tokens.positions
        self.patch_embed = patch_embed
        self.pos_drop: nn.Module = nn.Dropout(0.0)
        self.blocks = blocks
        self.norm: nn.Module = nn.Identity()
        self.fc_norm: nn.Module = nn.Identity()
        self.head = classifiers[0]
        self.head_dist = classifiers[1] if pooling == "tokens" else None
        self.head_mean = classifiers[1] if pooling == "both" else None

    @property
    def num_prefix_tokens(self) -> int:
        """Number of tokens before the patches."""
        extra = (self.dist_token, self.reg_token)
        return 1 + sum(token.shape[1] for token in extra if token is not None)

    def forward(self, images: Tensor) -> Tensor:
        """[batch, 3, S, S] -> logits [batch, classes]"""
        x = self.patch_embed(images)
        first = [token.expand(x.shape[0], -1, -1) for token in (self.cls_token, self.dist_token) if token is not None]
        x = torch.cat([*first, x], dim=1)
        if self.pos_embed is not None:
            x = x + self.pos_embed
        if self.reg_token is not None:
            x = torch.cat([x[:, :1], self.reg_token.expand(x.shape[0], -1, -1), x[:, 1:]], dim=1)
        return self.logits(self.norm(self.blocks(self.pos_drop(x))))

    def logits(self, x: Tensor) -> Tensor:
        """[batch, tokens, width] -> [batch, classes]"""
        if self.pooling == "mean":
            pooled = self.fc_norm(x[:, self.num_prefix_tokens :].mean(dim=1))
            return self.head(pooled)  # type: ignore[no-any-return]
        logits: Tensor = self.head(x[:, 0])
        if self.head_dist is not None:
            logits = (logits + self.head_dist(x[:, 1])) / 2
        if self.head_mean is not None:
            logits = logits + self.head_mean(x[:, self.num_prefix_tokens :].mean(dim=1))
        return logits

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Recompute activations in the backward pass instead of storing them."""
        self.blocks.checkpointing = enable

    def set_input_size(self, image_size: int) -> None:
        """Resample the positions for images of `image_size` pixels: bicubic, as transformers does."""
        self.patch_embed.set_input_size((image_size, image_size))
        rows, columns = self.patch_embed.grid_size
        if self.pos_embed is not None:
            embeddings = resample_abs_pos_embed(
                self.pos_embed.detach(),
                (rows, columns),
                num_prefix_tokens=1 if self.dist_token is None else 2,
                antialias=self.reg_token is not None,
            )
            self.pos_embed = nn.Parameter(embeddings, requires_grad=self.pos_embed.requires_grad)
        for attention in attentions(self).values():
            attention.set_window_size((rows, columns))
