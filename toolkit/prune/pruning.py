"""Pruning from the dense to the slim model: basis, method, surgery, compensation."""

from __future__ import annotations

from dataclasses import dataclass, replace

from toolkit.models.model import Model
from toolkit.models.surgery import remove
from toolkit.prune import bases
from toolkit.prune.compensate import compensation
from toolkit.prune.methods import Job, method
from toolkit.records import PrunePlan


@dataclass(frozen=True)
class Pruned:
    """A slim model, its plan, and the model that the plan's indices refer to."""

    plan: PrunePlan
    source: Model
    """The dense model itself, or a rotated or trained copy."""
    slim: Model


def prune(dense: Model, job: Job) -> Pruned:
    """Prune with the basis, method and compensation of the job's settings; `dense`, which has a hash, is not changed.

    Raises UnknownName for unknown names, BudgetError for a budget that cannot be achieved, CheckFailed if an invariant
    of the basis or of surgery does not hold.
    """
    settings = job.settings
    rotated = bases.rotate(settings.basis, dense, job.calibration, settings.own(settings.basis))
    outcome = method(settings.method, settings.own(settings.method)).prune(rotated, job)
    removal = remove(outcome.model, outcome.plan.cuts)
    repairing = compensation(settings.compensation, settings.own(settings.compensation))
    slim = repairing.repair(outcome.model, removal, job.calibration)
    source = outcome.model
    if source is not dense:
        source = source.with_info(replace(source.info, made_from=dense.info.weights_sha256)).identified()
    sha256 = source.info.weights_sha256
    plan = replace(outcome.plan, model_sha256=sha256, basis=settings.basis, compensation=settings.compensation)
    return Pruned(plan, source, slim.with_info(replace(slim.info, made_from=sha256)))
