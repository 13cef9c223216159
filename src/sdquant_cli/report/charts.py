"""Charts as inline SVG. Colours are stand-ins that the page's style sheet replaces, for light and dark."""

import hashlib
import html
import io
import itertools
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib as mpl
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
_STYLE: Any = {
    "svg.fonttype": "none",  # text stays text: the page's font, found by search, read aloud
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


FAR_APART = 20  # ratio of step sizes from which only a logarithmic axis shows both


@dataclass(frozen=True)
class LineSeries:
    """One model's values in its colour; None leaves a gap."""

    series: int

    x: Sequence[float]
    y: Sequence[float | None]


@dataclass(frozen=True)
class ActivationRange:
    """What one layer's activation grid covers, by timestep."""

    timesteps: Sequence[float]
    low: Sequence[float]
    high: Sequence[float]
    step: Sequence[float]


def lines(
    title: str, x_label: str, series: Sequence[LineSeries], size: tuple[float, float] = (4.0, 2.5)
) -> Markup:
    """One line a model."""
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=size)
        axes = figure.add_subplot(title=title, xlabel=x_label)
        for line in series:
            y = [math.nan if value is None else value for value in line.y]
            marker = "o" if len(y) < 12 else None
            axes.plot(line.x, y, color=SERIES[line.series % len(SERIES)], marker=marker, markersize=3)
        axes.margins(x=0.02)
        axes.ticklabel_format(useOffset=False)
        axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
        return _svg(figure, f"{title} by {x_label}")


def sensitivity(scores: Mapping[str, float], top: Sequence[str], bottom: Sequence[str]) -> Markup:
    """One bar a layer in network order, both ends of the ranking marked (the paper's Fig. 8)."""
    names = network_order(scores)
    values = [scores[name] for name in names]
    positive = [value for value in values if value > 0]
    least = min(positive, default=1.0) / 2
    colours = dict.fromkeys(bottom, BOTTOM) | dict.fromkeys(top, TOP)
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(11.5, 3.2))
        axes = figure.add_subplot(ylabel="sensitivity score", yscale="log")
        bars = axes.bar(
            range(len(names)),
            [max(value, least) - least for value in values],
            width=0.82,
            bottom=least,
            color=[colours.get(name, BAR) for name in names],
        )
        axes.set_ylim(least, max(values, default=1.0) * 1.6 + least)
        axes.set_xlim(-1, len(names))
        _mark_blocks(axes, names)
        _name_ends(axes, top, bottom)
        titles = {}
        for i, bar in enumerate(bars):
            bar.set_gid(f"bar-{i}")
            titles[f"bar-{i}"] = f"{names[i]}: {values[i]:.3g}"
        return _svg(figure, "Sensitivity by layer in network order", titles)


def _mark_blocks(axes: Axes, names: Sequence[str]) -> None:
    """A line where a block begins, its name below."""
    axes.tick_params(axis="x", length=0)
    starts = [i for i, name in enumerate(names) if i == 0 or block_of(name) != block_of(names[i - 1])]
    ends = [*starts[1:], len(names)]
    for start in starts[1:]:
        axes.axvline(start - 0.5, color=LINE, linewidth=0.8)
    wide = [(start, end) for start, end in zip(starts, ends, strict=True) if end - start > 0.03 * len(names)]
    axes.set_xticks([(start + end - 1) / 2 for start, end in wide], [_label(names[s]) for s, _ in wide])


def _label(layer: str) -> str:
    """`up 3`: the name of a block, short enough to stand below it."""
    return block_of(layer).replace("_blocks.", " ").replace("_block", "")


def _name_ends(axes: Axes, top: Sequence[str], bottom: Sequence[str]) -> None:
    for colour, text, place in (
        (TOP, f"top 5% ({len(top)})", 0.0),
        (BOTTOM, f"bottom 5% ({len(bottom)})", 0.1),
    ):
        axes.text(place, 1.03, f"\u25a0 {text}", color=colour, fontsize=9, transform=axes.transAxes)


def activation_range(layer: str, bands: Sequence[ActivationRange]) -> Markup:
    """The range a layer's grid covers, and below it the step size, from the first timestep to the last."""
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(4.0, 3.1))
        above, below = figure.subplots(2, 1, sharex=True, height_ratios=(2, 1))
        for colour, band in zip(itertools.cycle(SERIES), bands, strict=False):
            above.fill_between(
                band.timesteps, band.low, band.high, color=colour, alpha=0.16 / len(bands), linewidth=0
            )
            for edge in (band.low, band.high):
                above.plot(band.timesteps, edge, color=colour, linewidth=1.2)
            below.plot(band.timesteps, band.step, color=colour)
        above.axhline(0, color=MUTED, linewidth=0.7)
        above.set_title(shortened(layer))
        above.set_ylabel("range")
        below.set_ylabel("step size")
        below.set_xlabel("timestep: noise to picture")
        steps = [step for band in bands for step in band.step]
        if max(steps) > FAR_APART * min(steps):
            below.set_yscale("log")
        else:
            below.set_ylim(bottom=0)
        below.invert_xaxis()
        figure.align_ylabels()
        return _svg(figure, f"Activation range and step size of {layer} by timestep")


def network_order(layers: Iterable[str]) -> list[str]:
    """Layers as a latent meets their blocks; diffusers names the middle block last."""
    order = ("conv_in", "down_blocks", "mid_block", "up_blocks", "conv_out")
    place = {name: i for i, name in enumerate(order)}
    return sorted(layers, key=lambda layer: place.get(layer.partition(".")[0], len(order) // 2))


def block_of(layer: str) -> str:
    """`up_blocks.3` of a layer's path: where it stands in the network."""
    parts = layer.split(".")
    return ".".join(parts[:2]) if parts[0].endswith("_blocks") else parts[0]


def shortened(layer: str, limit: int = 44) -> str:
    """A layer's path that fits above a chart: the middle is left out."""
    if len(layer) <= limit:
        return layer
    kept = limit - 3
    return f"{layer[: kept // 2]}...{layer[-(kept - kept // 2) :]}"


def _svg(figure: Figure, description: str, titles: Mapping[str, str] | None = None) -> Markup:
    """The figure as an element of a page, with the page's colours; `titles` are shown on hover, by id."""
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
    width, height = (72 * side for side in figure.get_size_inches())
    opening = f'<svg role="img" aria-label="{html.escape(description)}" viewBox="0 0 {width:g} {height:g}" '
    opening += 'xmlns:xlink="http://www.w3.org/1999/xlink">'
    return Markup(opening + text.partition(">")[2])
