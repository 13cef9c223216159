from dataclasses import replace

import pytest
from jinja2 import UndefinedError

from sdquant_cli.report import page

EMPTY = page.Page(
    title="w4a8 compared with floating point",
    setting={"steps": "2"},
    models=(page.ModelColumn("w4a8", "simulated", {"bits": "w4a8"}),),
    headline=(),
    skipped={},
    has_floor=False,
    grid=page.PictureGrid("All 0 images.", {}, "", 64, 64, ()),
    drift=(),
    sensitivity=(),
    activations=(),
    losses=(),
    bits=(),
    frontier=(),
    lineage=page.Lineage({}, ()),
    reproduction=page.Unavailable("Not available: `sdquant sample` & more."),
)


def test_a_section_without_content_says_why_with_commands_as_code():
    missing = page.Unavailable("w4a8: not measured; run `sdquant evaluate --drift`.")
    text = page.render(replace(EMPTY, drift=[missing]))
    assert "not measured; run <code>sdquant evaluate --drift</code>." in text
    assert "<code>sdquant sample</code> &amp; more." in text


def test_a_dot_shows_where_a_number_lies():
    cells = (page.Cell("0.9", "0.8 \u2026 1", "", 0.25), page.Cell("0.5"), page.Cell("1"))
    text = page.render(replace(EMPTY, headline=(page.MetricRow("ssim", "higher", "", 4, cells),)))
    assert "25.0% of the way from the self-baseline to the other seed" in text
    assert text.count('class="scale"') == 1


def test_text_is_escaped():
    cell = page.Cell("<b>", note='"&"')
    text = page.render(replace(EMPTY, headline=(page.MetricRow("ssim", "higher", "", 4, (cell,)),)))
    assert '<span class="value">&lt;b&gt;</span>' in text


def test_the_legend_has_every_width_of_the_bit_maps():
    maps = [
        page.BitMap("w4a8", (("conv_in", (page.LayerBits("conv_in", 8, 16), page.LayerBits("b", 4, 8))),)),
        page.Unavailable("none"),
    ]
    assert replace(EMPTY, bits=maps).widths == [4, 8, 16]
    assert EMPTY.widths == []
    floating = page.LayerBits("conv_in", 32, 32)
    text = page.render(replace(EMPTY, bits=[page.BitMap("w8a8", (("conv_in", (floating,)),))]))
    assert 'title="conv_in: floating point"' in text
    assert "</i>floating point</span>" in text


def test_a_template_that_names_an_unknown_value_is_an_error():
    with pytest.raises(UndefinedError):
        page.document("page.html.j2", page=EMPTY, style="")
