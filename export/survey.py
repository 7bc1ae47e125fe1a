"""Which of timm's models can be cut and exported, found out by doing it: `python -m toolkit.export.survey [FILE]`.

Every name is looked at in its own size, as a command does before it trains. Names that differ in sizes only are one
kind; of each kind that is not refused, one model shrunk by its arguments is cut along every axis, saved, loaded,
trained for a step, exported to ONNX and compared. What comes out is docs/models.md.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import get_args

import timm
import torch
from timm.models.beit import Beit
from torch import nn

from toolkit import progress, recipe
from toolkit.errors import BadInput, CheckFailed
from toolkit.export.artifact import export
from toolkit.models import store
from toolkit.models.acceptance import randomise_weights
from toolkit.models.adapt import attentions
from toolkit.models.build import build, outline
from toolkit.models.model import Model
from toolkit.models.shapes import blocks_of
from toolkit.models.surgery import remove
from toolkit.models.timm_model import known_models
from toolkit.prune.criteria import Calibration
from toolkit.prune.methods import Job, method
from toolkit.records import Axis, Setting

SMALL: Mapping[str, Setting] = {"patch_size": 8, "depth": 3, "embed_dim": 48, "num_heads": 3, "mlp_ratio": 2.0}
IMAGE_SIZE = 32
CLASSES = ("one", "two", "three")
AXES: tuple[Axis, ...] = get_args(Axis)


def refusal(name: str) -> str:
    """Why `build` refuses the model of this name with timm's own settings; empty if it does not."""
    try:
        outline(recipe.Model(name=name), CLASSES)
    except BadInput as error:
        return error.message.removeprefix(f"{name} cannot be pruned yet: ")
    return ""


def small(name: str) -> recipe.Model:
    """Settings of the model of this name, shrunk."""
    return recipe.Model(name=name, weights="none", image_size=IMAGE_SIZE, args=dict(SMALL))


def kind(name: str) -> str:
    """What the model of this name is, but for its sizes, in words."""
    return ", ".join(_traits(outline(small(name), CLASSES).module))


def go_through(name: str, folder: Path) -> None:
    """Take a shrunk model of this name through all that can be done to one.

    `folder` is for its files. Raises CheckFailed, or whatever stage by stage may be raised, where it does not get
    through; the exported file is compared with PyTorch to a ten-thousandth of the largest logit.
    """
    model = build(small(name), CLASSES, seed=0)
    randomise_weights(model.module)
    model = store.save(model, folder)
    for axis in AXES:
        _cut(model, (axis,))
    slim = store.save(_cut(model, AXES), folder)
    loaded = store.load(folder)
    images = torch.randn(4, 3, IMAGE_SIZE, IMAGE_SIZE, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        if not torch.equal(loaded.module(images), slim.module.eval()(images)):
            raise CheckFailed(f"{name}: the model that was read is not the one that was saved")
    _train_a_step(loaded.module, images)
    store.save(loaded, folder)
    export("onnx", store.load(folder), recipe.Export(), folder / "onnx")


def _cut(model: Model, axes: tuple[Axis, ...]) -> Model:
    settings = recipe.Prune(criterion="magnitude-l2", ratio=0.34, axes=axes, round_to=1)
    plan = method("grouped").prune(model, Job(settings, Calibration(list, 0), progress.silent))
    if left := set(axes) - {cut.axis for cut in plan.cuts}:
        raise CheckFailed(f"nothing is cut along {', '.join(sorted(left))}")
    return remove(model, plan.cuts).model


def _train_a_step(module: nn.Module, images: torch.Tensor) -> None:
    """Every parameter must move."""
    before = {name: parameter.detach().clone() for name, parameter in module.named_parameters()}
    optimizer = torch.optim.AdamW(module.parameters(), lr=1e-3)
    module.train()
    loss = nn.functional.cross_entropy(module(images), torch.arange(len(images)) % len(CLASSES))
    loss.backward()
    optimizer.step()
    still = [name for name, parameter in module.named_parameters() if torch.equal(parameter, before[name])]
    if still or not bool(loss.isfinite()):
        raise CheckFailed(f"a step of training with loss {float(loss)} leaves {', '.join(still)} as it was")


def _traits(module: nn.Module) -> Iterator[str]:
    def has(part: str) -> bool:
        return not isinstance(getattr(module, part, None), nn.Identity | None)

    block, attention = blocks_of(module)[0], next(iter(attentions(module).values()))
    yield {"VisionTransformer": "ViT", "VisionTransformerDistilled": "distilled ViT", "Beit": "BEiT"}[
        type(module).__name__
    ]
    if type(block).__name__ != "Block":
        yield f"blocks of timm's {type(block).__name__}"
    yield f"{getattr(module, 'global_pool', '')} pooling"
    yield f"{type(block.get_submodule('mlp.act')).__name__}"
    registers = 0 if getattr(module, "reg_token", None) is None else module.get_parameter("reg_token").shape[1]
    traits = {
        "no class token": getattr(module, "cls_token", None) is None,
        f"{registers} register{'s' * (registers > 1)}": registers > 0,
        "relative positions": attention.relative_position_bias_table is not None,
        "no positions": getattr(module, "pos_embed", None) is None and not isinstance(module, Beit),
        "positions of patches only": bool(getattr(module, "no_embed_class", False)),
        "layer scale": has_layer_scale(block),
        "norm before the blocks": has("norm_pre"),
        "norm after pooling": has("fc_norm"),
        "no last norm": not has("fc_norm") and not has("norm"),
        "no bias in queries, keys and values": attention.v_bias is None,
        "any image size": bool(getattr(module, "dynamic_img_size", False)),
    }
    yield from (trait for trait, holds in traits.items() if holds)


def has_layer_scale(block: nn.Module) -> bool:
    return any(name.split(".")[0] in ("ls1", "gamma_1") for name, _ in block.named_parameters())


def page(report: progress.Progress = progress.silent) -> str:
    """docs/models.md. Raises what `go_through` raises: what is let through at the beginning must get to the end."""
    known = known_models()
    refused: dict[str, list[str]] = {}
    taken: dict[str, list[str]] = {}
    for done, name in enumerate(known):
        report(done, len(known))
        why = refusal(name)
        (refused if why else taken).setdefault(why or kind(name), []).append(name)
    for done, (what, names) in enumerate(taken.items()):
        report(done, len(taken), what)
        with tempfile.TemporaryDirectory() as folder:
            go_through(names[0], Path(folder))
    good = sum(len(names) for names in taken.values())
    rows = [_row("goes through", what, names) for what, names in taken.items()]
    rows += [_row("refused", what, names) for what, names in refused.items()]
    return PAGE.format(timm=timm.__version__, all=len(known), good=good, axes=", ".join(AXES), rows="\n".join(rows))


def _row(result: str, what: str, names: Sequence[str]) -> str:
    axes = "all" if result == "goes through" else "none"
    return f"| {', '.join(f'`{name}`' for name in names)} | {result} | {axes} | {what} |"


PAGE = """# Models

What `--model` may be, made by `make models` with timm {timm}: {good} of {all} names can be cut and exported, along all
axes ({axes}).

A model that *goes through* is taken in any size. One model of each row, shrunk by its arguments, has been cut along
every axis alone and along all together, saved, loaded, trained for a step, and exported to ONNX, whose logits are
PyTorch's to a ten-thousandth. A model that is *refused* is so before anything is trained, with the reason given here.
The same is found out for every model with other arguments (`model.args`) when a command starts.

| names in timm | result | axes | what it is, or why it is refused |
|---|---|---|---|
{rows}
"""


def main(arguments: Sequence[str] | None = None) -> None:
    """The command; see the module."""
    parser = argparse.ArgumentParser(prog="python -m toolkit.export.survey", description=__doc__.split("\n")[0])
    parser.add_argument("file", type=Path, nargs="?", default=Path("docs/models.md"), help="written (docs/models.md)")
    given = parser.parse_args(arguments)
    with progress.display("models") as report:
        text = page(report)
    given.file.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
