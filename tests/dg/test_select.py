from __future__ import annotations

import pytest

from toolkit.dg.select import source_accuracy, training_domain_validation
from toolkit.records import Evaluation


def test_the_best_mean_over_source_domains_is_selected() -> None:
    evaluations = (
        Evaluation(100, 1.0, {"art": 0.90, "photo": 0.50}),
        Evaluation(200, 0.8, {"art": 0.70, "photo": 0.80}),
        Evaluation(300, 0.6, {"art": 0.99, "photo": 0.40}),
    )
    assert training_domain_validation(evaluations).step == 200


def test_the_latest_of_ties_is_selected() -> None:
    evaluations = (
        Evaluation(100, 1.0, {"art": 0.8, "photo": 0.6}),
        Evaluation(200, 0.8, {"art": 0.6, "photo": 0.8}),
        Evaluation(300, 0.6, {"art": 0.5, "photo": 0.8}),
    )
    assert training_domain_validation(evaluations).step == 200


def test_all_domains_have_equal_weight() -> None:
    assert source_accuracy(Evaluation(1, 0.0, {"a": 1.0, "b": 0.0, "c": 0.5})) == 0.5


def test_nothing_to_select_from_is_an_error() -> None:
    with pytest.raises(ValueError, match="no evaluations"):
        training_domain_validation(())
