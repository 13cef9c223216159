import json

import numpy as np
import pytest
from scipy import stats

from sdquant_cli.manifests import MetricsFacts, MetricSummary
from sdquant_cli.metrics.catalog import CATALOG
from sdquant_cli.metrics.scores import (
    bootstrap_interval,
    clip_score,
    feature_distance,
    over_calibrations,
    paired_difference,
    summarise,
)
from sdquant_cli.report.markdown import metrics_summary


def test_identical_pictures_are_counted_and_left_out_of_the_mean():
    found = summarise(np.array([30.0, np.inf, 20.0]), CATALOG["psnr"].distance)
    assert (found.mean, found.identical, found.n) == (25, 1, 3)
    assert found.worst == (2, 0, 1)
    assert summarise(np.array([1.0, 2.0, 9.0]), CATALOG["ssim"].distance).median == 2
    everything = summarise(np.array([np.inf, np.inf]), CATALOG["psnr"].distance)
    assert (everything.mean, everything.ci95, everything.identical) == (None, None, 2)
    json.dumps(everything.model_dump(mode="json"), allow_nan=False)


def test_the_worst_ten_follow_the_direction_of_the_metric():
    values = np.arange(15.0)
    assert summarise(values, CATALOG["ssim"].distance).worst == tuple(range(10))
    assert summarise(values, CATALOG["lpips"].distance).worst == tuple(range(14, 4, -1))
    around = np.array([-3.0, 0.0, 2.0])
    assert summarise(around, CATALOG["clip_score_difference"].distance).worst == (0, 2, 1)


def test_the_interval_covers_the_mean_as_often_as_it_says():
    generator = np.random.default_rng(0)
    samples = generator.normal(1, 2, (200, 60))
    hits = [low <= 1 <= high for low, high in map(bootstrap_interval, samples)]
    assert 0.88 <= np.mean(hits) <= 0.99


def test_cosine_scores():
    a, b = np.array([[2, 0], [0.6, 0.8]]), np.array([[0, 1], [3, 4]])  # of any length
    np.testing.assert_allclose(feature_distance(a, b), [1, 0], atol=1e-12)
    np.testing.assert_allclose(clip_score(a, np.array([[-1, 0], [5, 0]])), [0, 60])


def test_the_markdown_summary_has_every_metric_and_gate():
    facts = MetricsFacts(
        metrics={
            "psnr": MetricSummary(mean=31.5, median=31.0, ci95=(30.1, 32.2), n=4, identical=1),
            "lpips": MetricSummary(mean=None, n=0, skipped="needs a file"),
        },
        floor={"psnr": MetricSummary(mean=12.0, n=4)},
        itself={"psnr": MetricSummary(mean=None, n=4, identical=4)},
    )
    text = metrics_summary(facts, "Distance (metrics/abc)", {"psnr>=25": True, "psnr>=40": False})
    assert text.startswith("### Distance (metrics/abc)\n")
    assert "| psnr | 31.5 (1 identical) | [30.1, 32.2] | 31 | 12 | identical (4) | 4 |" in text
    assert "skipped (needs a file)" in text
    assert "`psnr>=40` **not met**" in text


def test_a_difference_is_of_pairs_where_both_are_finite():
    found = paired_difference(np.array([3.0, np.inf, 5.0, 1.0]), np.array([1.0, 2.0, 1.0, np.inf]))
    assert (found.mean, found.median, found.n) == (3, 3, 2)
    assert found.ci95[0] >= 2
    assert found.ci95[1] <= 4
    assert paired_difference(np.array([np.inf]), np.array([np.inf])) is None


def test_several_calibrations_have_students_interval():
    each = [MetricSummary(mean=value, median=value + 1, n=64, identical=2) for value in (1.0, 2.0, 6.0)]
    found = over_calibrations(each)
    assert (found.mean, found.median, found.n, found.identical) == (3, 4, 3, 6)
    low, high = stats.t.interval(0.95, 2, loc=3, scale=stats.sem([1, 2, 6]))
    assert found.ci95 == pytest.approx((low, high))
    one = over_calibrations([MetricSummary(mean=None, n=64, identical=64), each[2]])
    assert (one.mean, one.ci95, one.n, one.identical) == (6, None, 1, 66)
    none = over_calibrations(2 * [MetricSummary(mean=None, n=0, skipped="needs a file")])
    assert (none.mean, none.skipped) == (None, "needs a file")
