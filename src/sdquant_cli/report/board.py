"""The leaderboard's pages, as values: one table in Markdown, and in HTML with pictures below it."""

from dataclasses import dataclass

from .page import Cell, document, package_text

BETTER = {"higher": "\u2191", "lower": "\u2193", "near 0": "\u2192 0"}

TITLE = "# Leaderboard of calibration methods"  # that the Markdown table begins with


@dataclass(frozen=True)
class Column:
    title: str
    better: str = ""  # which end is good: "higher", "lower", "near 0"; empty: a cost

    @property
    def heading(self) -> str:
        return f"{self.title} {BETTER[self.better]}" if self.better else self.title


@dataclass(frozen=True)
class TableRow:
    """A method at one number of bits, or an end of the scale."""

    method: str
    bits: str
    cells: tuple[Cell, ...]  # one a column

    @property
    def words(self) -> list[str]:
        return [self.method, self.bits, *(cell.text for cell in self.cells)]


@dataclass(frozen=True)
class Table:
    columns: tuple[Column, ...]
    lines: tuple[TableRow, ...]
    failed: dict[str, str]  # row -> why it has no line
    ends: tuple[TableRow, ...]  # what other noise gives, and the reference itself

    def plain(self) -> tuple[list[str], list[list[str]]]:
        """Headings and rows in words; a row that failed says so in its first number's place."""
        width = len(self.columns)
        failed = [
            [*row.rsplit(" ", 1), f"failed: {why}", *[""] * (width - 1)] for row, why in self.failed.items()
        ]
        headings = ["method", "bits", *(column.heading for column in self.columns)]
        return headings, [*(line.words for line in self.lines), *failed, *(line.words for line in self.ends)]


@dataclass(frozen=True)
class PictureStrip:
    """One prompt: the floating-point picture and every row's, of the same noise."""

    prompt: str
    names: tuple[str, ...]
    pictures: tuple[str, ...]  # data URIs, one a name
    scores: tuple[str, ...]  # one a name


@dataclass(frozen=True)
class Board:
    """The whole page."""

    command: str
    setting: dict[str, str]
    images: int
    table: Table
    methods: dict[str, str]  # where each is described
    strips: tuple[PictureStrip, ...]
    encoding: str
    width: int  # pixels of a picture
    height: int

    @property
    def captions(self) -> tuple[str, ...]:
        return (
            f"Means, and medians where named, over {self.images} pictures against the floating-point model's "
            "own of the same prompts and noise, simulated execution. Ordered by PSNR within what --bits "
            "asked for; rows use the bits of their own that the last two columns tell, and losses and "
            "iterations of their method, so a difference is not of the method alone. Beside the first: "
            "picture by picture, the mean difference and its 95% interval over pictures of one calibration.",
            "A few pictures that turn out as other ones outweigh the rest in FID and in a mean of distances, "
            "not in a median. FID depends on the number of pictures.",
            "Seconds and memory are of the calibration alone, without drawing its latents and pictures or "
            "ranking layers; an interrupted one counts up to its last checkpoint, and on from there. Memory "
            "is the largest resident set of the process: libraries, and some of what earlier rows left, "
            "included. Bits are means: of weights over their number, of activations over layers and steps.",
        )


def html(board: Board) -> str:
    """One self-contained HTML document."""
    style = package_text("page.css") + package_text("board.css")
    return document("board.html.j2", board=board, style=style)


def markdown(board: Board) -> str:
    """The table, with what it needs to be read; no pictures."""
    headings, rows = board.table.plain()
    lines = [" | ".join(cell.replace("|", r"\|") for cell in line) for line in (headings, *rows)]
    lines.insert(1, " | ".join(["---"] * len(headings)))
    cited = [f"- `{name}`: {cites}" for name, cites in board.methods.items()]
    setting = ", ".join(f"{name} {value}" for name, value in board.setting.items())
    return "\n".join(
        [
            TITLE,
            "",
            f"    {board.command}",
            "",
            f"{setting[:1].upper()}{setting[1:]}.",
            "",
            *(f"| {line} |" for line in lines),
            "",
            *(paragraph for caption in board.captions for paragraph in (caption, "")),
            *cited,
            "",
        ]
    )
