"""Model selection: pure functions of recorded evaluations.

Evaluations hold accuracies of source domains only, so selection cannot depend on the held-out domain.
"""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean

from toolkit.records import Evaluation


def source_accuracy(evaluation: Evaluation) -> float:
    """Validation accuracy, 0 to 1, averaged over the source domains with equal weights; of images without labels,
    agreement with the teacher."""
    return fmean((evaluation.accuracy or evaluation.agreement).values())


def training_domain_validation(evaluations: Sequence[Evaluation]) -> Evaluation:
    """The evaluation with the best source accuracy; the latest of ties.

    DomainBed's training-domain validation set (Gulrajani and Lopez-Paz, 2021).
    """
    if not evaluations:
        raise ValueError("there are no evaluations to select from")
    return max(evaluations, key=lambda evaluation: (source_accuracy(evaluation), evaluation.step))
