"""Models that a later stage does not support are refused when a command starts, before any work."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Command = Callable[..., Any]
VIT, DISTILLED, BEIT = "vit_tiny_patch16_224", "deit_tiny_distilled_patch16_224", "beit_base_patch16_224"
DIVISIBLE = "an image size of 36 is not divisible by the patch size 8: use 32 or 40"
SQUARE = "it should be one number, a text, true, false or null (images and patches are square)"
RATE = "it should be at least 0 and less than 1"
UNUSABLE = "with these arguments cannot be used"

CASES: list[tuple[str, list[str], str]] = [
    (VIT, ["--image-size", "36"], DIVISIBLE),
    (BEIT, ["--image-size", "36"], DIVISIBLE),
    (VIT, ["--set", "model.args.img_size=36"], DIVISIBLE),
    (VIT, ["--image-size", "36", "--set", "model.args.dynamic_img_size=true"], DIVISIBLE),
    (VIT, ["--image-size", "36", "--set", "model.args.dynamic_img_pad=true"], DIVISIBLE),
    (VIT, ["--image-size", "32", "--set", "export.image_size=36"], DIVISIBLE),
    (VIT, ["--image-size", "32", "--set", "export.image_size=24,36,48"], DIVISIBLE),
    (VIT, ["--set", "model.args.img_size=[32,64]"], f"model.args.img_size = [32, 64]: {SQUARE}"),
    (VIT, ["--set", "model.args.patch_size=[8,16]"], f"model.args.patch_size = [8, 16]: {SQUARE}"),
    (VIT, ["--image-size", "32", "--set", "model.args.img_size=40"], "model.image_size is 32, model.args.img_size is"),
    (
        "vit_so400m_patch14_siglip_gap_384",
        ["--set", "model.args.patch_size=14"],
        "an image size of 384 is not divisible by the patch size 14: use 378 or 392",
    ),
    (VIT, ["--set", "model.args.scale_mlp_norm=true"], f"{VIT} cannot be pruned yet: blocks.0.mlp.norm is a LayerNorm"),
    (BEIT, ["--set", "model.args.scale_mlp=true"], f"{BEIT} cannot be pruned yet: blocks.0.mlp.norm is a LayerNorm"),
    (VIT, ["--set", "model.args.global_pool=''"], f"{VIT} cannot be pruned yet: with global_pool='' it outputs one"),
    (VIT, ["--set", "model.args.norm_layer=batchnorm2d"], "blocks.0.norm1 is a BatchNorm2d"),
    ("vit_small_patch16_18x2_224", [], "blocks.0 is a ParallelThingsBlock"),
    (DISTILLED, ["--set", "model.args.no_embed_class=true"], f"{UNUSABLE}: timm builds it, but its forward pass fails"),
    (DISTILLED, ["--set", "model.args.reg_tokens=4"], f"{UNUSABLE}: its logits do not depend on reg_token"),
    (VIT, ["--set", "model.args.mlp_ratio=1e12"], "the model is too large for this machine: checking two blocks takes"),
    (VIT, ["--set", "model.args.weight_init=skip"], "the weights are uninitialised memory"),
    (VIT, ["--image-size", "1000000"], "images of 1,000,000 pixels are too large: with patches of 8 pixels"),
    (BEIT, ["--image-size", "1000000"], "images of 1,000,000 pixels are too large: with patches of 8 pixels"),
    (VIT, ["--image-size", f"1{'0' * 30}"], "pixels are too large: with patches of 8 pixels"),
    (VIT, ["--set", "export.image_size=1000000"], "images of 1,000,000 pixels are too large"),
    (VIT, ["--set", "model.args.drop_path_rate=1"], f"model.args.drop_path_rate = 1: {RATE}"),
    (BEIT, ["--set", "model.args.attn_drop_rate=-0.1"], f"model.args.attn_drop_rate = -0.1: {RATE}"),
    (DISTILLED, ["--set", "model.args.drop_rate=2"], f"model.args.drop_rate = 2: {RATE}"),
    (VIT, ["--set", "model.args.mlp_ratio=0"], "model.args.mlp_ratio = 0: it should be greater than 0"),
    (BEIT, ["--set", "export.image_size=24,32,48"], "BEiT's relative positions support only one image size"),
]


@pytest.fixture
def untouched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty current folder; reading data fails the test."""

    def read_domains(*_: object) -> None:
        raise AssertionError("data were read")

    monkeypatch.setattr("toolkit.dg.domains.read_domains", read_domains)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("name", "flags", "message"), CASES, ids=[" ".join((name, *flags)) for name, flags, _ in CASES]
)
def test_models_are_refused_before_data_are_read(
    untouched: Path, command: Command, name: str, flags: list[str], message: str
) -> None:
    small = ["--set", "model.args.depth=2", *(["--set", "model.args.patch_size=8"] * ("patch_size" not in str(flags)))]
    ended = command("run", "--model", name, "--weights", "none", *small, *flags)
    assert (ended.code, ended.out) == (2, ""), ended.err
    assert message in ended.err
    assert "patch_size (model.args)" not in ended.err
    assert not list(untouched.iterdir())


@pytest.mark.parametrize("words", [["run", "--dry-run"], ["train"], ["prune", "--dry-run"]], ids=" ".join)
def test_every_training_command_refuses_the_model(untouched: Path, command: Command, words: list[str]) -> None:
    ended = command(
        *words, "--model", VIT, "--weights", "none", "--image-size", "36", "--set", "model.args.patch_size=8"
    )
    assert (ended.code, ended.out) == (2, ""), ended.err
    assert DIVISIBLE in ended.err
    assert not list(untouched.iterdir())


def test_a_finished_model_is_not_checked_again(here: Path, command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    def outline(*_: object) -> None:
        raise AssertionError("the model was checked")

    monkeypatch.setattr("toolkit.models.build.outline", outline)
    assert command("run", "--dry-run").code == 0
    with pytest.raises(AssertionError, match="the model was checked"):
        command("run", "--dry-run", "--image-size", "48")


@pytest.mark.parametrize(
    ("size", "message", "hint"),
    [
        ("36", DIVISIBLE, "--image-size takes multiples of 8"),
        ("1000000", "images of 1,000,000 pixels are too large", "--image-size"),
        ("16,32,1000000", "images of 1,000,000 pixels are too large", "--image-size"),
    ],
)
def test_an_export_size_is_refused_before_pruning(
    here: Path, command: Command, size: str, message: str, hint: str
) -> None:
    ended = command("export", "--image-size", size, "--set", "prune.ratio=0.3")
    assert (ended.code, ended.made) == (2, []), ended.err
    assert message in ended.err
    assert hint in ended.err
    assert "model.args" not in ended.err
