"""Which settings hold: built-in ones, a recipe, flags of now and of earlier commands."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from toolkit.errors import RecipeError
from toolkit.export.graph_settings import GraphSettings
from toolkit.export.tensorrt import EngineSettings
from toolkit.resolve import Flags, Resolved, parse_assignment, resolve

RUN = Path("runs/default")


@pytest.fixture(autouse=True)
def _in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def command(flags: Flags, file: str | None = None, run: Path | None = None) -> Resolved:
    """Resolve and remember, as a command does."""
    settings = resolve(Path(file) if file else None, run, flags)
    folder = Path(settings.recipe.run)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "flags.yaml").write_text(settings.flags_yaml())
    return settings


def test_without_a_recipe_the_built_in_example_is_run() -> None:
    recipe = command({}).recipe
    assert (recipe.data.path, recipe.model.weights, recipe.model.args["depth"]) == ("digits", "none", 4)
    assert recipe.run == "runs/default"


@pytest.mark.parametrize("flags", [{"model.name": "deit_tiny_patch16_224"}, {"data.path": "photos"}])
def test_another_model_or_data_leave_the_example_behind(flags: Flags) -> None:
    recipe = command(flags).recipe
    assert recipe.model.args == {}
    assert recipe.train.epochs == 5
    assert command({}).recipe == recipe, "and they stay left behind"


def test_a_recipe_in_the_folder_is_read_and_flags_go_before_it() -> None:
    Path("toolkit.yaml").write_text("prune: {ratio: 0.3, samples: 9}\ntrain:\nrun: runs/mine\n")
    recipe = command({"prune.ratio": 0.4}).recipe
    assert (recipe.prune.ratio, recipe.prune.samples, recipe.train.epochs, recipe.run) == (0.4, 9, 5, "runs/mine")


def test_ratio_and_budget_take_each_other_back() -> None:
    Path("toolkit.yaml").write_text("prune: {ratio: 0.3}\n")
    assert command({"prune.budget": "macs=0.5"}).recipe.prune.ratio is None
    prune = command({"prune.ratio": 0.4}).recipe.prune
    assert (prune.ratio, prune.budget) == (0.4, None)
    assert command({}).reused == {"prune.ratio": 0.4}


def test_ratio_and_budget_in_one_command_are_an_error() -> None:
    with pytest.raises(RecipeError, match=r"\(on the command line\) .*are mutually exclusive"):
        resolve(None, None, {"prune.ratio": 0.4, "prune.budget": "macs=0.5"})


def test_another_model_takes_back_the_flags_of_the_one_before() -> None:
    command({"model.name": "deit_tiny_patch16_224", "model.image_size": 64, "model.args.depth": 2, "seed": 3})
    settings = command({"model.name": "vit_tiny_patch16_224"})
    assert settings.reused == {"seed": 3}
    assert (settings.recipe.model.image_size, settings.recipe.model.args) == (None, {})


def test_the_same_model_as_in_the_recipe_keeps_its_section() -> None:
    Path("toolkit.yaml").write_text("model: {name: vit_tiny_patch16_224, image_size: 64, args: {depth: 2}}\n")
    assert command({"model.name": "vit_tiny_patch16_224"}).recipe.model.image_size == 64
    assert command({"model.name": "deit_tiny_patch16_224"}).recipe.model.image_size is None


def test_what_other_data_leave_behind_is_said() -> None:
    Path("toolkit.yaml").write_text("data: {path: photos, hold_out: sketch}\nmodel: {image_size: 64}\n")
    command({"data.skip_broken": True})
    settings = command({"data.path": "other", "data.validation_share": 0.3})
    assert settings.reset == {"data.hold_out": "sketch", "data.skip_broken": True}
    assert settings.notices() == [
        "reset by data.path=other: data.hold_out=sketch, data.skip_broken=True",
    ]
    assert settings.recipe.data.hold_out is None
    later = command({"seed": 1})
    assert (later.reset, later.recipe.data.path) == ({}, "other"), "said once"


def test_the_same_data_again_leave_nothing_behind() -> None:
    Path("toolkit.yaml").write_text("data: {path: photos, hold_out: sketch}\n")
    command({"data.hold_out": "ink"})
    settings = command({"data.path": "photos"})
    assert (settings.reset, settings.recipe.data.hold_out) == ({}, "ink")


def test_an_argument_of_the_model_can_be_set_alone() -> None:
    Path("toolkit.yaml").write_text("model: {args: {depth: 2, patch_size: 8}}\n")
    assert command({"model.args.depth": 3}).recipe.model.args == {"depth": 3, "patch_size": 8}


@pytest.mark.parametrize("run", [None, RUN])
def test_a_run_remembers_its_recipe(run: Path | None) -> None:
    Path("mine.yaml").write_text("prune: {ratio: 0.3}\n")
    command({}, file="mine.yaml")
    settings = command({}, run=run)
    assert settings.recipe.prune.ratio == 0.3
    assert settings.file == Path("mine.yaml").resolve()


def test_a_recipe_that_is_gone_is_replaced_by_the_run_s_own_copy() -> None:
    Path("mine.yaml").write_text("prune: {ratio: 0.3}\n")
    command({}, file="mine.yaml")
    Path("mine.yaml").rename(RUN / "recipe.yaml")
    assert command({}, run=RUN).recipe.prune.ratio == 0.3


def test_run_on_the_command_line_goes_before_the_recipe_s() -> None:
    Path("toolkit.yaml").write_text("run: runs/one\n")
    assert resolve(None, Path("runs/two"), {}).recipe.run == "runs/two"


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("prune.ratio=0.75", ("prune.ratio", 0.75)),
        ("prune.budget=macs=0.4", ("prune.budget", "macs=0.4")),
        ("train.clip_grad=null", ("train.clip_grad", None)),
        ("prune.axes=[mlp, v]", ("prune.axes", ["mlp", "v"])),
    ],
)
def test_assignment(text: str, found: tuple[str, object]) -> None:
    assert parse_assignment(text) == found


@pytest.mark.parametrize("text", ["prune.ratio", "=3", "run=x", "a=["])
def test_bad_assignment(text: str) -> None:
    with pytest.raises(RecipeError):
        parse_assignment(text)


def test_what_is_remembered_can_be_read() -> None:
    command({"bench.batch_size": ["1", "8"], "train.clip_grad": None})
    assert yaml.safe_load((RUN / "flags.yaml").read_text()) == {
        "recipe": None,
        "flags": {"bench.batch_size": ["1", "8"], "train.clip_grad": None},
    }
    assert command({}).recipe.bench.batch_size == (1, 8)


def test_several_faults_are_all_named_with_their_lines() -> None:
    Path("toolkit.yaml").write_text("train:\n  epochs: -1\nprune:\n  critrion: taylor\n")
    with pytest.raises(RecipeError) as caught:
        resolve(None, None, {})
    assert "toolkit.yaml, line 2: train.epochs = -1" in caught.value.message
    assert "toolkit.yaml, line 4: unknown setting 'prune.critrion'" in caught.value.message
    assert caught.value.hint.startswith("did you mean criterion")


def test_flags_and_recipe_of_a_run_by_an_earlier_version_are_read_under_their_former_names() -> None:
    command({})
    (RUN / "flags.yaml").write_text(yaml.safe_dump({"recipe": None, "flags": {"export.target": "sm_87"}}))
    assert command({}).reused == {"export.rtx.gpus": "sm_87", "export.tensorrt.gpus": "sm_87"}
    (RUN / "recipe.yaml").write_text("export: {target: sm_89, opset: 20}\n")
    (RUN / "flags.yaml").write_text(yaml.safe_dump({"recipe": "gone.yaml", "flags": {}}))
    export = resolve(None, RUN, {}).recipe.export
    assert export.own("rtx") == export.own("tensorrt") == EngineSettings(gpus="sm_89", opset=20)
    assert export.own("onnx") == GraphSettings(opset=20)
    assert export.own("torch") is None


def test_a_former_name_in_a_recipe_of_the_users_is_refused_with_the_current_one() -> None:
    Path("toolkit.yaml").write_text("export:\n  target: sm_87\n")
    with pytest.raises(RecipeError, match=r"toolkit\.yaml, line 2: export\.target is now called export\.rtx\.gpus or "):
        command({})
