"""Whole models, dense and pruned to half of the MACs: eager, compiled, and compiled in a CUDA graph."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from toolkit import recipe, records
from toolkit.bench.acceptance.results import ModelReport
from toolkit.bench.agent import run_benchmark
from toolkit.bench.kernels.attention import STOP, summary_of
from toolkit.bench.messages import BenchRequest, Subject
from toolkit.records import DENSE, SLIM, ModelInfo

NAMES = ("deit_small_patch16_224", "vit_base_patch16_224")
BATCH_SIZES = (128, 1)


class Mode(NamedTuple):
    """Execution and timing of a model."""

    runtime: str
    clock: str


MODES = {
    "eager": Mode("torch-cuda", "cuda-events"),
    "compiled": Mode("torch-compiled", "cuda-events"),
    "graph": Mode("torch-compiled", "cuda-graph"),
}


class Step(NamedTuple):
    """One measurement."""

    model: str
    mode: str
    batch_size: int


def steps() -> list[Step]:
    """All measurements, those with a claim first."""
    return [Step(name, mode, batch) for batch in BATCH_SIZES for mode in MODES for name in NAMES]


def make_models(name: str, folder: Path, settings: recipe.Prune | None = None, image_size: int = 224) -> None:
    """Write `dense` and `slim`, with random weights, unless they exist. settings: by default, half of the MACs, cut at
    random."""
    from toolkit.models.build import build
    from toolkit.prune import pruning
    from toolkit.prune.calibration import Calibration
    from toolkit.prune.methods import Job

    if (folder / SLIM / "model.json").is_file():
        return
    classes = tuple(map(str, range(1000)))
    model = recipe.Model(name=name, weights="none", image_size=image_size)
    dense = build(model, classes, seed=0).save(folder / DENSE)
    no_images = Calibration(lambda domains: [], (), seed=0)
    settings = settings or recipe.Prune(criterion="random", budget="macs=0.5")
    pruning.prune(dense, Job(settings, no_images, seed=0)).slim.save(folder / SLIM)


def measure(step: Step, folder: Path, mode: Mode) -> ModelReport:
    """Measure the models in `folder`, interleaved."""
    infos = {subject: records.load(ModelInfo, folder / subject / "model.json") for subject in (DENSE, SLIM)}
    request = BenchRequest(
        subjects={subject: Subject(str(folder / subject), mode.runtime) for subject in infos},
        batch_sizes=(step.batch_size,),
        seconds=STOP.seconds,
        samples=STOP.samples,
        threads=1,  # the GPU does the work
        device="local",
        clock=mode.clock,
    )
    macs = {subject: info.macs for subject, info in infos.items()}
    try:
        return ModelReport(*step, macs, run_benchmark(request))
    except Exception as error:  # out of memory, a model that does not compile
        return ModelReport(*step, macs, None, summary_of(error))
