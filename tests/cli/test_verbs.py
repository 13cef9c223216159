"""What commands print of what their stages return."""

import json
from types import SimpleNamespace

import pytest

from sdquant_cli.artifacts.workspace import Workspace
from sdquant_cli.cli import bench, demo, doctor, execute, export, run
from sdquant_cli.cli.command import Invocation
from sdquant_cli.errors import GateFailed
from sdquant_cli.options.commands import DemoRequest, RunRequest
from sdquant_cli.options.requests import BenchRequest, DoctorRequest, ExportRequest, SampleRequest
from sdquant_cli.stages.bench import Bench, Way

CALL = Invocation(store="store")


@pytest.fixture
def returns(monkeypatch):
    """Make a stage's function return a value; return the list of requests that it gets."""

    def replace(name, value):
        requests = []
        monkeypatch.setattr(
            f"sdquant_cli.stages.{name}", lambda request, *_: requests.append(request) or value
        )
        return requests

    return replace


def test_bench_prints_a_row_for_each_way(returns, capsys):
    way = Way(
        execution="integer",
        dtype="fp32",
        call_seconds=(3.0, 1.0, 2.0),
        wall_seconds=(1.5,),
        picture_seconds=20.0,
        load_seconds=0.5,
        first_call_seconds=4.0,
        peak_memory=3_000_000,
        disk=1_500_000,
        psnr_to_simulated=None,
    )
    result = Bench(state="quant-state/k", height=8, width=16, items=2, threads=1, ways=(way,))
    requests = returns("bench.run", result)
    bench.bench(BenchRequest(repeats=3), CALL)
    title, _, row = capsys.readouterr().out.splitlines()
    assert requests[0].repeats == 3
    assert title == "quant-state/k, 16 x 8, 2 items a call, 1 threads"
    assert row.split() == [
        "integer",
        "fp32",
        "2.000",
        "1.000",
        "3.000",
        "1.500",
        "20.0",
        "0.5",
        "4.0",
        "3",
        "1.5",
    ]
    bench.bench(BenchRequest(), Invocation(store="store", json=True))
    assert json.loads(capsys.readouterr().out)["ways"][0]["disk"] == 1_500_000


def test_doctor_lists_files_and_what_needs_them(capsys, tmp_path):
    doctor.doctor(DoctorRequest(weights_dir=tmp_path), Invocation())
    printed = capsys.readouterr().out
    assert f"metric weights in {tmp_path}" in printed
    assert "integer engine: " in printed
    assert "missing" in printed
    doctor.doctor(DoctorRequest(weights_dir=tmp_path), Invocation(json=True))
    assert json.loads(capsys.readouterr().out)["folder"] == str(tmp_path)


def test_export_prints_the_folder_and_its_size(returns, capsys, tmp_path):
    (tmp_path / "unet").mkdir()
    (tmp_path / "unet" / "weights").write_bytes(bytes(2_500_000))
    returns("export.run", tmp_path)
    export.export(ExportRequest(output=tmp_path), CALL)
    assert capsys.readouterr().out == f"{tmp_path} (2.5 MB)\n"


class Made(SimpleNamespace):
    """An artifact of a kind without a form of its own."""

    name = "latents/k"

    def __init__(self):
        document = {"facts": {"latents": 3}}
        super().__init__(kind="latents", manifest=SimpleNamespace(model_dump=lambda mode: document))


def test_demo_names_the_file_that_it_wrote(returns, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    returns("pipeline.run", Made())
    drawn = returns("pipeline.side_by_side", None)
    images = SimpleNamespace(spec=SimpleNamespace(engine="integer"))
    monkeypatch.setattr(Workspace, "input", lambda *_: images)
    demo.demo(DemoRequest(output=tmp_path / "x.png"), CALL)
    assert capsys.readouterr().out.splitlines()[-1] == (
        f"images: {tmp_path / 'x.png'} (above: floating-point; below: w4a8, integer)"
    )
    assert drawn[0].name == "latents/k"


def test_run_reads_the_file_and_concludes_as_evaluate_does(returns, capsys, tmp_path):
    (tmp_path / "c.yaml").write_text("sample: {prompts: p.txt}\nevaluate: {gate: ['psnr>=25']}\n")
    returns("pipeline.check_files", None)
    configs = returns("pipeline.run", Made())
    returns("evaluate.conclude", None)
    run.run(RunRequest(config=tmp_path / "c.yaml"), CALL)
    assert configs[0].evaluate.gate == ("psnr>=25",)
    assert capsys.readouterr().out == "latents/k\n  latents  3\n"


def test_run_takes_the_chains_of_a_file_one_after_the_other(returns, capsys, tmp_path):
    (tmp_path / "c.yaml").write_text("sample: {prompts: p.txt}\n---\nsample: {prompts: q.txt}\n")
    returns("pipeline.check_files", None)
    returns("pipeline.run", Made())
    returns("evaluate.conclude", None)
    run.run(RunRequest(config=tmp_path / "c.yaml"), CALL)
    assert capsys.readouterr().out == 2 * "latents/k\n  latents  3\n"


def test_a_gate_that_is_not_met_stops_no_later_chain(returns, capsys, tmp_path, monkeypatch):
    def not_met(*_):
        raise GateFailed("gate not met: psnr>=90")

    (tmp_path / "c.yaml").write_text("sample: {prompts: p.txt}\n---\nsample: {prompts: q.txt}\n")
    returns("pipeline.check_files", None)
    returns("pipeline.run", Made())
    monkeypatch.setattr("sdquant_cli.stages.evaluate.conclude", not_met)
    with pytest.raises(GateFailed, match="psnr>=90; gate not met"):
        run.run(RunRequest(config=tmp_path / "c.yaml"), CALL)
    assert capsys.readouterr().out == 2 * "latents/k\n  latents  3\n"


def test_run_shows_the_plans_of_all_chains(returns, capsys, tmp_path):
    (tmp_path / "c.yaml").write_text("sample: {prompts: p.txt}\n")
    plans = [[SimpleNamespace(stage="sample", numbers={"UNet calls": 7})], []]
    returns("pipeline.plan", plans)
    run.run(RunRequest(config=tmp_path / "c.yaml"), Invocation(store="store", dry_run=True))
    assert capsys.readouterr().out == "chain 1\nsample would do\n  UNet calls  7\nchain 2\n"
    run.run(RunRequest(config=tmp_path / "c.yaml"), Invocation(store="store", dry_run=True, json=True))
    assert json.loads(capsys.readouterr().out) == [[{"stage": "sample", "plan": {"UNet calls": 7}}], []]


def test_a_stage_shows_its_plan_or_its_result_and_then_concludes(capsys):
    concluded = []
    stage = SimpleNamespace(
        plan=lambda request, workspace: SimpleNamespace(stage="sample", numbers={"UNet calls": 7}),
        run=lambda request, workspace: Made(),
        conclude=lambda artifact, request: concluded.append(request),
    )
    request = SampleRequest(prompts="p.txt")
    execute.execute(stage, request, Invocation(store="store", dry_run=True))
    assert capsys.readouterr().out == "sample would do\n  UNet calls  7\n"
    execute.execute(stage, request, Invocation(store="store", dry_run=True, json=True))
    assert json.loads(capsys.readouterr().out) == {"stage": "sample", "plan": {"UNet calls": 7}}
    assert not concluded
    execute.execute(stage, request, CALL)
    assert capsys.readouterr().out == "latents/k\n  latents  3\n"
    assert concluded == [request]
    execute.execute(stage, request, Invocation(store="store", json=True))
    assert json.loads(capsys.readouterr().out) == {"facts": {"latents": 3}}
