"""Test which timm models can be pruned and exported: `python -m toolkit.export.survey [FILE]` writes docs/models.md.

Every model is checked in its default size, as before training. Models that differ in sizes only are one kind. One
shrunk model of each supported kind is pruned along every axis, saved, loaded, trained for a step, exported to ONNX and
compared.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import get_args

import timm
import torch
from timm.models.beit import Beit
from torch import nn

from toolkit import limits, recipe
from toolkit.errors import BadInput, CheckFailed
from toolkit.export.artifact import export
from toolkit.models import store
from toolkit.models.acceptance import randomise_weights
from toolkit.models.architectures.timm_vit.create import known_models
from toolkit.models.block import named_blocks
from toolkit.models.build import build, outline
from toolkit.models.model import Model
from toolkit.models.surgery import remove
from toolkit.progress import Progress, display, silent
from toolkit.prune.calibration import Calibration
from toolkit.prune.methods import Job, method
from toolkit.records import Axis, Setting

SMALL: Mapping[str, Setting] = {"patch_size": 8, "depth": 3, "embed_dim": 48, "num_heads": 3, "mlp_ratio": 2.0}
IMAGE_SIZE = 32
CLASSES = ("one", "two", "three")
AXES: tuple[Axis, ...] = get_args(Axis)
SUPPORTED = "supported"
"""Result of models that pass all stages."""


def refusal(name: str) -> str:
    """Reason why `build` refuses the model of this name with timm's default arguments; empty if it does not."""
    try:
        outline(recipe.Model(name=name), CLASSES)
    except BadInput as error:
        return error.message.removeprefix(f"{name} cannot be pruned yet: ")
    return ""


def small(name: str) -> recipe.Model:
    """Settings of a shrunk model of this name."""
    return recipe.Model(name=name, weights="none", image_size=IMAGE_SIZE, args=dict(SMALL))


def kind(name: str) -> str:
    """Description of the model of this name, apart from its sizes."""
    return ", ".join(_traits(outline(small(name), CLASSES).module))


def run_all_stages(name: str, folder: Path) -> None:
    """Prune, save, load, train and export a shrunk model of this name; its files go to `folder`.

    Raises the error of the first stage that fails, such as CheckFailed. The exported file's logits must equal PyTorch's
    to 1e-4 of the largest logit.
    """
    model = build(small(name), CLASSES, seed=0)
    randomise_weights(model.module)
    model = model.save(folder)
    for axis in AXES:
        _prune(model, (axis,))
    slim = _prune(model, AXES).save(folder)
    loaded = store.load(folder)
    images = torch.randn(4, 3, IMAGE_SIZE, IMAGE_SIZE, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        logits = slim.module.eval()(images)
        # Equal weights at other addresses: products of a single row may be rounded differently.
        if not torch.allclose(loaded.module(images), logits, rtol=0, atol=1e-6 * float(logits.abs().max())):
            raise CheckFailed(f"{name}: the loaded model differs from the saved one")
    _train_step(loaded.module, images)
    loaded.save(folder)
    export("onnx", store.load(folder), recipe.Export(), folder / "onnx")


def _prune(model: Model, axes: tuple[Axis, ...]) -> Model:
    settings = recipe.Prune(criterion="magnitude-l2", ratio=0.34, axes=axes, round_to=1)
    plan = method("grouped").prune(model, Job(settings, Calibration(lambda _: [], (), 0), 0)).plan
    if unchanged := set(axes) - {cut.axis for cut in plan.cuts}:
        raise CheckFailed(f"nothing was removed along {', '.join(sorted(unchanged))}")
    return remove(model, plan.cuts).model


def _train_step(module: nn.Module, images: torch.Tensor) -> None:
    """Take one training step; CheckFailed unless every parameter changes and the loss is finite."""
    before = {name: parameter.detach().clone() for name, parameter in module.named_parameters()}
    optimizer = torch.optim.AdamW(module.parameters(), lr=1e-3)
    module.train()
    loss = nn.functional.cross_entropy(module(images), torch.arange(len(images)) % len(CLASSES))
    loss.backward()
    optimizer.step()
    unchanged = [name for name, parameter in module.named_parameters() if torch.equal(parameter, before[name])]
    if unchanged or not bool(loss.isfinite()):
        raise CheckFailed(f"a training step with loss {float(loss)} did not change {', '.join(unchanged)}")


def _traits(module: nn.Module) -> Iterator[str]:
    def has(part: str) -> bool:
        return not isinstance(getattr(module, part, None), nn.Identity | None)

    block = next(iter(named_blocks(module).values()))
    yield "BEiT" if isinstance(module, Beit) else "distilled ViT" if hasattr(module, "dist_token") else "ViT"
    if not block.norm_first:
        yield "norms after attention and MLP"
    yield f"{getattr(module, 'global_pool', '')} pooling"
    yield f"{type(block.mlp.act).__name__}"
    registers = 0 if getattr(module, "reg_token", None) is None else module.get_parameter("reg_token").shape[1]
    traits = {
        "no class token": getattr(module, "cls_token", None) is None,
        f"{registers} register{'s' * (registers > 1)}": registers > 0,
        "relative positions": block.attn.relative_position_bias_table is not None,
        "no positions": getattr(module, "pos_embed", None) is None and not isinstance(module, Beit),
        "positions of patches only": bool(getattr(module, "no_embed_class", False)),
        "gated MLP": len(block.mlp_inputs) == 2,
        "RMS norms": isinstance(block.norm1, nn.RMSNorm),
        "layer scale": not isinstance(block.ls1, nn.Identity),
        "norm before the blocks": has("norm_pre"),
        "norm after pooling": has("fc_norm"),
        "no last norm": not has("fc_norm") and not has("norm"),
        "no bias in queries, keys and values": block.attn.v_bias is None,
        "any image size": bool(getattr(module, "dynamic_img_size", False)),
    }
    yield from (trait for trait, holds in traits.items() if holds)


def page(progress: Progress = silent) -> str:
    """Text of docs/models.md. Raises the errors of `run_all_stages`, which every accepted model must pass.

    Models are tested in one process for each CPU, at most eight.
    """
    names = known_models()
    refused: dict[str, list[str]] = {}
    supported: dict[str, list[str]] = {}
    with ProcessPoolExecutor(min(limits.cores(), 8), get_context("spawn")) as pool:
        for done, (name, (result, description)) in enumerate(zip(names, pool.map(examine, names), strict=True)):
            progress(done, len(names))
            (supported if result == SUPPORTED else refused).setdefault(description, []).append(name)
        tested = pool.map(_run_all_stages, [group[0] for group in supported.values()])
        for done, (description, _) in enumerate(zip(supported, tested, strict=True)):
            progress(done, len(supported), description)
    count = sum(len(group) for group in supported.values())
    rows = [_row(SUPPORTED, description, group) for description, group in supported.items()]
    rows += [_row("refused", description, group) for description, group in refused.items()]
    return PAGE.format(timm=timm.__version__, all=len(names), good=count, axes=", ".join(AXES), rows="\n".join(rows))


def examine(name: str) -> tuple[str, str]:
    """Result of the model of this name, and its kind or the reason of its refusal."""
    reason = refusal(name)
    return ("refused", reason) if reason else (SUPPORTED, kind(name))


def _run_all_stages(name: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        run_all_stages(name, Path(folder))


def _row(result: str, description: str, names: Sequence[str]) -> str:
    axes = "all" if result == SUPPORTED else "none"
    return f"| {', '.join(f'`{name}`' for name in names)} | {result} | {axes} | {description} |"


PAGE = """# Models

Values of `--model`, tested by `make models` with timm {timm}: {good} of {all} models can be pruned and exported, along
all axes ({axes}).

A *supported* model can have any size. One model of each row, shrunk by its arguments, was pruned along every single
axis and along all of them, saved, loaded, trained for a step, and exported to ONNX; the file's logits equal PyTorch's
to 1e-4. A *refused* model ends the command before training, with the reason given here. Models with other arguments
(`model.args`) are checked when a command starts.

| names in timm | result | axes | description, or reason of the refusal |
|---|---|---|---|
{rows}
"""


def main(arguments: Sequence[str] | None = None) -> None:
    """Command line: write the page to a file."""
    parser = argparse.ArgumentParser(prog="python -m toolkit.export.survey", description=__doc__.split("\n")[0])
    parser.add_argument("file", type=Path, nargs="?", default=Path("docs/models.md"), help="output (docs/models.md)")
    parsed = parser.parse_args(arguments)
    with display("models") as progress:
        text = page(progress)
    parsed.file.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
