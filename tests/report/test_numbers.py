from sdquant_cli.manifests import MetricSummary
from sdquant_cli.report import numbers


def test_numbers_align_and_know_their_good_end():
    assert numbers.decimals([31.4159, 8.0, None]) == 2
    assert numbers.decimals([0.01234]) == 5
    assert numbers.decimals([1234.5]) == 0
    assert numbers.fixed(-0.5, 2) == "\u22120.50"
    assert numbers.fixed(-0.0001, 2) == "0.00"
    assert numbers.fixed(float("inf"), 2) == "identical"
    assert numbers.distance("psnr", 20) > numbers.distance("psnr", 30)
    assert numbers.distance("lpips", 0.2) > numbers.distance("lpips", 0.1)
    assert numbers.distance("clip_score_difference", -0.2) > numbers.distance("clip_score_difference", 0.1)
    assert numbers.distance("psnr", float("inf")) is None
    assert numbers.position(0.75, 1.0, 0.5) == 0.5
    assert numbers.position(0.2, 0.0, None) is None


def test_summaries_in_words():
    summary = MetricSummary(mean=31.51234, median=31.0, ci95=(30.123, 32.2), n=4, identical=1)
    assert numbers.mean(summary) == "31.51 (1 identical)"
    assert numbers.median(summary) == "31"
    assert numbers.interval(summary) == "[30.12, 32.2]"
    assert numbers.mean(MetricSummary(mean=1e-15, n=4)) == "0"
    assert numbers.mean(MetricSummary(mean=None, n=4, identical=4)) == "identical (4)"
    assert numbers.mean(MetricSummary(mean=None, n=4)) == "not available"
    assert numbers.mean(MetricSummary(mean=None, n=4, skipped="no file")) == "skipped (no file)"
    assert numbers.mean(None) == numbers.interval(MetricSummary(mean=1, n=1)) == ""
