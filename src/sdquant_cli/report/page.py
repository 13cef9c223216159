"""What the report's page shows, as values, and the page made of them.

A section is either content or, where its artifact is absent, one sentence that says what to run.
Text is escaped by the template; `Markup` is only what `charts` drew and the package's own files.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup, escape

FOLDER = Path(__file__).parent


@dataclass(frozen=True)
class Unavailable:
    """A section that cannot be shown: a sentence that says why, commands in backticks."""

    reason: str


@dataclass(frozen=True)
class ModelColumn:
    """One quantized model of the report."""

    label: str  # unique in the page
    execution: str  # simulated, or real
    facts: dict[str, str]  # what a reader asks first: bits, method, artifact


@dataclass(frozen=True)
class Cell:
    """One number of the headline table."""

    text: str
    interval: str = ""
    note: str = ""  # identical pictures, or why there is no number
    place: float | None = None  # between the near end (0) and the floor (1)


@dataclass(frozen=True)
class MetricRow:
    name: str
    better: str  # "higher", "lower" or "near 0"
    unit: str
    n: int | None
    cells: tuple[Cell, ...]  # one a model, then floor, then itself


@dataclass(frozen=True)
class Card:
    """One prompt: a picture of each model, the amplified differences, and its scores."""

    index: int
    prompt: str
    pictures: tuple[str, ...]  # data URIs: floating-point, then one a model
    differences: tuple[str, ...]  # one a model
    scores: tuple[tuple[str, ...], ...]  # for each metric, one text a model
    distance: dict[str, float | None]  # by metric; the larger, the further from the reference


@dataclass(frozen=True)
class PictureGrid:
    """Which pictures are shown, and how."""

    sentence: str
    metrics: dict[str, str]  # name -> short name
    sort_by: str  # a metric, or "" for the order of the prompts
    width: int  # pixels of a picture
    height: int
    cards: tuple[Card, ...]


@dataclass(frozen=True)
class Chart:
    """A drawing with what it says in words."""

    caption: str
    svg: Markup
    wide: bool = False  # scrolls within the page where the page is narrow
    details: tuple[tuple[str, tuple[str, ...]], ...] = ()  # titled lists, folded away


@dataclass(frozen=True)
class LayerBits:
    """A layer of the bit map."""

    layer: str
    weights: int
    activations: int


@dataclass(frozen=True)
class BitMap:
    """The layers of one model by block, in network order."""

    label: str
    blocks: tuple[tuple[str, tuple[LayerBits, ...]], ...]


@dataclass(frozen=True)
class Ancestor:
    """One artifact of the lineage."""

    name: str  # kind/key
    digest: str
    created: str
    environment: str  # a letter
    inputs: tuple[str, ...]
    removed: bool = False


@dataclass(frozen=True)
class Lineage:
    environments: dict[str, str]  # letter -> sdquant and package versions
    artifacts: tuple[Ancestor, ...]


@dataclass(frozen=True)
class PromptDownload:
    """A prompt file to run the commands with; `href` is None where it is too large to embed."""

    name: str
    prompts: int
    sha256: str
    href: str | None


@dataclass(frozen=True)
class Reproduction:
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
    skipped: dict[str, list[str]]  # why -> metrics
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
        """The bit widths that the bit maps show."""
        maps = (item for item in self.bits if isinstance(item, BitMap))
        squares = (square for item in maps for _, block in item.blocks for square in block)
        return sorted({bits for square in squares for bits in (square.weights, square.activations)})


def render(page: Page) -> str:
    """The page as one self-contained HTML document."""
    return document("page.html.j2", page=page, style=package_text("page.css"), script=package_text("page.js"))


def package_text(name: str) -> Markup:
    """One of the package's own files."""
    return Markup((FOLDER / name).read_text())


def document(template: str, **values: object) -> str:
    """A template of the package with its values; text among them is escaped."""
    environment = Environment(
        loader=FileSystemLoader(FOLDER),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["code"] = _code
    environment.tests["absent"] = lambda section: isinstance(section, Unavailable)
    return environment.get_template(template).render(**values)


def _code(text: str) -> Markup:
    """Words in backticks as code."""
    parts = (escape(part) for part in text.split("`"))
    return Markup("").join(Markup("<code>{}</code>").format(p) if i % 2 else p for i, p in enumerate(parts))
