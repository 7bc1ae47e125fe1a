"""Settings that cannot be carried out, on the command line and in a recipe."""

from __future__ import annotations

import re
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from toolkit.errors import RecipeError
from toolkit.recipe import Recipe
from toolkit.resolve import resolve
from toolkit.setting_flags import sections_of, setting_flags

Command = Callable[..., Any]
Unchanged = Callable[..., AbstractContextManager[None]]

NAMES = [
    (["train", "--model", "deit_tiny_patch16_22"], "unknown model 'deit_tiny_patch16_22'", "deit_tiny_patch16_224"),
    (["train", "--model", "resnet18"], "resnet18 is not a ViT, DeiT or BEiT", "for example deit_tiny_patch16_224"),
    (["prune", "--method", "groupd"], "unknown method 'groupd'", "did you mean grouped?"),
    (["prune", "--criterion", "hesian"], "unknown criterion 'hesian'", "did you mean hessian?"),
    (["prune", "--scope", "globl"], "unknown scope 'globl'", "did you mean global"),
    (["train", "--objective", "emr"], "unknown objective 'emr'", "did you mean erm?"),
    (["finetune", "--optimizer", "adamv"], "unknown optimizer 'adamv'", "did you mean adam"),
    (["finetune", "--schedule", "cosin"], "unknown schedule 'cosin'", "did you mean cosine?"),
    (["train", "--hold-out", "sketsh"], "unknown domain 'sketsh'", "did you mean sketch?"),
    (["run", "--until", "prun"], "unknown stage 'prun'", "did you mean prune"),
    (["bench", "--runtime", "onnxruntim"], "unknown runtime 'onnxruntim'", "did you mean onnxruntime?"),
    (["bench", "--device", "lokal"], "unknown device 'lokal'", "did you mean local?"),
    (["export", "--set", "export.targets=[onxx]"], "unknown target 'onxx'", "did you mean onnx?"),
    (["prune", "--set", "prune.ratoi=0.5"], "unknown setting 'prune.ratoi'", "did you mean ratio"),
    (["prune", "--set", "prun.ratio=0.5"], "unknown setting 'prun'", "did you mean prune"),
]
VALUES = [
    (["prune", "--ratio", "0"], "prune.ratio = 0.0: it should be greater than 0", ""),
    (["prune", "--ratio", "1"], "prune.ratio = 1.0: it should be less than 1", ""),
    (["prune", "--ratio", "-0.1"], "prune.ratio = -0.1: it should be greater than 0", ""),
    (
        ["prune", "--ratio", "0.5", "--budget", "macs=0.5"],
        "prune.ratio = 0.5 (--ratio) and prune.budget = 'macs=0.5' (--budget) are mutually exclusive",
        "keep one",
    ),
    (
        ["prune", "--ratio", "0.5", "--set", "prune.budget=macs=0.5"],
        "prune.ratio = 0.5 (--ratio) and prune.budget = 'macs=0.5' (--set prune.budget) are mutually exclusive",
        "keep one",
    ),
    (
        ["export", "--batch-size", "8,1,64"],
        "--batch-size: export.batch_size = '8,1,64': it should be one number, or three in ascending order",
        "",
    ),
    (["export", "--batch-size", "1,8"], "--batch-size: export.batch_size = '1,8': it should be one number", ""),
    (["export", "--image-size", "64,32,48"], "--image-size: export.image_size = '64,32,48': it should be one", ""),
    (["bench", "--set", "bench.batch_size=[]"], "--set bench.batch_size: bench.batch_size = []: it should name", ""),
    (["export", "--set", "export.targets=[]"], "export.targets = []: it should name at least one", ""),
    (
        ["prune", "--budget", "macs=1.5"],
        "prune.budget 'macs=1.5' needs a fraction between 0 and 1",
        "for example macs=0.5",
    ),
    (["prune", "--budget", "mac=0.5"], "unknown budget 'mac'", "did you mean macs?"),
    (["prune", "--budget", "latency=0.5"], "'grouped' cannot prune to a budget of latency", "--method oneshot"),
    (["prune", "--axes", "head,tail"], "prune.axes.1 = 'tail'", ""),
    (["prune", "--set", "prune.axes=[]"], "--set prune.axes: prune.axes = []: it should name at least one", ""),
    (["prune", "--set", "prune.ratio"], "does not have the form section.setting=value", "for example"),
    (["prune", "--set", "prune.ratio=["], "invalid YAML: an unclosed bracket", "close it"),
    (["prune", "--set", "prune.ratio={a: 1, a: 2}"], "'a' is set twice", ""),
    (["prune", "--set", "prune.ratio=!!python/object:os.system x"], "invalid YAML: a tag", "quote the text"),
    (["prune", "--set", "seed.x=1"], "--set seed.x: seed = {'x': 1}: it should be a whole number", ""),
    (["prune", "--set", "seed=99999999999999999999"], "seed = 99999999999999999999: it should be less than", ""),
    (["train", "--set", "train.epochs=yes"], "train.epochs = True: it should not be true or false", ""),
    (["train", "--set", "train.learning_rate=.inf"], "train.learning_rate = inf: it should be a number", ""),
    (["train", "--set", "train=5"], "train = 5: it should be a section of settings", ""),
    (["train", "--set", "data.hold_out=2024"], "data.hold_out = 2024: it should be a text", "quote it"),
    (["train", "--set", "model.args=[1]"], "model.args = [1]: it should be names and values", ""),
    (["train", "--set", "model.args.img_size=[32,64]"], "model.args.img_size = [32, 64]: it should be one", ""),
    (["train", "--set", "model.args.patch_size=[8,16]"], "model.args.patch_size = [8, 16]: it should be one", ""),
    (["train", "--set", "model.args.heads=2"], "has no argument 'heads'", "did you mean num_heads"),
    (
        ["train", "--set", "model.args.num_heads=5"],
        "embed_dim (64) is not divisible by num_heads (5)",
        "1, 2, 4",
    ),
    (
        ["train", "--set", "model.args.depth=x"],
        "model.args.depth = 'x': it should be a whole number",
        "the default of deit_tiny_patch16_224 is depth=12",
    ),
    (["train", "--weights-key", "ema"], "weights_key is for a file, not for weights 'none'", ""),
    (["export", "--set", "export.precision=fp8"], "it should be 'fp32', 'fp16', 'bf16' or 'int8'", "did you mean fp"),
    (
        ["bench", "--clock", "cuda-events"],
        "the clock 'cuda-events' times a GPU, which the runtime 'onnxruntime' does",
        "--clock host",
    ),
    (["export", "--set", "export.rtx.gpus=gpu"], "export.rtx.gpus = 'gpu': it should be sm_ and a number", ""),
    (["prune", "--set", "run=elsewhere"], "the run folder cannot be set by --set", "--run DIR"),
    (["train", "--recipe", "nowhere.yaml"], "recipe nowhere.yaml does not exist", "`toolkit init` writes one"),
    (["train", "--recipe", "path"], "path cannot be read", ""),
    (["train", "--weights", "nowhere.safetensors"], "weights file nowhere.safetensors does not exist", "use a file"),
    (["train", "--data", "nowhere"], "nowhere does not exist", "give a folder of images"),
    (["bench", "--batch-size", "0"], "bench.batch_size.0 = '0'", ""),
    (["train", "--mean", "123.7,116.3,103.5"], "123.7 is for pixel values from 0 to 255", "divide by 255"),
    (["train", "--mean", "0.5,0.5"], "model.mean = '0.5,0.5': it needs one number, or three: red, green, blue", ""),
    (["train", "--set", "model.mean=.nan"], "model.mean.0 = nan: it should be a number", ""),
    (["train", "--std", "0.2,0,0.2"], "model.std = '0.2,0,0.2': a standard deviation cannot be 0", ""),
    (["train", "--std", "-1"], "model.std = '-1': -1 is not between 0 and 1", ""),
    (["train", "--crop", "1.5"], "model.crop = 1.5: it should be at most 1", ""),
    (["train", "--crop-mode", "fit"], "model.crop_mode = 'fit': it should be 'squash', 'center' or 'border'", ""),
    (["train", "--interpolation", "cubic"], "model.interpolation = 'cubic': it should be 'nearest', 'bilinear'", ""),
]


@pytest.mark.each_choice
@pytest.mark.parametrize("case", [*NAMES, *VALUES], ids=lambda case: " ".join(case[0]))
@pytest.mark.parametrize("run", ["runs/default", "more/runs/new"])
def test_bad_setting(  # noqa: PLR0913
    same_here: Path,
    command: Command,
    unchanged: Unchanged,
    in_our_words: Callable[[Any], str],
    monkeypatch: pytest.MonkeyPatch,
    case: tuple[list[str], str, str],
    run: str,
) -> None:
    words, message, hint = case
    monkeypatch.chdir(same_here)
    recipe = [] if "--recipe" in words else ["--recipe", "toolkit.yaml"]
    with unchanged(same_here):
        ended = command(*words, *recipe, "--run", run)
    assert message in in_our_words(ended)
    assert hint in ended.err
    assert not list(Path("runs").glob("new"))


@pytest.mark.parametrize(
    ("text", "message", "hint"),
    [
        (
            "prune:\n  ratio: 0.5\n  critrion: taylor\n",
            "bad.yaml, line 3: unknown setting 'prune.critrion'",
            "criterion",
        ),
        ("seed: 1\nprun: {}\n", "bad.yaml, line 2: unknown setting 'prun'", "did you mean prune"),
        ("train:\n  epochs: many\n", "bad.yaml, line 2: train.epochs = 'many': it should be a whole number", ""),
        ("data:\n  hold_out: no\n", "bad.yaml, line 2: data.hold_out = False: it should not be true or false", ""),
        ("model:\n  args:\n    img_size: [32, 64]\n", "bad.yaml, line 3: model.args.img_size = [32, 64]: it sh", ""),
        ("model: {args: {1: 2}}\n", "bad.yaml, line 1: model.args.1 = 1: it should be a text", "quote it"),
        ("run: [a, b]\n", "bad.yaml, line 1: run = ['a', 'b']: it should be a text", ""),
        ("yes: 1\n", "bad.yaml: True is not a section of settings", ""),
        ("seed: 1\nseed: 2\n", "bad.yaml, line 2: 'seed' is set twice, first in line 1", "once"),
        ("prune:\n\tratio: 0.5\n", "bad.yaml, line 2: invalid YAML: a tab", "spaces"),
        ("seed: \x00\n", "bad.yaml: invalid YAML: control characters", "plain text"),
        ("prune:\n  axes:\n  - head\n  - tail\n", "bad.yaml, line 2: prune.axes.1 = 'tail'", ""),
        (
            "prune:\n  ratio: 0.5\n  budget: macs=0.5\n",
            "prune.ratio = 0.5 (bad.yaml, line 2) and prune.budget = 'macs=0.5' (bad.yaml, line 3) are mutually exclu",
            "keep one",
        ),
        ("prune:\n  axes: []\n", "bad.yaml, line 2: prune.axes = []: it should name at least one", ""),
        (
            "export:\n  precision: fp32\n  batch_size: [8, 1, 64]\n",
            "bad.yaml, line 3: export.batch_size = [8, 1, 64]: it should be one number, or three in ascending order",
            "",
        ),
        ("train: 5\n", "bad.yaml, line 1: train = 5", ""),
        ("prune: [1\n", "bad.yaml, line 1: invalid YAML: an unclosed bracket", ""),
        ("- 1\n", "bad.yaml must hold sections of settings", ""),
    ],
)
def test_bad_recipe(  # noqa: PLR0913
    same_here: Path,
    command: Command,
    unchanged: Unchanged,
    in_our_words: Callable[[Any], str],
    monkeypatch: pytest.MonkeyPatch,
    text: str,
    message: str,
    hint: str,
) -> None:
    monkeypatch.chdir(same_here)
    Path("bad.yaml").write_text(text)
    with unchanged(same_here):
        ended = command("run", "--recipe", "bad.yaml")
    assert message in in_our_words(ended)
    assert hint in ended.err


def wrong_values() -> list[tuple[str, object]]:
    """Every setting of every section with values of other types."""
    sections = {name: field.default for name, field in Recipe.model_fields.items()}
    names = [
        f"{section}.{name}"
        for section, default in sections.items()
        for name in getattr(type(default), "model_fields", {})
    ]
    odd = ([[1]], [{"a": 1}], {"a": [1]}, float("nan"), 10**30, -1, b"x")
    return [(name, value) for name in ("seed", "run", *sections, *names) for value in odd]


def test_values_of_any_wrong_type_are_refused_without_pydantics_words(
    in_our_words: Callable[[Any], str], tmp_path: Path
) -> None:
    refused: dict[str, RecipeError] = {}
    for name, value in wrong_values():
        try:
            resolve(None, tmp_path / "run", {name: value})
        except RecipeError as error:
            refused[f"{name} = {value!r}"] = error
    assert len(refused) > 300
    for given, error in refused.items():
        said = in_our_words(SimpleNamespace(code=2, out="", err=f"error: {error.message}\n"))
        assert said == f"error: {error.message}", "one line"
        assert given.partition(" ")[0] in said
        assert "something else" not in said, "a finding of pydantic that we have no words for"


def test_an_invalid_flags_yaml(here: Path, command: Command, in_our_words: Callable[[Any], str]) -> None:
    Path("runs/default/flags.yaml").write_text("flags: [1]\n")
    assert "flags.yaml does not hold flags by name" in in_our_words(command("prune"))


def test_an_error_in_an_earlier_flag_names_flags_yaml(
    here: Path, command: Command, in_our_words: Callable[[Any], str]
) -> None:
    Path("runs/default/flags.yaml").write_text("flags: {train.epochs: -1}\n")
    said = in_our_words(command("prune", "--recipe", "toolkit.yaml"))
    assert "runs/default/flags.yaml, from an earlier command: train.epochs = -1: it should be at least 0" in said


PYDANTIC = re.compile(
    r"Input should be|valid (integer|number|boolean|string)|\[type=|For further information|unable to|validation error"
)


def odd_flags() -> list[tuple[str, str, str, str]]:
    """Command, flag, wrong value, and the name of every setting that is a number or a list."""
    found = []
    for stage in ("train", "prune", "finetune", "export", "parity", "bench"):
        for setting in setting_flags(sections_of(stage)):
            kind = str(setting.field.annotation)
            if "int" in kind or "float" in kind:
                given = "1,x" if "tuple" in kind else "two"
                found.append((stage, f"--{setting.name}", given, setting.settings[0]))
    return [*found, ("train", "--seed", "two", "seed"), ("prune", "--axes", "head,x", "prune.axes")]


def test_wrong_flag_values_are_refused_without_pydantics_words(
    here: Path, command: Command, in_our_words: Callable[[Any], str]
) -> None:
    odd = odd_flags()
    assert len({(stage, flag) for stage, flag, _, _ in odd}) > 50
    for stage, flag, given, name in odd:
        ended = command(stage, flag, given)
        assert not PYDANTIC.search(ended.err), ended.err
        said = in_our_words(ended)
        assert f"{flag}: {name}" in said, said
        assert re.search(r": it should be (a whole number|a number|'\w+')", said), said


@pytest.mark.parametrize("stage", ["train", "prune", "finetune", "export", "bench"])
def test_a_switch_takes_no_value(here: Path, command: Command, stage: str) -> None:
    for setting in setting_flags(sections_of(stage)):
        if setting.field.annotation is bool:
            ended = command(stage, f"--{setting.name}=maybe")
            assert (ended.code, ended.out) == (2, "")
            assert not PYDANTIC.search(ended.err)
            assert f"--{setting.name}" in ended.err
