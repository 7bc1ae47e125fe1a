"""Pruning from the dense to the slim model: basis, method, merging of tokens, surgery, compensation."""

from __future__ import annotations

from dataclasses import dataclass, replace

from toolkit.errors import BadInput
from toolkit.models.model import Model
from toolkit.models.surgery import nothing_removed, remove
from toolkit.models.tokens import with_tokens
from toolkit.prune import bases
from toolkit.prune.compensate import compensation
from toolkit.prune.methods import Job, Outcome, check_quantity, method, no_training
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

    Raises UnknownName for unknown names, BadInput for a method that trains if the job cannot,
    RecipeError for a budget in a quantity that the method does not support, BudgetError for a budget
    that cannot be achieved, CheckFailed if an invariant of the basis or of surgery does not hold.
    """
    settings = job.settings
    chosen = method(settings.method, settings.own(settings.method))
    if chosen.trains and job.train is no_training:
        raise BadInput(
            f"prune.method {settings.method!r} trains the model, but there are no training images",
            "`toolkit prune` trains on a folder of images",
        )
    chosen.check(settings)
    check_quantity(settings.method, job.budget)
    rotated = bases.rotate(settings.basis, dense, job.calibration, settings.own(settings.basis))
    outcome = chosen.prune(rotated, job)
    slim = _slim(outcome, job)
    source = outcome.model
    if source is not dense:
        source = source.with_info(replace(source.info, made_from=dense.info.weights_sha256)).identified()
    sha256 = source.info.weights_sha256
    plan = replace(outcome.plan, model_sha256=sha256, basis=settings.basis, compensation=settings.compensation)
    return Pruned(plan, source, slim.with_info(replace(slim.info, made_from=sha256)))


def _slim(outcome: Outcome, job: Job) -> Model:
    """The model of a plan: fewer tokens, surgery, compensation."""
    plan, settings = outcome.plan, job.settings
    reduced = with_tokens(outcome.model, plan.merges, plan.trim_last_block)
    if not plan.cuts and not plan.merges:
        return reduced
    removal = remove(reduced, plan.cuts) if plan.cuts else nothing_removed(reduced)
    repairing = compensation(settings.compensation, settings.own(settings.compensation))
    return repairing.repair(reduced, removal, job.calibration.at(reduced.info.image_size))
