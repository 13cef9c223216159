import pytest

from sdquant_cli.errors import UsageProblem
from sdquant_cli.report.comparison import labelled
from tests.report.values import compared_model


def labels(*models):
    return [model.label for model in labelled(models)]


def test_labels_are_as_short_as_they_can_be():
    w4, mixed = compared_model(key="a" * 20), compared_model(mixed=True, key="b" * 20)
    assert labels(w4, mixed) == ["w4a8", "w4a8 mixed"]
    assert labels(w4, compared_model(method="pcr", key="c" * 20)) == ["w4a8 rtn", "w4a8 pcr"]
    assert labels(w4, compared_model(key="d" * 20)) == ["w4a8 aaaaaa", "w4a8 dddddd"]


def test_models_that_cannot_be_compared_are_refused():
    first, second = compared_model(key="a", seed=0), compared_model(key="b", seed=1)
    reason = "metrics/b: seed is 1, but 0 in metrics/a; metrics with different seed cannot be compared"
    with pytest.raises(UsageProblem, match=reason):
        labelled([first, second])
    with pytest.raises(UsageProblem, match="metrics/a: is named twice"):
        labelled([first, first])
