"""The report's page: its content as values, and the HTML document.

A section is either content or, if its artifact is missing, one sentence that says what to run.
The template escapes all text; `Markup` is only what `charts` drew and the package's own files.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup, escape

from ..types import FLOATING

FOLDER = Path(__file__).parent


@dataclass(frozen=True)
class Unavailable:
    """A section that cannot be shown: a sentence that says why, with commands in backticks."""

    reason: str


@dataclass(frozen=True)
class ModelColumn:
    """One quantized model of the report."""

    label: str  # unique in the page
    execution: str  # simulated, or real
    facts: dict[str, str]  # what a reader asks first: bits, method, layers


@dataclass(frozen=True)
class Cell:
    """One number of the headline table."""

    text: str
    interval: str = ""
    note: str = ""  # the number of identical images, or why there is no number
    position: float | None = None  # between the self-baseline (0) and the other seed (1)


@dataclass(frozen=True)
class MetricRow:
    """One metric of the headline table."""

    name: str
    better: str  # "higher", "lower" or "near 0"
    unit: str
    n: int | None
    cells: tuple[Cell, ...]  # one per model, then the other seed, then the reference itself


@dataclass(frozen=True)
class Card:
    """One prompt: each model's image, the amplified differences, and the scores."""

    index: int
    prompt: str
    pictures: tuple[str, ...]  # data URIs: floating point, then one per model
    differences: tuple[str, ...]  # one per model
    scores: tuple[tuple[str, ...], ...]  # for each metric, one text per model
    distance: dict[str, float | None]  # by metric; larger is further from the reference


@dataclass(frozen=True)
class PictureGrid:
    """The images that are shown, with what is said of them."""

    sentence: str
    metrics: dict[str, str]  # name -> short name
    sort_by: str  # a metric, or "" for the order of the prompts
    width: int  # pixels of an image
    height: int
    cards: tuple[Card, ...]
    reference: str = "FP"  # the label of the first image of a card
    order: str = "order of the prompts"  # what sorting by no metric is called


@dataclass(frozen=True)
class Chart:
    """A chart with its caption."""

    caption: str
    svg: Markup
    wide: bool = False  # scrolls sideways on a narrow page
    details: tuple[tuple[str, tuple[str, ...]], ...] = ()  # titled lists, folded away


@dataclass(frozen=True)
class LayerBits:
    """A layer of the bit map."""

    layer: str
    weights: int
    activations: int

    @property
    def bits(self) -> str:
        """Its bits in words."""
        if self.weights == FLOATING.weights:
            return _width(self.weights)
        return f"w{self.weights} a{self.activations}"


@dataclass(frozen=True)
class BitMap:
    """The layers of one model by block, in network order."""

    label: str
    blocks: tuple[tuple[str, tuple[LayerBits, ...]], ...]


@dataclass(frozen=True)
class Ancestor:
    """One artifact behind the page."""

    name: str  # kind/key
    digest: str
    created: str
    environment: str  # a letter
    inputs: tuple[str, ...]
    removed: bool = False


@dataclass(frozen=True)
class Lineage:
    """All artifacts behind the page."""

    environments: dict[str, str]  # letter -> sdquant and package versions
    artifacts: tuple[Ancestor, ...]


@dataclass(frozen=True)
class PromptDownload:
    """A prompt file that the commands read; `href` is None if it is too large to embed."""

    name: str
    prompts: int
    sha256: str
    href: str | None


@dataclass(frozen=True)
class Reproduction:
    """The commands that compute the page's numbers again, and what they need."""

    commands: tuple[str, ...]
    prompts: tuple[PromptDownload, ...]
    remarks: tuple[str, ...]


@dataclass(frozen=True)
class Page:
    """The whole report."""

    title: str
    setting: dict[str, str]
    models: tuple[ModelColumn, ...]
    headline: tuple[MetricRow, ...]
    skipped: dict[str, list[str]]  # reason -> metrics
    has_floor: bool
    grid: PictureGrid
    drift: Sequence[Chart | Unavailable]
    sensitivity: Sequence[Chart | Unavailable]
    activations: Sequence[Chart | Unavailable]
    losses: Sequence[Chart | Unavailable]
    bits: Sequence[BitMap | Unavailable]
    frontier: Sequence[Chart | Unavailable]
    lineage: Lineage
    reproduction: Reproduction | Unavailable

    @property
    def widths(self) -> list[int]:
        """The bit widths that the bit maps show, in ascending order."""
        widths = set()
        for bit_map in self.bits:
            for _, layers in bit_map.blocks if isinstance(bit_map, BitMap) else ():
                for layer in layers:
                    widths |= {layer.weights, layer.activations}
        return sorted(widths)


def render(page: Page) -> str:
    """Return the page as one self-contained HTML document."""
    return document("page.html.j2", page=page, style=package_text("page.css"), script=package_text("page.js"))


def package_text(name: str) -> Markup:
    """Return one of the package's own files."""
    return Markup((FOLDER / name).read_text())


def document(template: str, **values: object) -> str:
    """Fill a template of the package with values; text among them is escaped."""
    environment = Environment(
        loader=FileSystemLoader(FOLDER),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["code"] = _code
    environment.filters["width"] = _width
    environment.tests["unavailable"] = lambda section: isinstance(section, Unavailable)
    return environment.get_template(template).render(**values)


def _code(text: str) -> Markup:
    """Return text with the words in backticks as code."""
    result = Markup("")
    for i, part in enumerate(text.split("`")):
        result += Markup("<code>{}</code>").format(part) if i % 2 else escape(part)
    return result


def _width(bits: int) -> str:
    """Return a bit width in words."""
    return "floating point" if bits == FLOATING.weights else f"{bits} bits"
