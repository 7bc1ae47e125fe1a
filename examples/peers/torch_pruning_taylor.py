"""Prune a dense model that the toolkit trained with Torch-Pruning's Taylor importance, into a run folder of its own.

    python examples/peers/torch_pruning_taylor.py --run runs/default --budget 0.5

makes runs/default-torch-pruning with a copy of `dense`, with `pruned`, and with the recipe of the run, and prints the
accuracy on the validation images of each source domain before and after. `toolkit finetune --run ...` and all other
commands go on from there. The method is the plug-in `torch_pruning_method.py`.
"""

from __future__ import annotations

import argparse
import shutil
import sys
from pathlib import Path

from toolkit import pipeline, plugins, resolve, runfolder
from toolkit.dg.evaluate import accuracy
from toolkit.errors import MissingDependency, RunFolderError, ToolkitError
from toolkit.models import store
from toolkit.records import DENSE
from toolkit.stages import IMAGE_CHECK, PRUNED, Run

METHOD = "torch-pruning"
FILES = (resolve.RECIPE_COPY, resolve.FLAGS_FILE, IMAGE_CHECK)
"""Files of a run that its dense model depends on, or that save time."""
BATCH = 32
"""Batch size of validation images."""


def main(words: list[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--run", type=Path, required=True, help="run folder with a dense model; it is not changed")
    parser.add_argument("--budget", type=float, default=0.5, help="fraction of the MACs to keep (default: 0.5)")
    parser.add_argument("--out", type=Path, help="new run folder (default: that of --run and '-torch-pruning')")
    chosen = parser.parse_args(words)
    try:
        prune(chosen.run, chosen.budget, chosen.out or chosen.run.with_name(f"{chosen.run.name}-{METHOD}"))
    except ToolkitError as error:
        tell(f"error: {error}")
        return error.exit_code
    return 0


def prune(source: Path, budget: float, out: Path) -> None:
    """Make the run folder `out` from the run folder `source`; nothing is left of it after an error."""
    if METHOD not in plugins.names("toolkit.prune.methods"):
        raise MissingDependency(f"the method {METHOD} is not installed", f"pip install {Path(__file__).parent}")
    if not (source / DENSE / runfolder.STAGE_FILE).is_file():
        raise RunFolderError(f"{source} has no dense model", "`toolkit train` makes one")
    if out.exists():
        raise RunFolderError(f"{out} exists already", "choose another folder (--out), or delete it")
    try:
        _copy(source, out)
        _run(source, budget, out)
    except BaseException:
        shutil.rmtree(out, ignore_errors=True)
        raise


def _copy(source: Path, out: Path) -> None:
    """Copy the dense model and the settings of a run."""
    shutil.copytree(source / DENSE, out / DENSE)
    for name in FILES:
        if (source / name).is_file():
            (out / name).parent.mkdir(exist_ok=True)
            shutil.copy(source / name, out / name)


def _run(source: Path, budget: float, out: Path) -> None:
    """Run the stage `prune`, as `toolkit prune` does, and print accuracies. The dense model is never trained again."""
    # What the dense model's plan has besides these is the recipe's: samples, round_to, seed, scope.
    flags = {"method": METHOD, "criterion": "taylor", "budget": f"macs={budget:g}", "axes": ["head", "mlp"], "steps": 1}
    flags |= {"basis": "none", "compensation": "none"}
    settings = resolve.resolve(None, out, {f"prune.{name}": value for name, value in flags.items()})
    with runfolder.opened(out) as folder:
        run = Run(settings.recipe, folder, tell=tell)
        for step in pipeline.plan(run, ["prune"]):
            if step.stage == "train" and step.reason:
                raise RunFolderError(f"{source}/{DENSE} is not up to date: {step.reason}", "`toolkit train` remakes it")
        pipeline.execute(run, settings, ["prune"], force=False, allow_invalid=False)
        for line in accuracies(run):
            print(line)
    tell(f"next: toolkit finetune --run {out}")


def accuracies(run: Run) -> list[str]:
    """Accuracy of the dense and the pruned model on the validation images of each source domain, as lines of text."""
    models = {name: store.load(run.folder.path / name) for name in (DENSE, PRUNED)}
    lines = [f"{'domain':<20}{'images':>8}" + "".join(f"{name:>10}" for name in models)]
    for domain, images in run.domains.selection_images().items():
        values = [
            accuracy(model.module, images, model.info, BATCH, run.recipe.data.workers) for model in models.values()
        ]
        lines.append(f"{domain:<20}{len(images):>8}" + "".join(f"{value:>10.1%}" for value in values))
    return lines


def tell(line: str) -> None:
    """Print a message on stderr."""
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
