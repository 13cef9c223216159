from sdquant_cli.report.board import Board, Column, PictureStrip, Table, TableRow, html, markdown
from sdquant_cli.report.page import Cell

TABLE = Table(
    columns=(Column("PSNR, dB", "higher"), Column("latents")),
    lines=(TableRow("rtn", "w8a8", (Cell("30", "[29, 31]"), Cell("4"))),),
    missing={"pcr w8a8": "failed: no | luck"},
    baselines=(TableRow("floating point, other seed", "", (Cell("12"), Cell(""))),),
)
BOARD = Board(
    command="sdquant leaderboard --bits w8a8",
    setting={"model": "shapes", "steps": "3"},
    images=2,
    calibrations=1,
    table=TABLE,
    methods={"rtn": "Round to nearest"},
    strips=(PictureStrip("a circle", ("floating point", "rtn w8a8"), ("data:a", "data:b"), ("", "30 dB")),),
    encoding="PNG, lossless",
    width=64,
    height=64,
)


def test_a_failed_row_has_its_reason_in_place_of_numbers():
    headings, rows = TABLE.plain()
    assert headings == ["method", "bits", "PSNR, dB \u2191", "latents"]
    assert rows == [
        ["rtn", "w8a8", "30", "4"],
        ["pcr", "w8a8", "failed: no | luck", ""],
        ["floating point, other seed", "", "12", ""],
    ]


def test_markdown_has_a_table_that_no_cell_breaks():
    lines = markdown(BOARD).splitlines()
    assert lines[0] == "# Leaderboard of calibration methods"
    assert "    sdquant leaderboard --bits w8a8" in lines
    assert "Model shapes, steps 3." in lines
    start = lines.index("| method | bits | PSNR, dB \u2191 | latents |")
    assert lines[start + 1] == "| --- | --- | --- | --- |"
    assert lines[start + 3] == r"| pcr | w8a8 | failed: no \| luck |  |"
    assert "- `rtn`: Round to nearest" in lines


def test_both_pages_define_a_divergent_image():
    for text in (markdown(BOARD), html(BOARD)):
        assert text.count("A divergent image is one whose composition differs") == 1


def test_the_page_has_the_images_below_their_names():
    text = html(BOARD)
    assert '<img src="data:b" width="64" height="64" alt="rtn w8a8: a circle">' in text
    assert "rtn w8a8<br>30 dB" in text
    assert "<small>[29, 31]</small>" in text
