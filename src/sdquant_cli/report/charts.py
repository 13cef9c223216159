"""Charts as inline SVG. Their colours are placeholders for those of the style sheet, light or dark."""

import hashlib
import html
import io
import itertools
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import matplotlib as mpl
import numpy as np
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

INK, MUTED, LINE = "#010101", "#020202", "#030303"
BAR, TOP, BOTTOM = "#040404", "#050505", "#060606"
SERIES = ("#0a0a01", "#0a0a02", "#0a0a03", "#0a0a04", "#0a0a05", "#0a0a06")
_VARIABLES = {
    INK: "--ink",
    MUTED: "--muted",
    LINE: "--line",
    BAR: "--bar",
    TOP: "--top",
    BOTTOM: "--bottom",
    **{colour: f"--series-{i}" for i, colour in enumerate(SERIES)},
}
_STYLE = mpl.RcParams(
    {
        "svg.fonttype": "none",  # text stays text: searchable, readable aloud, in the page's font
        "svg.hashsalt": "sdquant",  # the same chart is the same bytes
        "font.size": 9,
        "axes.edgecolor": LINE,
        "axes.labelcolor": MUTED,
        "axes.titlecolor": INK,
        "axes.titlesize": 9.5,
        "axes.titlelocation": "left",
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.grid": True,
        "axes.grid.axis": "y",
        "axes.axisbelow": True,
        "grid.color": LINE,
        "grid.linewidth": 0.7,
        "xtick.color": LINE,
        "ytick.color": LINE,
        "xtick.labelcolor": MUTED,
        "ytick.labelcolor": MUTED,
        "text.color": INK,
        "lines.linewidth": 1.6,
        "figure.constrained_layout.use": True,
    }
)


FAR_APART = 20  # ratio of scales from which the axis is logarithmic


@dataclass(frozen=True)
class LineSeries:
    """One model's values in its colour; None leaves a gap."""

    series: int  # which model
    x: Sequence[float]
    y: Sequence[float | None]


@dataclass(frozen=True)
class ActivationRange:
    """The range of a layer's activation grid, and its scale, by timestep (rows)."""

    timesteps: Sequence[float]
    low: Sequence[float]
    high: Sequence[float]
    scale: Sequence[float]


def lines(
    title: str, x_label: str, series: Sequence[LineSeries], size: tuple[float, float] = (4.0, 2.5)
) -> Markup:
    """Draw one line per model."""
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=size)
        axes = figure.add_subplot(title=title, xlabel=x_label)
        for line in series:
            y = np.array(line.y, dtype=float)  # None becomes nan
            marker = "o" if len(y) < 12 else None
            axes.plot(line.x, y, color=SERIES[line.series % len(SERIES)], marker=marker, markersize=3)
        axes.margins(x=0.02)
        axes.ticklabel_format(useOffset=False)
        axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
        return _svg(figure, f"{title} by {x_label}")


def sensitivity(scores: Mapping[str, float], top: Sequence[str], bottom: Sequence[str]) -> Markup:
    """Draw one bar per layer in network order, both ends of the ranking marked (the paper's Fig. 8).

    A score that is not positive has a bar without height on the logarithmic axis.
    """
    names = network_order(scores)
    values = [scores[name] for name in names]
    least = min((value for value in values if value > 0), default=1.0) / 2
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(11.5, 3.2))
        axes = figure.add_subplot(ylabel="sensitivity score", yscale="log")
        bars = axes.bar(
            range(len(names)),
            np.maximum(values, least) - least,
            width=0.82,
            bottom=least,
            color=_bar_colours(names, top, bottom),
        )
        axes.set_ylim(least, max(values, default=1.0) * 1.6 + least)
        axes.set_xlim(-1, len(names))
        _mark_blocks(axes, names)
        _explain_colours(axes, top, bottom)
        titles = {}
        for i, bar in enumerate(bars):
            bar.set_gid(f"bar-{i}")
            titles[f"bar-{i}"] = f"{names[i]}: {values[i]:.3g}"
        return _svg(figure, "Sensitivity by layer in network order", titles)


def _bar_colours(names: Sequence[str], top: Sequence[str], bottom: Sequence[str]) -> list[str]:
    colours = dict.fromkeys(names, BAR)
    colours |= dict.fromkeys(bottom, BOTTOM)
    colours |= dict.fromkeys(top, TOP)
    return list(colours.values())


def _mark_blocks(axes: Axes, names: Sequence[str]) -> None:
    """Draw a line where a block begins, and write the names of wide blocks below."""
    ticks, labels = [], []
    start = 0
    for block, layers in itertools.groupby(names, block_of):
        end = start + len(list(layers))
        if start > 0:
            axes.axvline(start - 0.5, color=LINE, linewidth=0.8)
        if end - start > 0.03 * len(names):
            ticks.append((start + end - 1) / 2)
            labels.append(block.replace("_blocks.", " ").replace("_block", ""))  # as in `up 3`
        start = end
    axes.tick_params(axis="x", length=0)
    axes.set_xticks(ticks, labels)


def _explain_colours(axes: Axes, top: Sequence[str], bottom: Sequence[str]) -> None:
    for colour, text, left in (
        (TOP, f"top 5% ({len(top)})", 0.0),
        (BOTTOM, f"bottom 5% ({len(bottom)})", 0.1),
    ):
        axes.text(left, 1.03, f"\u25a0 {text}", color=colour, fontsize=9, transform=axes.transAxes)


def activation_range(layer: str, ranges: Sequence[ActivationRange | None]) -> Markup:
    """Draw the range of a layer's grid, and below it the scale, from noise to image.

    A model without calibrated ranges is None and leaves its colour unused.
    """
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(4.0, 3.1))
        above, below = figure.subplots(2, 1, sharex=True, height_ratios=(2, 1))
        scales: list[float] = []
        for colour, one in zip(itertools.cycle(SERIES), ranges, strict=False):
            if one is None:
                continue
            alpha = 0.16 / len(ranges)
            above.fill_between(one.timesteps, one.low, one.high, color=colour, alpha=alpha, linewidth=0)
            above.plot(one.timesteps, one.low, color=colour, linewidth=1.2)
            above.plot(one.timesteps, one.high, color=colour, linewidth=1.2)
            below.plot(one.timesteps, one.scale, color=colour)
            scales += one.scale
        above.axhline(0, color=MUTED, linewidth=0.7)
        above.set_title(shortened(layer))
        above.set_ylabel("range")
        below.set_ylabel("scale")
        below.set_xlabel("timestep: noise to image")
        if max(scales) > FAR_APART * min(scales):
            below.set_yscale("log")
        else:
            below.set_ylim(bottom=0)
        below.invert_xaxis()
        figure.align_ylabels()
        return _svg(figure, f"Activation range and scale of {layer} by timestep")


def network_order(layers: Iterable[str]) -> list[str]:
    """Return layers in the order of the computation; diffusers names the middle block last."""
    order = ["conv_in", "down_blocks", "mid_block", "up_blocks", "conv_out"]

    def position(layer: str) -> int:
        part = layer.partition(".")[0]
        return order.index(part) if part in order else len(order) // 2

    return sorted(layers, key=position)


def block_of(layer: str) -> str:
    """Return the block of a layer's path, such as `up_blocks.3`."""
    parts = layer.split(".")
    return ".".join(parts[:2]) if parts[0].endswith("_blocks") else parts[0]


def shortened(layer: str, limit: int = 44) -> str:
    """Return a layer's path that fits above a chart, with its middle left out if it is too long."""
    if len(layer) <= limit:
        return layer
    kept = limit - 3
    return f"{layer[: kept // 2]}...{layer[-(kept - kept // 2) :]}"


def _svg(figure: Figure, description: str, titles: Mapping[str, str] | None = None) -> Markup:
    """Return a figure as an SVG element with the page's colours; `titles`, by id, are shown on hover."""
    buffer = io.StringIO()
    with mpl.rc_context(_STYLE):
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>|<defs>\s*<style.*?</style>\s*</defs>", "", text, flags=re.S)
    for name, title in (titles or {}).items():
        text = text.replace(f'<g id="{name}">', f"<g><title>{html.escape(title)}</title>", 1)
    text = re.sub(r'<g id="[^"]+">', "<g>", text)  # one page holds many charts
    text = re.sub(r" ?font-family: [^;\"]*;?", "", text)  # the page's own font
    prefix = hashlib.sha256(text.encode()).hexdigest()[:8]
    text = re.sub(r'(id="|href="#|url\(#)', rf"\g<1>{prefix}-", text)
    for colour, variable in _VARIABLES.items():
        text = text.replace(colour, f"var({variable})")
    width, height = 72 * figure.get_size_inches()
    opening = f'<svg role="img" aria-label="{html.escape(description)}" viewBox="0 0 {width:g} {height:g}" '
    opening += 'xmlns:xlink="http://www.w3.org/1999/xlink">'
    return Markup(opening + text.partition(">")[2])
