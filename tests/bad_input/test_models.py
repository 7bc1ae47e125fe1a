"""Models that a later stage could not take are refused when a command starts: nothing is read, trained or written."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Command = Callable[..., Any]
VIT, DISTILLED, BEIT = "vit_tiny_patch16_224", "deit_tiny_distilled_patch16_224", "beit_base_patch16_224"
FILLED = "an image of 36 pixels is not filled by patches of 8: 32 or 40"
SQUARE = "it should be one number or text, true, false or null; images and patches are square"
SHARE = "it should be at least 0 and less than 1"
NO_WAY = "as it is asked for cannot be used"

CASES: list[tuple[str, list[str], str]] = [
    (VIT, ["--image-size", "36"], FILLED),
    (BEIT, ["--image-size", "36"], FILLED),
    (VIT, ["--set", "model.args.img_size=36"], FILLED),
    (VIT, ["--image-size", "36", "--set", "model.args.dynamic_img_size=true"], FILLED),
    (VIT, ["--image-size", "36", "--set", "model.args.dynamic_img_pad=true"], FILLED),
    (VIT, ["--image-size", "32", "--set", "export.image_size=36"], FILLED),
    (VIT, ["--image-size", "32", "--set", "export.image_size=24,36,48"], FILLED),
    (VIT, ["--set", "model.args.img_size=[32,64]"], f"model.args.img_size = [32, 64]: {SQUARE}"),
    (VIT, ["--set", "model.args.patch_size=[8,16]"], f"model.args.patch_size = [8, 16]: {SQUARE}"),
    (VIT, ["--image-size", "32", "--set", "model.args.img_size=40"], "model.image_size is 32, img_size of model.args"),
    (
        "vit_so400m_patch14_siglip_gap_384",
        ["--set", "model.args.patch_size=14"],
        "an image of 384 pixels is not filled by patches of 14: 378 or 392",
    ),
    (VIT, ["--set", "model.args.scale_mlp_norm=true"], f"{VIT} cannot be cut yet: blocks.0.mlp.norm is a LayerNorm"),
    (BEIT, ["--set", "model.args.scale_mlp=true"], f"{BEIT} cannot be cut yet: blocks.0.mlp.norm is a LayerNorm"),
    (VIT, ["--set", "model.args.global_pool=''"], f"{VIT} cannot be cut yet: with global_pool='' it answers for every"),
    (VIT, ["--set", "model.args.norm_layer=batchnorm2d"], "blocks.0.norm1 is a BatchNorm2d"),
    ("vit_small_patch16_18x2_224", [], "blocks.0 is a ParallelThingsBlock"),
    (DISTILLED, ["--set", "model.args.no_embed_class=true"], f"{NO_WAY}: timm builds it, but no image passes through"),
    (DISTILLED, ["--set", "model.args.reg_tokens=4"], f"{NO_WAY}: its logits do not depend on reg_token"),
    (VIT, ["--set", "model.args.mlp_ratio=1e12"], "the model is too large for this machine: to try two blocks takes"),
    (VIT, ["--set", "model.args.weight_init=skip"], "weights are what happens to be in memory"),
    (VIT, ["--image-size", "1000000"], "images of 1,000,000 pixels are too large: attention compares every patch"),
    (BEIT, ["--image-size", "1000000"], "images of 1,000,000 pixels are too large: attention compares every patch"),
    (VIT, ["--image-size", f"1{'0' * 30}"], "pixels are too large: attention compares every patch of 8 pixels"),
    (VIT, ["--set", "export.image_size=1000000"], "images of 1,000,000 pixels are too large"),
    (VIT, ["--set", "model.args.drop_path_rate=1"], f"model.args.drop_path_rate = 1: {SHARE}"),
    (BEIT, ["--set", "model.args.attn_drop_rate=-0.1"], f"model.args.attn_drop_rate = -0.1: {SHARE}"),
    (DISTILLED, ["--set", "model.args.drop_rate=2"], f"model.args.drop_rate = 2: {SHARE}"),
    (VIT, ["--set", "model.args.mlp_ratio=0"], "model.args.mlp_ratio = 0: it should be greater than 0"),
    (BEIT, ["--set", "export.image_size=24,32,48"], "BEiT's relative positions are made for images of one size"),
]


@pytest.fixture
def untouched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty current folder; whoever looks at data fails."""

    def read_domains(*_: object) -> None:
        raise AssertionError("the data are read")

    monkeypatch.setattr("toolkit.dg.domains.read_domains", read_domains)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(("name", "more", "said"), CASES, ids=[" ".join((name, *more)) for name, more, _ in CASES])
def test_what_is_refused_before_the_data_are_read(
    untouched: Path, command: Command, name: str, more: list[str], said: str
) -> None:
    small = ["--set", "model.args.depth=2", *(["--set", "model.args.patch_size=8"] * ("patch_size" not in str(more)))]
    ended = command("run", "--model", name, "--weights", "none", *small, *more)
    assert (ended.code, ended.out) == (2, ""), ended.err
    assert said in ended.err
    assert "patch_size (model.args)" not in ended.err
    assert not list(untouched.iterdir())


@pytest.mark.parametrize("words", [["run", "--dry-run"], ["train"], ["prune", "--dry-run"]], ids=" ".join)
def test_every_command_that_would_train_refuses(untouched: Path, command: Command, words: list[str]) -> None:
    ended = command(
        *words, "--model", VIT, "--weights", "none", "--image-size", "36", "--set", "model.args.patch_size=8"
    )
    assert (ended.code, ended.out) == (2, ""), ended.err
    assert FILLED in ended.err
    assert not list(untouched.iterdir())


def test_a_model_that_is_made_is_not_looked_at_again(
    here: Path, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    def outline(*_: object) -> None:
        raise AssertionError("the model is looked at")

    monkeypatch.setattr("toolkit.models.build.outline", outline)
    assert command("run", "--dry-run").code == 0
    with pytest.raises(AssertionError, match="the model is looked at"):
        command("run", "--dry-run", "--image-size", "48")


@pytest.mark.parametrize(
    ("size", "said", "hint"),
    [
        ("36", FILLED, "--image-size takes multiples of 8"),
        ("1000000", "images of 1,000,000 pixels are too large", "--image-size"),
        ("16,32,1000000", "images of 1,000,000 pixels are too large", "--image-size"),
    ],
)
def test_a_size_for_the_file_is_refused_before_the_model_is_cut_anew(
    here: Path, command: Command, size: str, said: str, hint: str
) -> None:
    ended = command("export", "--image-size", size, "--set", "prune.ratio=0.3")
    assert (ended.code, ended.made) == (2, []), ended.err
    assert said in ended.err
    assert hint in ended.err
    assert "model.args" not in ended.err
