import re

import pytest

from sdquant_cli.report import charts

LAYERS = ("conv_in", "down_blocks.0.a", "down_blocks.0.b", "up_blocks.0.a", "conv_out", "mid_block.a")


def test_layers_are_in_the_order_of_the_computation():
    assert charts.network_order(LAYERS) == [*LAYERS[:3], "mid_block.a", "up_blocks.0.a", "conv_out"]
    # a transformer's blocks stay in module order, between the UNet's names
    blocks = ["transformer_blocks.0.q", "transformer_blocks.1.q"]
    assert charts.network_order(["conv_out", *blocks, "conv_in"]) == ["conv_in", *blocks, "conv_out"]


@pytest.mark.parametrize(
    ("layer", "block"),
    [("up_blocks.3.resnets.0.conv1", "up_blocks.3"), ("mid_block.resnets.0", "mid_block"), ("conv_in",) * 2],
)
def test_the_block_of_a_layer(layer, block):
    assert charts.block_of(layer) == block


def test_a_long_name_loses_its_middle():
    assert charts.shortened("conv_in") == "conv_in"
    short = charts.shortened("a" * 30 + "b" * 30)
    assert len(short) == 44
    assert re.fullmatch("a+[.]{3}b+", short)


def test_lines_have_a_colour_per_model_and_a_gap_for_none():
    svg = charts.lines("loss", "iteration", [charts.LineSeries(0, [1, 2, 3], [3, 2, 1])])
    assert "var(--series-0)" in svg
    assert "var(--series-1)" not in svg
    assert 'aria-label="loss by iteration"' in svg
    gap = charts.lines("loss", "iteration", [charts.LineSeries(0, [1, 2, 3], [3, None, 1])])
    assert path_of(gap).count("M") == path_of(svg).count("M") + 1


def path_of(svg: str) -> str:
    """The line in the first series' colour."""
    return re.search(r'<path d="([^"]*)"[^>]*var\(--series-0\)', svg)[1]


def test_every_layer_has_a_bar_with_its_name_and_the_ends_have_their_colour():
    scores = dict(zip(LAYERS, (5.0, 1.0, 0.0, -1.0, 2.0, 3.0), strict=True))  # some without height
    svg = charts.sensitivity(scores, top=["conv_in"], bottom=["up_blocks.0.a"])
    assert re.findall("<title>([^:]*):", svg) == charts.network_order(LAYERS)
    assert "top 5% (1)" in svg
    bars = re.findall(r"<title>[^<]*</title>.*?var\(--(\w+)\)", svg, flags=re.S)
    assert bars == ["top", "bar", "bar", "bar", "bottom", "bar"]


@pytest.mark.parametrize(("largest", "logarithmic"), [(1.0, False), (100.0, True)])
def test_scales_that_are_far_apart_have_a_logarithmic_axis(largest, logarithmic):
    one = charts.ActivationRange([1, 500, 999], [-1, -2, -3], [1, 2, 3], [0.5, 0.7, largest])
    svg = charts.activation_range("conv_in", [one])
    assert "Activation range and scale of conv_in by timestep" in svg
    assert bool(re.search(r"10\^\{|mathdefault", svg)) is logarithmic


def test_ids_of_two_charts_never_meet():
    first, second = (charts.lines(t, "x", [charts.LineSeries(0, [1, 2], [1, 2])]) for t in ("one", "two"))
    ids = re.findall('id="([^"]*)"', first)
    assert ids
    assert not set(ids) & set(re.findall('id="([^"]*)"', second))
