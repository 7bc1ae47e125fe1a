"""Users' models from the source to a verdict: pruned by half, exported to ONNX, compared; in Python and by commands."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import toolkit
from toolkit.models import factories

transformers = pytest.importorskip("transformers")

CLASSES = ("class0", "class1", "class2")
SIZES = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "image_size": 32, "patch_size": 8}
FOLDERS: dict[str, tuple[str, dict[str, object]]] = {
    "vit": ("ViTForImageClassification", {"intermediate_size": 64}),
    "deit": ("DeiTForImageClassificationWithTeacher", {"intermediate_size": 64}),
    "beit": ("BeitForImageClassification", {"intermediate_size": 64, "use_relative_position_bias": True}),
    "dinov2": ("Dinov2ForImageClassification", {"mlp_ratio": 2, "use_swiglu_ffn": True}),
}
"""Classes of transformers with arguments of their configs."""
TIMM: dict[str, tuple[str, dict[str, Any]]] = {
    "siglip": ("vit_base_patch16_siglip_224", {}),
    "swiglu": ("vit_giant_patch14_dinov2", {}),
    "query and key norms": ("vit_tiny_patch16_224", {"qk_norm": True}),
}
"""Names in timm, with arguments."""
SMALL = {"patch_size": 8, "depth": 2, "embed_dim": 32, "num_heads": 4, "mlp_ratio": 2.0}
FACTORY = """
import timm
from torch import nn

def vit(classes):
    sizes = dict(img_size=32, patch_size=8, embed_dim=32, depth=2, num_heads=4, mlp_ratio=2.0)
    module = timm.create_model("vit_tiny_patch16_224", num_classes=classes, **sizes)
    nn.init.normal_(module.head.weight)  # timm's is zero
    return module
"""
KINDS = ("factory", *FOLDERS, *TIMM)


@pytest.fixture
def source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], str]]:
    """`source(kind)`: the value of `--model` for one of KINDS, in the current folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv(factories.NAMED, "")

    def write(kind: str) -> str:
        if kind in FOLDERS:
            name, fields = FOLDERS[kind]
            cls = getattr(transformers, name)
            torch.manual_seed(0)
            cls(cls.config_class(**SIZES, **fields, num_labels=3)).save_pretrained(kind)
            return f"./{kind}"
        if kind in TIMM:
            return TIMM[kind][0]
        Path("factory_of_users.py").write_text(FACTORY)
        return "factory_of_users:vit"

    yield write
    sys.modules.pop("factory_of_users", None)


@pytest.mark.parametrize(
    "kind",
    [
        kind if kind in ("factory", "beit", "siglip", "swiglu") else pytest.param(kind, marks=pytest.mark.slow)
        for kind in KINDS
    ],
)
def test_python_api_from_source_to_verdict(
    kind: str, source: Callable[[str], str], randomised: Callable[[nn.Module], nn.Module]
) -> None:
    more: dict[str, Any] = {"weights": "none", "image_size": 32, "args": SMALL | TIMM[kind][1]} if kind in TIMM else {}
    dense = toolkit.load(source(kind), CLASSES, **more)
    randomised(dense.module)
    axes, exact = ("head", "mlp", "embed"), {"round_to": 1}
    slim = toolkit.prune(dense, budget="macs=0.5", criterion="magnitude-l2", axes=axes, settings=exact)
    assert slim.info.macs < 0.6 * dense.info.macs
    onnx = toolkit.export(slim, "onnx", "onnx")
    images = torch.randn(8, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    labels = slim.module(images).argmax(dim=1)
    report = toolkit.parity({"slim": slim, "onnx": onnx}, [(images, labels)], margin=0.9)
    assert report.verdict == "pass"
    assert report.domains[0].accuracy == {"slim": 1.0, "onnx": 1.0}


@pytest.mark.parametrize(
    "kind", [kind if kind == "factory" else pytest.param(kind, marks=pytest.mark.slow) for kind in KINDS]
)
def test_commands_from_source_to_verdict(
    kind: str, source: Callable[[str], str], finished: tuple[Path, Any], command: Callable[..., Any], tmp_path: Path
) -> None:
    data = finished[0] / "path" / "to" / "photos"
    words = ["--model", source(kind), "--data", data, "--hold-out", "sketch"]
    if kind in TIMM:
        words += ["--weights", "none", "--image-size", "32"]
        arguments = SMALL | TIMM[kind][1]
        words += [word for name, value in arguments.items() for word in ("--set", f"model.args.{name}={value}")]
    quick = {"data.workers": 0, "train.epochs": 1, "finetune.epochs": 1, "parity.margin": 0.9, "prune.ratio": 0.5}
    words += [word for name, value in quick.items() for word in ("--set", f"{name}={value}")]
    ended = command("run", "--until", "parity", *words)
    assert ended.code == 0, ended.err
    assert ended.made == ["dense", "pruned", "finetuned", "artifacts/onnx-fp32-dense", "artifacts/onnx-fp32", "parity"]
    assert command("parity").made == []  # the model is still named by the flags of the run
