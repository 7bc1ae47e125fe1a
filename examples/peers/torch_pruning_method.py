"""The pruning method `torch-pruning`: Torch-Pruning chooses and removes the units, by its own Taylor importance.

Torch-Pruning (DepGraph, Fang et al., 2023) prunes timm's module with the dense weights through its public interface,
with the settings of its ViT examples: `BasePruner`, `GroupTaylorImportance`, one step, whole heads instead of head
dimensions, and with the scope `isomorphic` its isomorphic ranking (Fang et al., 2024). Images and loss are those of the
criterion `taylor`. The plan lists the units that it removed. The toolkit's model for this plan must have the logits of
the module that Torch-Pruning itself pruned; else the command ends with an error.

Torch-Pruning is given fractions of the units, so that these are searched for: the smallest equal fraction of heads and
of widths within the budget, then the smallest fraction of widths with as many heads.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch_pruning as tp
from timm.layers.attention import Attention
from timm.layers.mlp import Mlp
from timm.models.vision_transformer import Block, VisionTransformer
from torch import Tensor, nn

from toolkit import recipe
from toolkit.dg.batches import Batch
from toolkit.errors import BudgetError, CheckFailed, RecipeError, UnsupportedModel
from toolkit.models import surgery
from toolkit.models.architectures import source_of
from toolkit.models.architectures.timm_vit.weights import CLASSIFIERS, fill
from toolkit.models.groups import RESIDUAL, Key
from toolkit.models.model import Model
from toolkit.models.modes import evaluating
from toolkit.models.selection import Selection
from toolkit.prune.gradients import mean_gradients
from toolkit.prune.methods import COUNTED, Job, Method, Outcome
from toolkit.records import Axis, Cut, PrunePlan

NAME = "torch-pruning"
TOLERANCE = 1e-4
"""Maximum difference of logits, relative to the largest logit (at least 1)."""
BUDGET_TOLERANCE = 0.02
"""Relative tolerance of budgets, from below: heads and multiples of `round_to` are coarse."""
COARSE, FINE = 0.05, 1e-3
"""Steps of the search for the fractions of units."""
SUPPORTED: dict[str, tuple[object, ...]] = {
    "criterion": ("taylor",),
    "scope": ("isomorphic", "global", "local"),
    "basis": ("none",),
    "compensation": ("none",),
    "steps": (1,),
}
"""Values of other settings of `prune`."""
AXES: tuple[frozenset[Axis], ...] = (frozenset({"head", "mlp"}), frozenset({"head", "mlp", "embed"}))
TOKENS = ("cls_token", "dist_token", "reg_token", "pos_embed")
"""Parameters of timm's models with residual channels in dimension 2."""


@dataclass(frozen=True)
class Fractions:
    """Fractions of units to remove, 0 to 1."""

    heads: float
    widths: float
    """Of hidden units of MLPs, and of residual channels if these are pruned."""


class TorchPruning(Method):
    """Plans what Torch-Pruning removes, and compares the model of the plan with Torch-Pruning's."""

    needs = ("torch_pruning",)
    quantities = COUNTED

    def check(self, settings: recipe.Prune) -> None:
        for name, values in SUPPORTED.items():
            if getattr(settings, name) not in values:
                raise RecipeError(
                    f"prune.{name} is {getattr(settings, name)!r}, which the method {NAME} does not support",
                    f"it can be {', '.join(map(str, values))}",
                )
        if frozenset(settings.axes) not in AXES:
            raise RecipeError(
                f"the method {NAME} does not support the axes {', '.join(settings.axes)}",
                f"--axes {' or '.join(','.join(sorted(axes)) for axes in AXES)}",
            )

    def prune(self, model: Model, job: Job) -> Outcome:
        batches = job.calibration.load()
        peer = Peer(model, job.settings, batches)
        check_equal("the dense model", model.module, peer.module, batches[0].images)

        def remaining(fractions: Fractions) -> float:
            cuts = peer.cuts(fractions)
            removed = Selection(model.groups, cuts).removed if cuts else {}
            return job.budget.remaining(model.cost_model.after_removing(removed), model.cost)

        fractions = least_fractions(remaining, job.budget.fraction)
        achieved, cuts = remaining(fractions), peer.cuts(fractions)
        slim = surgery.remove(model, cuts).model
        check_equal("the pruned model", slim.module, peer.pruned(fractions), batches[0].images)
        settings = job.settings
        plan = PrunePlan(
            "", NAME, settings.criterion, settings.scope, str(job.budget), achieved, job.seed, _sorted(cuts)
        )
        return Outcome(plan, model)


class Peer:
    """Torch-Pruning's pruner on timm's module with the weights of `model`, and their mean gradient."""

    def __init__(self, model: Model, settings: recipe.Prune, batches: Sequence[Batch]) -> None:
        self.module: Any = timm_module(model)
        self._settings = settings
        self._example = model.example()["x"]
        gradients = mean_gradients(self.module, batches)
        for name, parameter in self.module.named_parameters():
            parameter.grad = gradients[name]
        self._places = self._places_by_layer()

    def cuts(self, fractions: Fractions) -> tuple[Cut, ...]:
        """What would be removed; nothing is."""
        return tuple(map(self._cut, self._groups(fractions)))

    def pruned(self, fractions: Fractions) -> nn.Module:
        """The module as Torch-Pruning prunes it, in place: no other method may be called afterwards."""
        for group in self._groups(fractions):
            group.prune()
        for attention in self._attentions().values():  # timm reads them from its attributes
            attention.attn_dim = attention.proj.in_features
            attention.num_heads = attention.attn_dim // attention.head_dim
        module: nn.Module = self.module
        return module

    def _groups(self, fractions: Fractions) -> Iterator[Any]:
        """Torch-Pruning's groups of (layer, indices), one for each layer that gets narrower."""
        ignored = [getattr(self.module, name) for name in CLASSIFIERS if hasattr(self.module, name)]
        ignored += [] if "embed" in self._settings.axes else [self.module.patch_embed.proj]
        tokens = [getattr(self.module, name, None) for name in TOKENS]
        pruner = tp.pruner.BasePruner(
            self.module,
            self._example,
            importance=tp.importance.GroupTaylorImportance(),
            global_pruning=self._settings.scope != "local",
            isomorphic=self._settings.scope == "isomorphic",
            pruning_ratio=fractions.widths,
            head_pruning_ratio=fractions.heads,
            num_heads={attention.qkv: attention.num_heads for attention in self._attentions().values()},
            prune_num_heads=True,
            prune_head_dims=False,
            ignored_layers=ignored,
            in_channel_groups={},  # the defaults are shared by all pruners of a process
            out_channel_groups={},
            unwrapped_parameters=[(token, 2) for token in tokens if token is not None],
            round_to=self._settings.round_to,
        )
        yield from (group for group in pruner.step(interactive=True) if group[0].idxs)

    def _attentions(self) -> dict[str, Any]:
        """Attention of each block, by name."""
        return {f"blocks.{index}.attn": block.attn for index, block in enumerate(self.module.blocks)}

    def _places_by_layer(self) -> dict[tuple[nn.Module, object], Key]:
        """Place and axis of units, by a layer of which they are channels and the function that removes these."""
        places: dict[tuple[nn.Module, object], Key] = {
            (self.module.patch_embed.proj, tp.prune_conv_out_channels): RESIDUAL
        }
        for index, block in enumerate(self.module.blocks):
            places[block.attn.proj, tp.prune_linear_in_channels] = f"blocks.{index}.attn", "head"
            places[block.mlp.fc2, tp.prune_linear_in_channels] = f"blocks.{index}.mlp", "mlp"
        return places

    def _cut(self, group: Any) -> Cut:
        """A group as a cut; CheckFailed if it is none."""
        for dependency, indices in group:
            layer = dependency.target.module, dependency.handler
            if layer not in self._places:
                continue
            place, axis = self._places[layer]
            size = self._attentions()[place].head_dim if axis == "head" else 1
            units = sorted({index // size for index in indices})
            if len(indices) != size * len(units):
                raise CheckFailed(f"Torch-Pruning removes parts of heads at {place}; whole heads were asked for")
            return Cut(place, axis, tuple(units))
        raise CheckFailed(f"Torch-Pruning prunes a group of layers that is no axis:\n{group}")


def timm_module(model: Model) -> nn.Module:
    """timm's module, not in canonical form, with the weights of `model`.

    Raises UnsupportedModel unless it is a ViT or DeiT with standard attention and MLPs of two layers.
    """
    module = source_of(model.info.name).skeleton(model.info)
    blocks = module.blocks if isinstance(module, VisionTransformer) else ()
    plain = all(type(each) is Block and type(each.attn) is Attention and type(each.mlp) is Mlp for each in blocks)
    if not blocks or not plain or getattr(module, "attn_pool", None) is not None:
        raise UnsupportedModel(f"the method {NAME} supports timm's ViT and DeiT only, and {model.info.name} is neither")
    with tempfile.TemporaryDirectory() as folder:
        model.save(folder)
        fill(module, Path(folder) / "model.safetensors")
    return module.eval()


def least_fractions(remaining: Callable[[Fractions], float], budget: float) -> Fractions:
    """The smallest fractions that leave at most `budget`; BudgetError if it is missed by more than the tolerance.

    Torch-Pruning leaves a layer whole if all of its units rank low enough to be removed, so that large fractions may
    remove less: fractions are tried in increasing order.
    """

    def fits(heads: float, widths: float) -> bool:
        return remaining(Fractions(heads, widths)) <= budget

    tried = [step * COARSE for step in range(1, round(1 / COARSE))]
    coarse = next((fraction for fraction in tried if fits(fraction, fraction)), None)
    if coarse is None:
        raise BudgetError(f"no fraction of heads and widths leaves {budget:g}", "use a larger --budget")
    heads = _bisected(lambda fraction: fits(fraction, fraction), coarse - COARSE, coarse)
    fractions = Fractions(heads, _bisected(lambda fraction: fits(heads, fraction), 0.0, heads))
    achieved = remaining(fractions)
    if achieved < budget * (1 - BUDGET_TOLERANCE):
        raise BudgetError(f"{budget:g} cannot be achieved; the closest is {achieved:.3f}", "use a smaller --round-to")
    return fractions


def _bisected(fits: Callable[[float], bool], low: float, high: float) -> float:
    """The smallest fraction that fits, to within FINE; `high` fits."""
    while high - low > FINE:
        middle = (low + high) / 2
        low, high = (low, middle) if fits(middle) else (middle, high)
    return high


def check_equal(what: str, ours: nn.Module, theirs: nn.Module, images: Tensor) -> None:
    """Raise CheckFailed unless both have as many parameters, and the same logits for `images` [batch, 3, S, S]."""
    counts = [sum(parameter.numel() for parameter in module.parameters()) for module in (ours, theirs)]
    with evaluating(ours), evaluating(theirs), torch.inference_mode():
        expected, actual = theirs(images), ours(images)
    difference, largest = float((expected - actual).abs().max()), max(1.0, float(expected.abs().max()))
    if counts[0] != counts[1] or not difference <= TOLERANCE * largest:
        raise CheckFailed(
            f"{what} is not the one that Torch-Pruning has: {counts[0]:,} parameters instead of {counts[1]:,}, and "
            f"logits that differ by {difference:.2e}"
        )


def _sorted(cuts: Sequence[Cut]) -> tuple[Cut, ...]:
    return tuple(sorted(cuts, key=lambda cut: (cut.place, cut.axis)))


PLUGIN: Method = TorchPruning()
