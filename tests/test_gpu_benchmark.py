"""The script that measures GPUs, in the parts that a CPU can run, on shapes that tell nothing of speed."""

import json

import pytest

from benchmarks.gpu import floors, run
from sdquant_cli.native import cuda

pytest.importorskip("triton", reason="no Triton here")


@pytest.fixture
def interpreted(monkeypatch):
    monkeypatch.setattr(cuda, "interpreted", True)
    monkeypatch.setattr(run, "TINY_SHAPES", {"3x3": (33, 20, 3, 1, 3)})
    monkeypatch.setattr("sdquant_cli.runtime.cuda.products.TILES", ((16, 32), (16, 32), (16, 32)))


def test_kernels_are_compared_with_fp64(interpreted):
    rows = []
    run.kernels("cpu", rows.append)
    assert [(row["bits"], row["scales"]) for row in rows] == [
        ("w8a8", "token"),
        ("w4a8", "token"),
        ("w8a8", "static"),
    ]
    assert all(0 < row["error"] < 1e-6 for row in rows)
    text = run.page({"card": run.card("cpu"), "parts": {"kernels": {"rows": rows, "problem": None}}})
    assert text.count("| 3x3 |") == 3
    assert "of peak" not in text


def test_layers_are_run_by_all_engines(interpreted):
    rows = []
    run.layers("cpu", rows.append)
    assert {"integer s", "dequantized s", "bf16 s"} < set(rows[0])


def test_a_part_that_takes_too_long_is_stopped_and_keeps_its_rows(monkeypatch, tmp_path):
    monkeypatch.setitem(run.LIMITS, "kernels", 0.1)
    found = run.measured("kernels", "cpu", tmp_path)
    assert found["problem"] == "stopped after 0.1 s"
    assert found["rows"] == []
    assert json.dumps(found)


def test_all_parts_end_within_nine_minutes():
    assert sum(run.LIMITS.values()) <= 9 * 60
    assert list(run.LIMITS) == list(run.PARTS)


def test_an_unknown_part_and_a_machine_without_a_gpu_are_one_line(capsys, tmp_path, monkeypatch):
    with pytest.raises(SystemExit):
        run.main(["--parts", "kernel", "--output", str(tmp_path)])
    assert "--parts kernel: expected kernels, layers" in capsys.readouterr().err
    monkeypatch.setattr("sdquant_cli.native.cuda.support.problem", lambda device: "no card")
    assert run.main(["--output", str(tmp_path)]) == 5
    assert capsys.readouterr().err == "--device cuda: no card\n"


def test_the_floor_of_a_network_follows_from_its_shapes():
    config, side, tokens = run.networks("cpu")["tiny"]
    one, two = (floors.call_of(config, side, tokens, items) for items in (1, 2))
    assert two.of_layers == 2 * one.of_layers
    assert two.weights == one.weights
    assert one.floor("H100", 4) < one.floor("H100", 8) < one.floor("H100", None)
    assert one.floor("H100", 8) < one.floor("A100", 8)


def test_full_size_networks_have_their_usual_latents():
    assert {name: side for name, (_, side, _) in run.networks("cuda").items()} == {"sd-v1-4": 64, "sdxl": 128}


def test_the_chain_draws_by_both_devices_with_integers():
    rows = []
    run.chain("cpu", rows.append)
    drawn = {row["way"] for row in rows if "pictures" in row}
    apart = {row["way"]: row["median PSNR against the CPU, dB"] for row in rows if "pictures" not in row}
    assert drawn == {"cpu", "cpu, other batches", "cpu, integers"}
    assert apart["cpu, integers"] == 100
    assert 20 < apart["cpu, other batches"] <= 100
