"""A ranking that a file lists is read, or refused in one line that names file, line and remedy."""

import os

import pytest

from sdquant_cli.calibration.published_ranking import LARGEST, digest, read_ranking
from sdquant_cli.errors import UsageProblem

LAYERS = [f"blocks.{i}.conv" for i in range(40)]  # 5% of them are two


@pytest.fixture
def read(tmp_path):
    def of(content):
        path = tmp_path / "ranking.txt"
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return read_ranking(path, LAYERS)

    return of


def test_a_whole_ranking_and_its_ends(read):
    whole = [*LAYERS[20:], *LAYERS[:20]]
    assert read("\n".join(whole)) == tuple(whole)
    ends = f"# of a paper\n\n{LAYERS[39]}\n  {LAYERS[38]}\r\n...\n{LAYERS[1]}\n{LAYERS[0]}\n"
    assert read(ends) == (LAYERS[39], LAYERS[38], *LAYERS[2:38], LAYERS[1], LAYERS[0])


def test_an_abbreviation_makes_no_difference(read):
    ends = "\n".join([*LAYERS[:2], "...", *LAYERS[-2:]])
    assert digest(read(ends)) == digest(read("\n".join(LAYERS)))
    assert digest(read(ends)) != digest(read("\n".join(reversed(LAYERS))))


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("", "names no layer; write one on each line, most sensitive first"),
        ("# nothing\n\n", "names no layer"),
        (f"{LAYERS[0]}\nblocks.3.conf\n", r"line 2: 'blocks.3.conf' is no layer .*mean 'blocks.3.conv'\?"),
        ("???\n", "line 1: .* is no layer .*named as 'blocks.0.conv'"),
        ("x" * 5000, "line 1: 'x{100}' is no layer"),
        (f"{LAYERS[5]}\n\n{LAYERS[5]}\n", "line 3: 'blocks.5.conv' is on line 1 already; remove one"),
        ("...\n...\n", "line 2: '...' is on line 1 already"),
        (
            "\n".join(LAYERS[1:]),
            "1 of 40 layers are missing, such as 'blocks.0.conv'; add them, or a line ...",
        ),
        (f"{LAYERS[0]}\n...\n", "before ...: expected at least 2 layers, 5% of 40, found 1"),
        ("\n".join([*LAYERS[:2], "...", LAYERS[9]]), "after ...: expected at least 2 layers"),
        (b"\xff\xfe\x00", "is not text in UTF-8"),
        ("x\n" * LARGEST, "is larger than 1,000,000 bytes"),
    ],
)
def test_what_is_no_ranking_is_one_line(read, content, says):
    with pytest.raises(UsageProblem, match=rf"^--ranking .*ranking.txt: {says}") as caught:
        read(content)
    assert "\n" not in str(caught.value)


def test_what_is_no_file_is_one_line(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for name, says in (("absent", "no such file"), (".", "is a folder"), ("pipe", "is a pipe")):
        with pytest.raises(UsageProblem, match=f"^--ranking .*: {says}"):
            read_ranking(tmp_path / name, LAYERS)
