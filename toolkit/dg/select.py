"""Which state of training is kept: pure functions of what was recorded.

Records hold accuracies of source domains only, so nothing here can look at the domain that is held out.
"""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean

from toolkit.records import Evaluation


def source_accuracy(evaluation: Evaluation) -> float:
    """Mean over the source domains of the accuracy on their validation images, 0 to 1; every domain counts the same."""
    return fmean(evaluation.accuracy.values())


def training_domain_validation(evaluations: Sequence[Evaluation]) -> Evaluation:
    """The evaluation with the best source accuracy; of equals the latest.

    DomainBed's training-domain validation set (Gulrajani and Lopez-Paz, 2021).
    """
    if not evaluations:
        raise ValueError("there is no evaluation to select from")
    return max(evaluations, key=lambda evaluation: (source_accuracy(evaluation), evaluation.step))
