"""Whether all later stages can take a model, found out before anything is trained, in seconds whatever its size.

Shapes are followed through the whole model on the meta device. Numbers go through an excerpt of it: the first and the
last block in their own widths, with random weights, on an image of few patches.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from toolkit import limits
from toolkit.errors import CheckFailed, UnsupportedModel, WeightsError
from toolkit.models.count import FLOAT32_BYTES, shape_of_logits
from toolkit.models.groups import Groups
from toolkit.models.model import Model
from toolkit.models.modes import evaluating
from toolkit.models.patches import patch_size
from toolkit.models.selection import fewest_units
from toolkit.models.shapes import blocks_of, drop_blocks, replace_parameter
from toolkit.models.surgery import remove
from toolkit.records import Cut

PATCHES = 3
"""Rows and columns of patches of an excerpt's images."""
COPIES = 4
"""Of an excerpt, at most, at a time: its gradient, or a masked and a cut one."""


def accept(model: Model) -> None:
    """Raise UnsupportedModel for a canonical model that a later stage could not take.

    Its module may be on the meta device, and its info need not have layouts and counts.
    """
    with torch.device("cpu"):
        fault = _fault_of_shapes(model)
        if not fault:
            sample = excerpt(model)
            fault = _fault_of_logits(sample) or _fault_of_training(sample) or _fault_of_cuts(sample)
    if fault:
        raise UnsupportedModel(f"{model.info.name} as it is asked for cannot be used: {fault}", "see model.args")


def check_answer(model: Model) -> None:
    """Raise WeightsError where the model's logits for one image of noise are not finite, in its own size."""
    side = model.info.image_size
    image = torch.randn(1, 3, side, side, generator=torch.Generator().manual_seed(0))
    with evaluating(model.module), torch.inference_mode():
        logits: Tensor = model.module(image)  # [1, classes]
    if not bool(logits.isfinite().all()):
        raise WeightsError(
            f"with these weights {model.info.name} gives numbers that are not finite for an image of noise",
            "weights may be damaged, or for an architecture with other scales (model.args)",
        )


def excerpt(model: Model) -> Model:
    """A copy with the first and the last block only, for images of few patches, with random weights on the CPU.

    Raises UnsupportedModel where even that is too large for this machine.
    """
    blocks = blocks_of(model.module)
    between = range(1, len(blocks) - 1)
    sample = copy.deepcopy(model.module, {id(blocks[index]): nn.Identity() for index in between})
    drop_blocks(sample, set(between))
    _check_memory(sample)
    draw_weights(sample)
    side = min(PATCHES * patch_size(sample), model.info.image_size)
    sample.set_input_size(img_size=(side, side))  # type: ignore[operator]
    return Model(sample.eval(), replace(model.info, image_size=side, removed_blocks=(), weights_sha256="")).described()


def _check_memory(sample: nn.Module) -> None:
    needed = COPIES * FLOAT32_BYTES * sum(parameter.numel() for parameter in sample.parameters())
    memory = limits.memory_bytes()
    if memory and needed > memory:
        raise UnsupportedModel(
            f"the model is too large for this machine: to try two blocks takes {needed / 1e9:,.0f} GB of memory, "
            f"there are {memory / 1e9:,.0f}",
            "see model.args",
        )


def draw_weights(model: nn.Module) -> None:
    """Give `model` random weights on the CPU, the same every time.

    Values keep their size from layer to layer. No weight is zero, as biases and position tables are at the start: a
    fault in them would not show.
    """
    generator = torch.Generator().manual_seed(0)
    for name, parameter in [*model.named_parameters()]:
        values = torch.randn(parameter.shape, generator=generator)
        if parameter.dim() in (2, 4):  # [out, in], [out, in, height, width]
            values /= parameter[0].numel() ** 0.5
        else:
            values = 0.3 * values + (parameter.dim() == 1)
        replace_parameter(model, name, values)


def _fault_of_shapes(model: Model) -> str:
    try:
        shape = shape_of_logits(model.module, model.info.image_size)
    except Exception:  # timm checks no combination of its arguments: any class of error may follow
        return "timm builds it, but no image passes through it"
    return "" if len(shape) == 2 else f"for an image it gives {list(shape)} numbers, not one for each class"


def _fault_of_logits(sample: Model) -> str:
    """They are finite, and depend on the image and on every parameter."""
    module, side = sample.module, sample.info.image_size
    images = torch.randn(2, 3, side, side, generator=torch.Generator().manual_seed(0))
    logits: Tensor = module(images)  # [2, classes]
    if not bool(logits.isfinite().all()):
        return "its logits for a random image are not finite"
    if torch.equal(logits[0], logits[1]):
        return "its logits are the same for all images"
    logits.sum().backward()
    unread = next((name for name, parameter in module.named_parameters() if parameter.grad is None), "")
    module.zero_grad()
    return unread and f"its logits do not depend on {unread}, which timm builds and {type(module).__name__} never reads"


def _fault_of_training(sample: Model) -> str:
    """A step in training mode, in which parts act that are still otherwise, has a finite loss and finite gradients."""
    module, side = sample.module, sample.info.image_size
    images = torch.randn(2, 3, side, side, generator=torch.Generator().manual_seed(0))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        try:
            logits: Tensor = module.train()(images)  # [2, classes]
            loss = nn.functional.cross_entropy(logits, torch.arange(2) % logits.shape[-1])
            loss.backward()
        except Exception:  # as above: of any class
            return "it answers for images, but no step of training is possible"
        finally:
            module.eval()
    gradients = [parameter.grad for parameter in module.parameters() if parameter.grad is not None]
    finite = all(bool(values.isfinite().all()) for values in (loss, *gradients))
    module.zero_grad()
    return "" if finite else "the loss or a gradient of a step of training is not finite"


def _fault_of_cuts(sample: Model) -> str:
    """A unit less along every axis gives the numbers of the masked model, and the costs that are predicted."""
    cuts = [*_cuts(sample.groups)]
    if not (fault := _fault_of(sample, cuts)):
        return ""
    for cut in cuts:
        if alone := _fault_of(sample, [cut]):
            return f"a cut along {cut.axis} is not exact: {alone}"
    return f"a cut along all axes is not exact: {fault}"


def _cuts(groups: Groups) -> Iterator[Cut]:
    """One unit of each axis that has a unit to spare, in the last block and of the residual; the first block."""
    last = f"blocks.{max(group.units for group in groups if group.axis == 'block') - 1}."
    for group in groups:
        spare = group.segments[-1] - fewest_units(group.axis)
        if spare > 0 and (group.place.startswith(last) or group.axis in ("block", "embed")):
            yield Cut(group.place, group.axis, (group.units - 1 if group.axis in ("qk", "v") else 0,))


def _fault_of(sample: Model, cuts: Sequence[Cut]) -> str:
    try:
        remove(sample, cuts)
    except CheckFailed as error:
        return error.message
    return ""
