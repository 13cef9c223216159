from sdquant_cli.manifests import MetricsFacts, MetricSummary
from sdquant_cli.report.headline import headline, skipped

SKIPPED = MetricSummary(mean=None, n=4, skipped="needs a file")


def number(mean, **fields):
    return MetricSummary(mean=mean, n=4, **fields)


def facts(metrics, floor=None, itself=None):
    return MetricsFacts(metrics=metrics, floor=floor or {}, itself=itself or {})


def test_a_row_has_each_model_and_both_baselines():
    first = facts({"ssim": number(0.9, ci95=(0.85, 0.95))}, {"ssim": number(0.5)}, {"ssim": number(1.0)})
    second = facts({"ssim": number(0.6, ci95=(0.6, 0.6))})
    (row,) = headline([first, second])
    assert (row.name, row.better, row.unit, row.n) == ("ssim", "higher", "", 4)
    assert [cell.text for cell in row.cells] == ["0.900", "0.600", "0.500", "1.000"]
    assert [cell.interval for cell in row.cells] == ["0.850 \u2026 0.950", "", "", ""]
    positions = [cell.position for cell in row.cells]
    assert [round(position, 9) for position in positions[:2]] == [0.2, 0.8]  # 0: reference, 1: other seed
    assert positions[2:] == [None, None]


def test_text_metrics_have_no_position_because_another_seed_scores_as_well():
    one = facts({"clip_score": number(0.3)}, {"clip_score": number(0.29)}, {"clip_score": number(0.31)})
    assert [cell.position for cell in headline([one])[0].cells] == [None] * 3


def test_a_metric_is_skipped_only_if_no_model_has_a_number():
    first = facts({"lpips": SKIPPED, "fid": SKIPPED})
    second = facts({"lpips": number(0.1)})
    (row,) = headline([first, second])
    assert row.name == "lpips"
    assert row.cells[0].note == "skipped: needs a file"
    assert skipped([first, second]) == {"needs a file": ["fid"]}


def test_identical_images_are_said_in_words():
    one = facts({"psnr": number(None, identical=4)}, {"psnr": number(None)})
    assert [cell.text for cell in headline([one])[0].cells] == ["identical", "no value", "\u2013"]
    (row,) = headline([facts({"psnr": number(31.0, identical=2)})])
    assert row.cells[0].note == "2 identical"
