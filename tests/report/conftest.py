"""Literal records of a finished run: two blocks, three domains, one artifact."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from toolkit.dg.summary import DataSummary
from toolkit.models.model import Model
from toolkit.models.summary import summarise
from toolkit.models.surgery import remove
from toolkit.models.tokens import with_tokens
from toolkit.preprocessing import Preprocessing
from toolkit.records import (
    Artifact,
    BlockSummary,
    Comparison,
    Cut,
    DomainParity,
    Environment,
    Evaluation,
    HeadLayout,
    Merge,
    ModelInfo,
    ModelSummary,
    ParityReport,
    PrunePlan,
    TensorSpec,
    TrainingHistory,
    Verdict,
)
from toolkit.report.contents import LatencyRow, Load, Page, SpeedUp

DENSE_LAYOUT = HeadLayout(((64, 64),) * 3)
SLIM_LAYOUT = HeadLayout(((64, 64), (32, 48)))
PREPROCESSING = Preprocessing((0.5,) * 3, (0.5,) * 3, "bicubic", 1.0, "squash", "timm")


def domain(name: str, held_out: bool, accuracy: tuple[float, float, float], verdict: Verdict = "pass") -> DomainParity:
    dense, slim, exported = accuracy
    return DomainParity(
        domain=name,
        held_out=held_out,
        labels=(0, 1) * 100,
        predictions={},
        accuracy={"dense": dense, "slim": slim, "onnx-fp32": exported},
        comparisons=(
            Comparison("dense", "slim", 0.94, slim - dense, slim - dense - 0.02, slim - dense + 0.02, None),
            Comparison("slim", "onnx-fp32", 1.0, exported - slim, exported - slim, exported - slim, verdict),
        ),
    )


def latency_row(batch_size: int, subject: str, median_ms: float, reasons: tuple[str, ...] = ()) -> LatencyRow:
    return LatencyRow(
        load=Load("local", "onnxruntime", 2, batch_size),
        subject=subject,
        samples_ms=(median_ms * 0.9, median_ms, median_ms * 1.3),
        median_ms=median_ms,
        p95_ms=median_ms * 1.28,
        images_per_second=1000 * batch_size / median_ms,
        reasons=reasons,
    )


@pytest.fixture(scope="session")
def contrast() -> Callable[[str, str], float]:
    """Contrast of two colours by WCAG 2.1, from 1 to 21: `contrast("#ffffff", "#000000")`."""

    def luminance(colour: str) -> float:
        parts = [int(colour[start : start + 2], 16) / 255 for start in (1, 3, 5)]
        red, green, blue = (part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts)
        return 0.2126 * red + 0.7152 * green + 0.0722 * blue

    def ratio(one: str, other: str) -> float:
        low, high = sorted((luminance(one), luminance(other)))
        return (high + 0.05) / (low + 0.05)

    return ratio


@pytest.fixture
def environment() -> Environment:
    return Environment(
        toolkit="0.1.0",
        python="3.11.9",
        platform="Linux-6.1-x86_64",
        processor="Example CPU 3000",
        cores=2,
        memory_bytes=4_000_000_000,
        gpu=None,
        driver=None,
        libraries={"torch": "2.15.0", "onnxruntime": "1.30.0"},
    )


@pytest.fixture
def dense() -> ModelSummary:
    blocks = tuple(BlockSummary(index, DENSE_LAYOUT, 768, 444_000, 100_000_000, 101, 101) for index in (0, 1))
    sizes = (192, 5_526_346, 1_250_000_000, 30_000_000)
    return ModelSummary("deit_tiny_patch16_224", 160, PREPROCESSING, *sizes, blocks, trim_last_block=False)


@pytest.fixture
def slim() -> ModelSummary:
    blocks = (BlockSummary(0, SLIM_LAYOUT, 392, 210_000, 50_000_000, 101, 101),)
    sizes = (152, 2_700_000, 625_000_000, 16_000_000)
    return ModelSummary("deit_tiny_patch16_224", 160, PREPROCESSING, *sizes, blocks, trim_last_block=False)


@pytest.fixture(scope="session")
def real(small: Callable[..., Model]) -> tuple[ModelSummary, ModelSummary]:
    """A model of four blocks and 17 tokens, and what is left of it: tokens are merged twice, block 2 is removed, and
    the last block computes the class token."""
    dense = small(depth=4, image_size=32)
    cuts = (
        Cut("blocks.0.attn", "head", (1,)),
        Cut("blocks.1.attn", "qk", (0, 1, 8)),
        Cut("blocks.3.mlp", "mlp", tuple(range(36))),
        Cut("blocks", "block", (2,)),
        Cut("residual", "embed", (5, 6)),
    )
    reduced = with_tokens(dense, (Merge(0, 12), Merge(1, 9, "grid")), trim_last_block=True)
    return summarise(dense), summarise(remove(reduced, cuts).model)


@pytest.fixture
def plan() -> PrunePlan:
    cuts = (Cut("blocks.0.attn", "head", (1,)), Cut("blocks.0.mlp", "mlp", (3, 4, 5)), Cut("blocks", "block", (1,)))
    return PrunePlan("d" * 64, "grouped", "hessian", "isomorphic", "macs=0.5", 0.498, 7, cuts)


@pytest.fixture
def parity() -> ParityReport:
    return ParityReport(
        margin=0.01,
        sides={"dense": "d" * 64, "slim": "5" * 64, "onnx-fp32": "0" * 64},
        domains=(
            domain("photo", False, (0.985, 0.98, 0.98)),
            domain("cartoon", False, (0.93, 0.915, 0.915)),
            domain("sketch", True, (0.71, 0.702, 0.702)),
        ),
        verdict="pass",
    )


@pytest.fixture
def artifact() -> Artifact:
    model = ModelInfo(
        name="deit_tiny_patch16_224",
        args={},
        classes=("dog", "giraffe & co"),
        image_size=160,
        preprocessing=PREPROCESSING,
        removed_blocks=(1,),
        layouts=(SLIM_LAYOUT,),
        parameters=2_700_000,
        macs=625_000_000,
        weights_sha256="5" * 64,
    )
    return Artifact(
        file="model.onnx",
        sha256="a" * 64,
        target="onnx",
        precision="fp32",
        inputs=(TensorSpec("images", "float32", ("batch", 3, 160, 160)),),
        outputs=(TensorSpec("logits", "float32", ("batch", 2)),),
        model=model,
        built_with={"torch": "2.15.0"},
        opset=20,
        max_abs_difference=3.1e-6,
    )


@pytest.fixture
def page(
    dense: ModelSummary,
    slim: ModelSummary,
    environment: Environment,
    plan: PrunePlan,
    parity: ParityReport,
    artifact: Artifact,
) -> Page:
    evaluations = (
        Evaluation(100, 0.4, {"photo": 0.95, "cartoon": 0.9}),
        Evaluation(200, 0.2, {"photo": 0.98, "cartoon": 0.93}),
    )
    return Page(
        title="runs/default",
        dense=dense,
        environment=environment,
        recipe="prune:\n  budget: macs=0.5\n",
        data=DataSummary({"photo": 80, "sketch": 90}, "sketch", ("dog", "giraffe & co"), {"empty": ("a.png",)}, {}, ()),
        slim=slim,
        plan=plan,
        training=TrainingHistory("erm", 600, 605.0, evaluations, 200),
        finetuning=TrainingHistory("erm", 900, 3725.0, evaluations, 100),
        artifacts=(artifact,),
        parity=parity,
        latency=(
            latency_row(1, "dense", 8.0),
            latency_row(1, "slim", 4.4),
            latency_row(8, "dense", 60.0),
            latency_row(8, "slim", 31.6),
        ),
        speedups=(
            SpeedUp(Load("local", "onnxruntime", 2, 1), 1.82, 1.78, 1.86),
            SpeedUp(Load("local", "onnxruntime", 2, 8), 1.9, 1.85, 1.95),
        ),
        file_bytes={"dense": 22_105_384, "slim": 10_800_000},
    )


@pytest.fixture
def bare(dense: ModelSummary, environment: Environment) -> Page:
    """Contents with the dense model only."""
    return Page("runs/default", dense, environment, "run: runs/default\n")
