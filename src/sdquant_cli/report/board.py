"""The leaderboard's pages: their content as values, a table in Markdown, and an HTML page with images."""

from dataclasses import dataclass

from .page import Cell, document, package_text

BETTER = {"higher": "\u2191", "lower": "\u2193", "near 0": "\u2192 0"}

TITLE = "# Leaderboard of calibration methods"  # the first line of the Markdown table


@dataclass(frozen=True)
class Column:
    """A column of the table: a metric, or a cost."""

    title: str
    better: str = ""  # "higher", "lower", "near 0"; empty for a cost

    @property
    def heading(self) -> str:
        """The title with an arrow to the good end."""
        return f"{self.title} {BETTER[self.better]}" if self.better else self.title


@dataclass(frozen=True)
class TableRow:
    """A method at one number of bits, or a baseline."""

    method: str
    bits: str
    cells: tuple[Cell, ...]  # one per column

    @property
    def words(self) -> list[str]:
        """The row as text, without intervals."""
        return [self.method, self.bits, *(cell.text for cell in self.cells)]


@dataclass(frozen=True)
class Table:
    """The table of all methods."""

    columns: tuple[Column, ...]
    lines: tuple[TableRow, ...]
    missing: dict[str, str]  # method and bits -> why there are no numbers
    baselines: tuple[TableRow, ...]

    def plain(self) -> tuple[list[str], list[list[str]]]:
        """Return headings and rows as text; one without numbers has the reason in their first column."""
        rows = [line.words for line in self.lines]
        for name, reason in self.missing.items():
            method, bits = name.rsplit(" ", 1)
            rows.append([method, bits, reason, *[""] * (len(self.columns) - 1)])
        rows += [line.words for line in self.baselines]
        return ["method", "bits", *(column.heading for column in self.columns)], rows


@dataclass(frozen=True)
class PictureStrip:
    """The images of one prompt from the same noise: the floating-point model's, and every row's."""

    prompt: str
    names: tuple[str, ...]
    pictures: tuple[str, ...]  # data URIs, one per name
    scores: tuple[str, ...]  # one per name


@dataclass(frozen=True)
class Board:
    """The whole page."""

    command: str
    setting: dict[str, str]
    images: int
    calibrations: int  # of each row
    table: Table
    methods: dict[str, str]  # where each is described
    strips: tuple[PictureStrip, ...]
    encoding: str
    width: int  # pixels of an image
    height: int

    @property
    def _intervals(self) -> str:
        if self.calibrations == 1:
            return (
                "95% intervals are over the images of one calibration; other latents or another order of "
                "training would move a row as well."
            )
        return (
            f"Numbers are means over {self.calibrations} calibrations, whose latents and training have other "
            "seeds; 95% intervals are Student's over calibrations. Images and costs shown are of the first."
        )

    @property
    def captions(self) -> tuple[str, ...]:
        """The remarks that a reader needs beside the table."""
        return (
            f"Means, or medians if named, over {self.images} images, each compared with the floating-point "
            "model's image of the same prompt and noise; simulated execution. Rows are ordered by PSNR "
            "within the bits that --bits asks for. Each method keeps its own losses, its own number of "
            "iterations unless one was set, and its own bits, averaged in two columns: a difference "
            'between rows is not due to the method alone. "Difference to best" is the mean paired difference '
            f"to the first row at the same bits, image by image. {self._intervals}",
            "A divergent image is one whose composition differs from its reference's. A few of them "
            "outweigh all other images in FID and in means of distances, but not in medians. FID also "
            "depends on the number of images.",
            "Time and memory are the calibration's alone, without sampling latents, generating images or "
            "ranking layers. An interrupted calibration counts the time up to its last checkpoint and the "
            "time since it resumed. Memory is the largest resident set of the process, including libraries "
            "and some of what earlier rows left. Average bits are means: for weights over all weights, for "
            "activations over layers and timesteps.",
        )


def html(board: Board) -> str:
    """Return the page as one self-contained HTML document."""
    style = package_text("page.css") + package_text("board.css")
    return document("board.html.j2", board=board, style=style)


def markdown(board: Board) -> str:
    """Return the table in Markdown with what a reader needs to know, without images."""
    headings, rows = board.table.plain()
    setting = ", ".join(f"{name} {value}" for name, value in board.setting.items())
    lines = [TITLE, "", f"    {board.command}", "", f"{setting[:1].upper()}{setting[1:]}.", ""]
    lines += [_line(headings), _line(["---"] * len(headings))]
    for row in rows:
        lines.append(_line(row))
    lines.append("")
    for caption in board.captions:
        lines += [caption, ""]
    for name, citation in board.methods.items():
        lines.append(f"- `{name}`: {citation}")
    return "\n".join([*lines, ""])


def _line(cells: list[str]) -> str:
    escaped = [cell.replace("|", r"\|") for cell in cells]
    return f"| {' | '.join(escaped)} |"
