"""Where latencies of a budget are measured."""

from __future__ import annotations

import pytest

from toolkit import recipe
from toolkit.bench.deployment import deployment_of
from toolkit.errors import DeviceUnreachable, MissingDependency, RecipeError, UnknownName, WrongMachine


def test_the_runtime_is_that_of_the_budget_then_of_bench_then_of_the_first_target() -> None:
    export = recipe.Export(targets=("openvino", "onnx"))
    prune, bench = recipe.Prune(at_batch=8), recipe.Bench(threads=1)
    chosen = deployment_of(prune, export, bench)
    assert (chosen.runtime, chosen.target, chosen.batch_size, chosen.bench.threads) == ("openvino", "openvino", 8, 1)
    assert deployment_of(prune, export, recipe.Bench(runtime="onnxruntime")).target == "onnx"
    chosen = deployment_of(recipe.Prune(runtime="torch"), export, bench)
    assert (chosen.runtime, chosen.export.targets) == ("torch", ("torch",)), "not one of the recipe's targets"


def test_a_runtime_without_exported_files_is_refused() -> None:
    with pytest.raises(RecipeError, match=r"runtime 'null' opens no exported files.*\n.*onnxruntime or openvino"):
        deployment_of(recipe.Prune(runtime="null"), recipe.Export(), recipe.Bench())


@pytest.mark.parametrize(
    ("export", "message"),
    [
        ({"image_size": (192,)}, r"for images of the model's size.*\nset model\.image_size"),
        ({"batch_size": (8,)}, "prune.at_batch is 1, but files are exported for batch sizes 8"),
        ({"batch_size": (2, 4, 8)}, "batch sizes 2, 4, 8"),
        ({"attention": "custom", "quantize_attention": True, "precision": "int8"}, "quantize-attention"),
    ],
    ids=["image size", "fixed batch", "batch range", "settings"],
)
def test_settings_that_cannot_be_measured(export: dict[str, object], message: str) -> None:
    settings = recipe.Export.model_validate(export)
    with pytest.raises(RecipeError, match=message):
        deployment_of(recipe.Prune(), settings, recipe.Bench()).check()


def test_a_runtime_that_does_not_run_on_this_machine() -> None:
    bf16 = deployment_of(recipe.Prune(), recipe.Export(precision="bf16"), recipe.Bench())
    with pytest.raises(WrongMachine, match="a latency budget cannot be measured with onnxruntime on this machine"):
        bf16.check()
    elsewhere = deployment_of(recipe.Prune(device="null"), recipe.Export(precision="bf16"), recipe.Bench())
    elsewhere.check()
    engine = deployment_of(recipe.Prune(runtime="tensorrt"), recipe.Export(), recipe.Bench())
    if not engine.device.environment(()).gpu:
        with pytest.raises((DeviceUnreachable, MissingDependency), match="tensorrt"):
            engine.check()


def test_a_device_that_does_not_exist() -> None:
    with pytest.raises(UnknownName, match="unknown device 'jetsn'"):
        deployment_of(recipe.Prune(device="jetsn"), recipe.Export(), recipe.Bench()).check()


def test_the_fingerprint_depends_on_what_a_latency_depends_on() -> None:
    def fingerprint(
        prune: dict[str, object] | None = None,
        export: dict[str, object] | None = None,
        bench: dict[str, object] | None = None,
    ) -> dict[str, str]:
        settings = recipe.Prune.model_validate({"budget": "latency=0.5", **(prune or {})})
        files, measuring = recipe.Export.model_validate(export or {}), recipe.Bench.model_validate(bench or {})
        return deployment_of(settings, files, measuring).fingerprint()

    usual = fingerprint()
    for same in (
        fingerprint(prune={"budget": "latency=4ms"}),
        fingerprint(bench={"seconds": 1.0, "samples": 9, "batch_size": (64,)}),
        fingerprint(export={"calibration_images": 3}),
        fingerprint(prune={"runtime": "onnxruntime"}, export={"targets": ("onnx", "openvino")}),
    ):
        assert same == usual
    for other in (
        fingerprint(prune={"at_batch": 2}),
        fingerprint(prune={"device": "null"}),
        fingerprint(bench={"threads": 1}),
        fingerprint(export={"precision": "fp16"}),
        fingerprint(export={"onnx": {"opset": 20}}),
        fingerprint(export={"rewrites": ("norms",)}),
        fingerprint(prune={"runtime": "openvino"}),
    ):
        assert other != usual
    assert {"export", "bench", "machine", "torch", "onnx"} <= usual.keys()
    assert any(name.startswith("onnxruntime") for name in usual), "the installed variant"
