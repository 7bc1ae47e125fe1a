"""Check before training that later stages support a model. Takes seconds, whatever the model's size.

Shapes are propagated through the whole model on the meta device. Values are computed on an excerpt: the first and the
last block at full width, with random weights, on an image of few patches.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator, Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from toolkit import limits
from toolkit.errors import CheckFailed, UnsupportedModel, WeightsError
from toolkit.models.block import block_of, blocks_of
from toolkit.models.groups import Groups
from toolkit.models.model import Model
from toolkit.models.modes import evaluating
from toolkit.models.profile import FLOAT32_BYTES, logits_shape
from toolkit.models.selection import min_units
from toolkit.models.shapes import drop_blocks, replace_parameter
from toolkit.models.surgery import remove
from toolkit.records import Cut

PATCHES = 3
"""Patches per side of an excerpt's images."""
COPIES = 4
"""Maximum number of simultaneous copies of an excerpt's weights: gradients, masked and pruned models."""


def check_once(model: Model) -> None:
    """`check_supported`, unless a model of the same classes, sizes and arguments has passed in this process."""
    parts = tuple((name, type(part)) for name, part in model.module.named_modules())
    shapes = tuple((name, parameter.shape) for name, parameter in model.module.named_parameters())
    key = (model.info.name, json.dumps(model.info.args), model.info.image_size, parts, shapes)
    if key not in _PASSED:
        check_supported(model)
        _PASSED.add(key)


_PASSED: set[object] = set()


def check_supported(model: Model) -> None:
    """Raise UnsupportedModel for a canonical model that a later stage does not support.

    Its module may be on the meta device, and its info may lack layouts and costs.
    """
    with torch.device("cpu"):
        problem = _shape_problem(model)
        if not problem:
            sample = excerpt(model)
            problem = _logits_problem(sample) or _training_problem(sample) or _pruning_problem(sample)
    if problem:
        raise UnsupportedModel(f"{model.info.name} with these arguments cannot be used: {problem}", "see model.args")


def check_finite_logits(model: Model) -> None:
    """Raise WeightsError if the logits for one random image of the model's size are not finite."""
    side = model.info.image_size
    image = torch.randn(1, 3, side, side, generator=torch.Generator().manual_seed(0))
    with evaluating(model.module), torch.inference_mode():
        logits: Tensor = model.module(image)  # [1, classes]
    if not bool(logits.isfinite().all()):
        raise WeightsError(
            f"with these weights {model.info.name} outputs NaN or infinity for a random image",
            "the weights may be damaged, or may need other arguments (model.args)",
        )


def excerpt(model: Model) -> Model:
    """A copy with only the first and the last block, for images of few patches, with random weights on the CPU.

    Raises UnsupportedModel if even the excerpt does not fit into memory.
    """
    blocks = blocks_of(model.module)
    between = range(1, len(blocks) - 1)
    sample = copy.deepcopy(model.module, {id(blocks[index]): nn.Identity() for index in between})
    drop_blocks(sample, set(between))
    _check_memory(sample)
    randomise_weights(sample)
    side = min(PATCHES * model.parts.patch_size, model.info.image_size)
    model.architecture.resize(sample, side)
    return Model(
        sample.eval(), replace(model.info, image_size=side, removed_blocks=(), weights_sha256="")
    ).with_current_info()


def _check_memory(sample: nn.Module) -> None:
    required = COPIES * FLOAT32_BYTES * sum(parameter.numel() for parameter in sample.parameters())
    memory = limits.memory_bytes()
    if memory and required > memory:
        raise UnsupportedModel(
            f"the model is too large for this machine: checking two blocks takes {required / 1e9:,.0f} GB of memory, "
            f"{memory / 1e9:,.0f} GB are available",
            "see model.args",
        )


def randomise_weights(model: nn.Module) -> None:
    """Replace the weights of `model` by random ones on the CPU, from a fixed seed.

    Activations keep their scale from layer to layer. No weight is zero, as biases and position embeddings usually are
    at initialisation: zeros would hide errors.
    """
    generator = torch.Generator().manual_seed(0)
    for name, parameter in [*model.named_parameters()]:
        values = torch.randn(parameter.shape, generator=generator)
        if parameter.dim() in (2, 4):  # [out, in], [out, in, height, width]
            values /= parameter[0].numel() ** 0.5
        else:
            values = 0.3 * values + (parameter.dim() == 1)
        replace_parameter(model, name, values)


def _shape_problem(model: Model) -> str:
    try:
        with torch.device("meta"):
            shape = logits_shape(model.module, model.example())
    except Exception:  # timm does not validate combinations of arguments: any class of error may follow
        return "timm builds it, but its forward pass fails"
    return "" if len(shape) == 2 else f"its output has shape {list(shape)}, not [1, classes]"


def _logits_problem(sample: Model) -> str:
    """The logits must be finite, and depend on the image and on every parameter."""
    module, side = sample.module, sample.info.image_size
    images = torch.randn(2, 3, side, side, generator=torch.Generator().manual_seed(0))
    logits: Tensor = module(images)  # [2, classes]
    if not bool(logits.isfinite().all()):
        return "its logits for a random image are not finite"
    if torch.equal(logits[0], logits[1]):
        return "its logits are the same for all images"
    logits.sum().backward()
    unused = next((name for name, parameter in module.named_parameters() if parameter.grad is None), "")
    module.zero_grad()
    return unused and f"its logits do not depend on {unused}, which {type(module).__name__} builds but never uses"


def _training_problem(sample: Model) -> str:
    """One step in training mode, with dropout and the like active, must have a finite loss and finite gradients."""
    module, side = sample.module, sample.info.image_size
    images = torch.randn(2, 3, side, side, generator=torch.Generator().manual_seed(0))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        try:
            logits: Tensor = module.train()(images)  # [2, classes]
            loss = nn.functional.cross_entropy(logits, torch.arange(2) % logits.shape[-1])
            loss.backward()
        except Exception:  # any class of error, as in the forward pass
            return "its forward pass works, but a training step fails"
        finally:
            module.eval()
    gradients = [parameter.grad for parameter in module.parameters() if parameter.grad is not None]
    finite = all(bool(values.isfinite().all()) for values in (loss, *gradients))
    module.zero_grad()
    return "" if finite else "the loss or a gradient of a training step is not finite"


def _pruning_problem(sample: Model) -> str:
    """Removing one unit along every axis must give the masked model's outputs and the predicted cost."""
    cuts = [*_cuts(sample.groups)]
    if not (problem := _removal_problem(sample, cuts)):
        return ""
    for cut in cuts:
        if alone := _removal_problem(sample, [cut]):
            return f"pruning along {cut.axis} is not exact: {alone}"
    return f"pruning along all axes is not exact: {problem}"


def _cuts(groups: Groups) -> Iterator[Cut]:
    """One removable unit of each axis: the first block, a residual channel, and units of the last block."""
    last = len(groups.blocks) - 1
    for group in groups:
        removable = group.segments[-1] - min_units(group.axis)
        checked = block_of(group.place, groups.blocks) == last or group.axis in ("block", "embed")
        if removable > 0 and checked and not group.indivisible:
            yield Cut(group.place, group.axis, (group.units - 1 if group.axis in ("qk", "v") else 0,))


def _removal_problem(sample: Model, cuts: Sequence[Cut]) -> str:
    try:
        remove(sample, cuts)
    except CheckFailed as error:
        return error.message
    return ""
