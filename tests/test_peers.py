"""The driver of other tools: what needs none of them."""

import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from benchmarks.peers import draw, run
from sdquant_cli.models.load import EMBEDDED_FOLDER
from sdquant_cli.options.requests import GenerateRequest
from sdquant_cli.stages import generate
from tests.conftest import PROMPTS

UNSEEN = PROMPTS / "shapes-unseen.txt"
SEED = 5


def draw_fp(monkeypatch, ground, output):
    monkeypatch.setattr(
        sys, "argv", ["draw.py", *ground.words("fp", EMBEDDED_FOLDER, output), "--steps", "4"]
    )
    draw.main()
    return np.stack([np.array(Image.open(path)) for path in sorted(output.glob("*.png"))])


def test_floating_point_pictures_are_those_of_sdquant_and_are_not_drawn_twice(sdquant, tmp_path, monkeypatch):
    ground, output = run.Ground(tmp_path, UNSEEN, batch_size=2), tmp_path / "fp"
    ground.write(2, SEED)
    draw_fp(monkeypatch, ground, output)
    Image.new("RGB", (64, 64)).save(output / "00000.png")
    ground.write(3, SEED)
    pictures = draw_fp(monkeypatch, ground, output)
    request = GenerateRequest(model="fp", prompts=UNSEEN, limit=3, steps=4, seed=SEED)
    own = generate.run(request, sdquant.workspace()).read("image")
    assert not pictures[0].any()
    assert np.abs(pictures[1:].astype(int) - own[1:]).max() <= 1  # batches of other sizes round otherwise
    assert run.drawn(output)["pictures"] == 3


def test_a_tool_that_is_not_installed_is_one_line(capsys):
    peer = replace(draw.PEERS["sdnq-int8"], package="no-such-tool")
    with pytest.raises(SystemExit) as stopped:
        draw.versions("sdnq-int8", peer)
    assert stopped.value.code == 2
    assert capsys.readouterr().err == (
        "--peer sdnq-int8: no-such-tool is not installed here; run.py makes its environment\n"
    )


def test_every_tool_has_an_environment_and_a_peer():
    assert set(run.NAMES) == set(draw.PEERS) - {"fp", "sdquant"}
    packages = {name: run.ENVIRONMENTS[name.partition("-")[0]][0] for name in run.NAMES}
    for name, pin in packages.items():
        assert pin.partition("==")[0] == draw.PEERS[name].package


def test_integer_products_are_exact_beyond_the_integers_of_fp32():
    a = torch.full((17, 4099), 127, dtype=torch.int8)
    b = torch.full((4099, 8), 127, dtype=torch.int8)
    expected = torch.full((17, 8), 4099 * 127 * 127, dtype=torch.int32)  # odd, and above 2^24
    torch.testing.assert_close(draw.exact_int_mm(a, b), expected, rtol=0, atol=0)


def test_a_row_has_a_cell_for_every_column():
    metric = {"mean": 45.1, "median": 45.4, "ci95": [44.2, 46.0], "identical": 0}
    made = {
        "peer": "sdnq-int8",
        "name": "sdnq-int8",
        "bits": "W8A16",
        "what": "int8",
        "versions": {"torch": "2", "diffusers": "0", "sdnq": "0.2.8"},
        "pictures": 128,
        "seconds_to_quantize": 0.9,
        "seconds_a_picture": 6.1,
        "peak_memory": 2**30,
        "bytes": 6_600_000,
        "metrics": {"psnr": metric, "feature_distance[shapes-clip]": metric},
    }
    cells = run.line(made).strip("|").split(" | ")
    assert len(cells) == len(run.COLUMNS)
    assert dict(zip(run.COLUMNS, cells, strict=True))["PSNR, dB"] == "45.1 [44.2, 46.0]"
