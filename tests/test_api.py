"""The Python API on a small model, from loading to a measurement."""

from __future__ import annotations

import inspect
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

import toolkit
from toolkit import api
from toolkit.errors import BadInput, DataError, MissingDependency, RecipeError, UnknownName
from toolkit.models.model import Model

Small = Callable[..., Model]
Images = list[tuple[Tensor, Tensor]]


@pytest.fixture(scope="module")
def batches() -> Images:
    """Two batches of four images of 16 pixels, of three classes."""
    generator = torch.Generator().manual_seed(0)
    return [(torch.randn(4, 3, 16, 16, generator=generator), torch.tensor([0, 1, 2, 0])) for _ in range(2)]


@pytest.fixture(scope="module")
def slim(small: Small, batches: Images) -> Model:
    return toolkit.prune(small(), iter(batches), budget="macs=0.6", settings={"round_to": 4})


@pytest.fixture(scope="module")
def exported(slim: Model, tmp_path_factory: pytest.TempPathFactory) -> api.Exported:
    return toolkit.export(slim, "onnx", tmp_path_factory.mktemp("onnx"))


def test_functions_are_callable_after_any_import() -> None:
    """Three functions have the names of subpackages, which Python sets as attributes when it imports them."""
    program = (
        "import toolkit; first = toolkit.export; import toolkit.export.settings, toolkit.bench, toolkit.prune;"
        "from toolkit import api; import inspect;"
        "assert first is api.export and toolkit.export.settings;"
        "assert all(callable(getattr(toolkit, name)) for name in toolkit.__all__);"
        "assert inspect.signature(toolkit.prune) == inspect.signature(api.prune)"
    )
    subprocess.run([sys.executable, "-c", program], check=True)
    with pytest.raises(AttributeError, match="'prunes'"):
        _ = toolkit.prunes  # type: ignore[attr-defined]


def test_functions_are_documented() -> None:
    for name in toolkit.__all__:
        function = getattr(api, name)
        signature = inspect.signature(function)
        annotations = [parameter.annotation for parameter in signature.parameters.values()]
        assert function.__doc__
        assert inspect.Parameter.empty not in [*annotations, signature.return_annotation], name


def test_a_model_is_built_saved_and_loaded(tmp_path: Path) -> None:
    args = {"patch_size": 8, "depth": 1, "embed_dim": 24, "num_heads": 3}
    model = toolkit.load("deit_tiny_patch16_224", ["a", "b"], weights="none", image_size=16, args=args)
    saved = model.save(tmp_path / "new" / "model")
    assert saved.info.weights_sha256 == model.info.weights_sha256
    loaded = toolkit.load(tmp_path / "new" / "model")
    assert loaded.info == saved.info
    assert loaded.info.classes == ("a", "b")
    images = torch.randn(1, 3, 16, 16)
    assert torch.equal(loaded.module(images), model.module(images))


def test_pruning_returns_a_smaller_model_and_changes_no_argument(small: Small, slim: Model) -> None:
    dense = small()
    assert 0.5 < slim.info.macs / dense.info.macs <= 0.6
    assert dense.info == small().info
    assert slim.module(torch.zeros(2, 3, 16, 16)).shape == (2, 3)


def test_criteria_without_data_need_no_images(small: Small) -> None:
    dense = small()
    slim = toolkit.prune(dense, budget="params=0.71", criterion="magnitude-l2", settings={"round_to": 4})
    assert slim.info.parameters <= 0.71 * dense.info.parameters
    assert slim.info.made_from == dense.identified().info.weights_sha256


def test_criteria_with_data_read_labels(small: Small, batches: Images) -> None:
    slim = toolkit.prune(small(), batches, budget="macs=0.6", criterion="taylor", settings={"round_to": 4})
    assert slim.info.layouts != small().info.layouts
    assert not slim.info.merges


def test_a_model_is_finetuned_on_a_folder(small: Small, slim: Model) -> None:
    names = [str(digit) for digit in range(10)]
    dense = toolkit.load("deit_tiny_patch16_224", names, weights="none", image_size=16, args=ARGS)
    trained = toolkit.finetune(
        dense, "digits", teacher=dense, epochs=1, settings={"batch_size": 512, "evaluations": 1, "optimizer": "sgd"}
    )
    before, after = dense.module.state_dict(), trained.module.state_dict()
    assert any(not torch.equal(before[name], after[name]) for name in before)
    with pytest.raises(DataError, match="classes"):
        toolkit.finetune(slim, "digits")


MATCHING = {"objective": "matching", "label_smoothing": 0.1}
ARGS = {"patch_size": 8, "depth": 1, "embed_dim": 24, "num_heads": 3}


def test_an_exported_file_has_the_models_predictions(slim: Model, exported: api.Exported, batches: Images) -> None:
    assert exported.artifact.target == "onnx"
    report = toolkit.parity({"slim": slim, "onnx": exported, "again": exported.folder}, {"photos": batches})
    (domain,) = report.domains
    assert report.sides["onnx"] == exported.artifact.sha256
    assert {pair.agreement for pair in domain.comparisons} == {1.0}
    assert [(pair.reference, pair.candidate) for pair in domain.comparisons] == [("slim", "onnx"), ("slim", "again")]
    assert domain.predictions["slim"] == tuple(
        int(label) for images, _ in batches for label in slim.module(images).argmax(1)
    )


def test_lower_precision_is_chosen_by_a_sample_of_the_files_size(slim: Model, batches: Images, tmp_path: Path) -> None:
    settings: api.Settings = {"onnx": {"opset": 20}, "image_size": 32}
    larger = [(images.repeat(1, 1, 2, 2), labels) for images, labels in batches]
    exported = toolkit.export(slim, "onnx", tmp_path, precision="int8", sample=larger, settings=settings)
    assert exported.artifact.precision == "int8"
    assert exported.artifact.lowered is not None
    assert exported.artifact.model.image_size == 32
    with pytest.raises(DataError, match=r"expected are images \[batch, 3, 32, 32\]"):
        toolkit.export(slim, "onnx", tmp_path / "other", precision="int8", sample=batches, settings=settings)
    with pytest.raises(BadInput, match="int8 needs a sample of labelled images"):
        toolkit.export(slim, "onnx", tmp_path / "other", precision="int8")


def test_a_measurement_prints_medians_and_ratios(small: Small, slim: Model, exported: api.Exported) -> None:
    latencies = toolkit.bench({"dense": small(), "slim": slim, "onnx": exported}, batch_sizes=[1], seconds=0.01)
    runtimes = [(measurement.subject, measurement.runtime) for measurement in latencies.report.measurements]
    assert runtimes == [("dense", "torch"), ("slim", "torch"), ("onnx", "onnxruntime")]
    assert "batch 1: dense " in str(latencies)
    assert "dense / onnx" in str(latencies)


def test_settings_of_a_measurement_apply_to_all_models(small: Small, slim: Model) -> None:
    settings: api.Settings = {"runtime": "torch-cuda", "clock": "cuda-graph"}
    latencies = toolkit.bench({"dense": small(), "slim": slim}, device="null", batch_sizes=[4], settings=settings)
    used = [(result.subject, result.runtime, result.clock) for result in latencies.report.measurements]
    assert used == [("dense", "torch-cuda", "cuda-graph"), ("slim", "torch-cuda", "cuda-graph")]


Call = Callable[[Model, Path], object]
"""A call of the API with a model and a folder that holds it."""


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda model, folder: toolkit.load(folder, ["a", "b"], seed=1), "classes, seed: .* is a model folder"),
        (lambda model, folder: toolkit.load(folder, weights="none"), "weights: .* is a model folder"),
        (lambda model, folder: toolkit.load(model.module, weights="none"), "weights: the model is a module"),
        (lambda model, folder: toolkit.prune(model, settings={"samples": 64}), "no setting 'samples'\nall images of"),
        (lambda model, folder: toolkit.prune(model, settings={"criterion": "lamp"}), "is the argument `criterion`"),
        (lambda model, folder: toolkit.prune(model, settings={"budget": "macs=0.6"}), "is the argument `budget`"),
        (lambda model, folder: toolkit.prune(model, settings={"runtime": "onnxruntime"}), "it is for a latency budget"),
        (
            lambda model, folder: toolkit.prune(model, budget="latency=0.5", settings={"method": "grouped"}),
            "'grouped' cannot prune to a budget of latency",
        ),
        (lambda model, folder: toolkit.finetune(model, "digits", settings={"distill": True}), "argument `teacher`"),
        (lambda model, folder: toolkit.finetune(model, "digits", settings={"distill_weight": 1}), "'distill_weight'"),
        (lambda model, folder: toolkit.finetune(model, "digits", settings=MATCHING), "matching takes no labels"),
        (lambda model, folder: export_with(model, folder, verify=True), "no setting 'verify'\ntoolkit.parity"),
        (lambda model, folder: export_with(model, folder, calibration_images=8), "all images of `sample` are used"),
        (lambda model, folder: export_with(model, folder, calibration_domains="art"), "give `sample` without"),
        (lambda model, folder: export_with(model, folder, targets="torch"), "is the argument `target`"),
        (lambda model, folder: export_with(model, folder, quantize_attention=True), "applies to int8, not to fp32"),
        (lambda model, folder: export_with(model, folder, torch={"compile": False}), "not used for onnx"),
        (lambda model, folder: toolkit.parity({}, []), "at least two models are needed, not 0"),
        (lambda model, folder: toolkit.parity({"slim": model}, []), "at least two models are needed, not 1"),
        (lambda model, folder: toolkit.bench({"slim": model}, settings={"batch_size": 1}), "argument `batch_sizes`"),
    ],
)
def test_an_argument_without_effect_is_refused(call: Call, message: str, slim: Model, tmp_path: Path) -> None:
    slim.save(tmp_path)
    before = sorted(tmp_path.iterdir())
    with pytest.raises(BadInput, match=message):
        call(slim, tmp_path)
    assert sorted(tmp_path.iterdir()) == before


def export_with(model: Model, folder: Path, **settings: object) -> api.Exported:
    return toolkit.export(model, "onnx", folder / "onnx", settings=settings)


def test_values_are_checked_as_in_a_recipe(slim: Model, batches: Images, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"parity\.margin = -1"):
        toolkit.parity({"slim": slim, "again": slim}, batches, margin=-1)
    with pytest.raises(RecipeError, match=r"parity\.margin = 2"):
        toolkit.export(slim, "onnx", tmp_path, precision="int8", sample=batches, margin=2)
    with pytest.raises(RecipeError, match=r"bench\.batch_size\.0 = 0"):
        toolkit.bench({"slim": slim}, batch_sizes=[0])
    with pytest.raises(RecipeError, match=r"bench\.seconds = 0"):
        toolkit.bench({"slim": slim}, seconds=0)
    with pytest.raises(RecipeError, match=r"bench\.samples = 1"):
        toolkit.bench({"slim": slim}, samples=1)


def test_a_method_that_trains_is_refused_before_images_are_read(slim: Model, install: Callable[..., Path]) -> None:
    file = Path(__file__).parent / "prune" / "methods" / "soft_gates.py"
    install({"soft_gates": file.read_text()}, [("method", "soft-gates", "soft_gates")])
    images = iter([(torch.zeros(1), torch.zeros(1))])
    with pytest.raises(BadInput, match="'soft-gates' trains the model, but there are no training images"):
        toolkit.prune(slim, images, settings={"method": "soft-gates", "basis": "svd"})
    assert len(list(images)) == 1


def test_unusable_arguments_are_explained(small: Small, batches: Images, tmp_path: Path) -> None:
    model = small()
    with pytest.raises(BadInput, match="not a model folder, and a new model needs class names"):
        toolkit.load(tmp_path)
    with pytest.raises(UnknownName, match="deit_tini"):
        toolkit.load("deit_tini_patch16_224", ["a", "b"])
    with pytest.raises(DataError, match="there are no images in 'images'"):
        toolkit.prune(model, budget="macs=0.6", settings={"round_to": 4})
    with pytest.raises(DataError, match=r"a batch has images \[4, 16, 16\] torch.float32 and labels \[4\]"):
        toolkit.prune(
            model, [(images[:, 0], labels) for images, labels in batches], budget="macs=0.6", settings={"round_to": 4}
        )
    with pytest.raises(RecipeError, match=r"unknown setting 'prune.round'") as raised:
        toolkit.prune(model, batches, settings={"round": 4})
    assert "round_to" in raised.value.hint
    with pytest.raises(UnknownName, match="onxx"):
        toolkit.export(model, "onxx", tmp_path)
    with pytest.raises(BadInput, match="there are no models"):
        toolkit.bench({})
    with pytest.raises((BadInput, MissingDependency), match=r"contains no model\.json"):
        toolkit.parity({"a": tmp_path, "b": model}, batches)


@pytest.mark.parametrize("page", ["README.md", pytest.param("docs/python.md", marks=pytest.mark.slow)])
def test_the_example_runs(page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = (Path(__file__).parent.parent / page).read_text(encoding="utf-8")
    (program,) = re.findall(r"^```python\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    load = '"deit_tiny_patch16_224", classes)'
    assert load in program
    program = program.replace(
        load, f'{load[:-1]}, weights="none", image_size=32, args={{"depth": 2, "embed_dim": 96}})'
    )
    batches = [(torch.randn(4, 3, 32, 32), torch.tensor([0, 1, 1, 0]))]
    monkeypatch.chdir(tmp_path)
    exec(program.replace("[1, 8]", "[1], seconds=0.01"), {"classes": ["cat", "dog"], "batches": batches})
    assert Path("slim/model.json").exists()
    assert Path("slim-onnx/artifact.json").exists()
