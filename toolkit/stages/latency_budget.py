"""What `prune` needs for a latency budget: its settings, checked, as inputs of the result, and a meter."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from toolkit import recipe, records
from toolkit.progress import Progress
from toolkit.stages import Run

if TYPE_CHECKING:
    from toolkit.bench.deployment import Deployment
    from toolkit.prune.verified_search import LatencyMeter

FILE = "latency_table.json"
"""File of the result with the measured cost table."""
SETTINGS = ("device", "runtime", "at_batch")
"""Settings of `prune` that have no effect without a latency budget."""


def is_latency(settings: recipe.Prune) -> bool:
    """Whether the budget is a latency."""
    from toolkit.prune.budget import budget_of

    return budget_of(settings).quantity == "latency"


def effective(settings: recipe.Prune) -> recipe.Prune:
    """The settings, with those that have no effect reset to their defaults."""
    if is_latency(settings):
        return settings
    return settings.model_copy(update={name: recipe.Prune.model_fields[name].default for name in SETTINGS})


def check(run: Run) -> None:
    """Raise the error that would end the measurement, before anything is made: RecipeError, WrongMachine,
    DeviceUnreachable, MissingDependency. Warn about settings without effect."""
    settings = run.recipe.prune
    if is_latency(settings):
        _deployment(run).check()
        return
    for name in SETTINGS:
        if (value := getattr(settings, name)) != recipe.Prune.model_fields[name].default:
            run.tell(f"prune: warning: prune.{name}={value} has no effect: the budget is not a latency")


def inputs(run: Run) -> dict[str, str]:
    """Inputs of the result if the budget is a latency."""
    return _deployment(run).fingerprint() if is_latency(run.recipe.prune) else {}


@contextmanager
def meter(run: Run, out: Path, progress: Progress) -> Iterator[LatencyMeter | None]:
    """The meter of a latency budget, None for other budgets. Its cost table is written to `out` at the end."""
    if not is_latency(run.recipe.prune):
        yield None
        return
    from toolkit.bench.latency_meter import Meter, user_cache

    with Meter(_deployment(run), user_cache(), progress) as opened:
        yield opened
        for table in opened.tables.values():
            records.save(table, out / FILE)


def _deployment(run: Run) -> Deployment:
    from toolkit.bench.deployment import deployment_of

    return deployment_of(run.recipe.prune, run.recipe.export, run.recipe.bench)
