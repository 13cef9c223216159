"""Bad input: one clear line on stderr, a documented exit code, no traceback, nothing lost."""

import json
import shutil

import pytest
import torch

from sdquant_cli.models.load import EMBEDDED_FOLDER, find_model
from tests.conftest import PROMPTS, Sdquant

TRAIN = PROMPTS / "shapes-train.txt"
SMALL = ("sample", "--prompts", TRAIN, "--limit", 2, "--steps", 2)


def one_line(result) -> str:
    lines = [line for line in result.stderr.splitlines() if line.startswith("sdquant: ")]
    assert len(lines) == 1, result.stderr
    assert result.stdout == ""
    return lines[0]


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        (("calibrate", "--bits", "w5a99"), 2, "--bits w5a99: expected w<2..8>a<2..16>"),
        (("calibrate", "--bits", "w-1a8"), 2, "--bits"),
        (
            ("calibrate", "--budget", "4.25 bits"),
            2,
            "--budget 4.25 bits: expected average",
        ),
        (("calibrate", "--budget", "0"), 2, "--budget 0: expected"),
        (("calibrate", "--iterations", "-1"), 2, "--iterations -1"),
        (("calibrate", "--batch-size", "0"), 2, "--batch-size 0"),
        (("sample", "--prompts", "absent.txt"), 2, "absent.txt: no such file"),
        (("sample", "--prompts", TRAIN, "--per-prompt", "0"), 2, "--per-prompt 0: expected 1..50"),
        (("sample", "--prompts", TRAIN, "--per-prompt", "51"), 2, "--per-prompt 51: expected 1..50"),
        (("sample", "--prompts", TRAIN, "--steps", "0"), 2, "--steps 0"),
        (("sample", "--prompts", TRAIN, "--steps", "2000"), 2, "--steps 2000"),
        (("sample", "--prompts", TRAIN, "--height", "65"), 2, "--height 65: expected a multiple of 32"),
        (("sample", "--prompts", TRAIN, "--limit", "0"), 2, "--limit 0"),
        (("sample", "--prompts", TRAIN, "--model", "/absent"), 2, "/absent"),
        (("sample", "--prompts", TRAIN, "--limit", "1", "--device", "cuda:7"), 5, "--device cuda:7"),
        (("sample", "--prompts", TRAIN, "--limit", "1", "--device", "meta"), 5, "--device meta"),
        ((*SMALL, "--height", 2**24, "--width", 2**24), 5, "out of memory"),
        (("precalc-time",), 3, "sdquant sample"),
        (("sensitivity",), 3, "sdquant sample"),
        (("calibrate",), 3, "sdquant sample"),
        (("generate",), 3, "sdquant calibrate"),
        (("generate", "--model", "fp", "--state", "x"), 2, "--state"),
        (("evaluate",), 3, "sdquant generate"),
        (("evaluate", "--require", "vmaf"), 2, "unknown metric 'vmaf'"),
        (("evaluate", "--drift-prompts", "0"), 2, "--drift-prompts 0"),
        (("report",), 3, "sdquant evaluate"),
        (("leaderboard", "--prompts", TRAIN, "--methods", "x"), 2, "--methods x: expected all or some of"),
        (("show", "nothing"), 3, "no artifact named 'nothing'"),
        (("rm", "latents"), 3, "no latents artifact"),
        (("run", "--config", "absent.yaml"), 2, "absent.yaml: no such file"),
        (("sample", "--prompts", TRAIN, "--guidance-scale", "nan"), 2, "--guidance-scale nan: "),
        (("sample", "--prompts", TRAIN, "--guidance-scale", "1e38"), 2, "--guidance-scale 1e+38: "),
        (("sample", "--prompts", TRAIN, "--height", "９６"), 2, "--height ９６: "),
        (("calibrate", "--forwards", "inf"), 2, "--forwards inf: "),
        (("calibrate", "--bits", "w４a8"), 2, "--bits w４a8: expected w<2..8>"),
        (("calibrate", "--budget", "４.25"), 2, "--budget ４.25: expected average"),
        (("evaluate", "--gate", "psnr>=1_0"), 2, "--gate psnr>=1_0: expected metric"),
        (("evaluate", "--summary", "absent/x.md"), 2, "--summary absent/x.md: there is no folder"),
        (("generate", "--output", "/dev/null/x"), 2, "--output /dev/null/x: /dev/null is a file"),
        (("export", "--output", "/dev/null"), 2, "--output /dev/null: /dev/null is a file"),
    ],
    ids=lambda value: " ".join(map(str, value)) if isinstance(value, tuple) else None,
)
def test_each_is_one_line_and_a_documented_code(sdquant, words, code, says):
    assert says in one_line(sdquant(*words, code=code))


def test_an_unknown_command_or_flag_is_usage(sdquant):
    for words in (("quantise",), ("sample", "--prompts", TRAIN, "--stepz", "3"), ("sample",)):
        assert sdquant(*words, code=2).stdout == ""


def test_a_store_that_is_a_file(tmp_path):
    (tmp_path / "store").write_text("not a store")
    assert "is a file" in one_line(Sdquant(tmp_path / "store")("ls", code=2))


def test_a_store_that_cannot_be_written(tmp_path, monkeypatch):
    """Root may write anywhere, so the refusal is the file system's, simulated where obstore meets it."""
    import obstore

    def refuse(*_, **__):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(obstore, "put", refuse)
    line = one_line(Sdquant(tmp_path / "store")(*SMALL, code=5))
    assert "permission is denied" in line
    assert "--store" in line


def test_no_output_is_written_into_a_store(sdquant):
    sdquant.store.mkdir()
    header = sdquant.store / "sdquant-store.json"
    header.write_text('{"format": 1}')
    leaderboard = ("leaderboard", "--prompts", TRAIN)
    for words in (
        ("report", "--output", header),
        (*leaderboard, "--output", header),
        (*leaderboard, "--markdown", sdquant.store / "x.md"),
        ("evaluate", "--summary", header),
        ("generate", "--output", sdquant.store / "pictures"),
        ("export", "--output", sdquant.store / "model"),
        ("demo", "--output", sdquant.store / "x.png"),
    ):
        assert f"{words[-2]} {words[-1]}: {sdquant.store} is a store" in one_line(sdquant(*words, code=2))
    assert [path.name for path in sdquant.store.iterdir()] == [header.name]
    assert header.read_text() == '{"format": 1}'


def test_a_file_of_another_kind_is_kept(sdquant, tmp_path):
    notes = tmp_path / "README.md"
    notes.write_text("# Notes")
    leaderboard = ("leaderboard", "--prompts", TRAIN)
    for words in (
        ("report", "--output", notes),
        (*leaderboard, "--output", notes),
        (*leaderboard, "--output", tmp_path / "new", "--markdown", notes),
        ("demo", "--output", notes),
    ):
        assert f"{notes}: exists and is not " in one_line(sdquant(*words, code=2))
    assert notes.read_text() == "# Notes"


def test_a_store_of_a_newer_format(sdquant):
    sdquant.store.mkdir()
    (sdquant.store / "sdquant-store.json").write_text('{"format": 99}')
    assert "sdquant-store.json: format 99" in one_line(sdquant("ls", code=6))


def test_a_damaged_store_header(sdquant):
    sdquant.store.mkdir()
    (sdquant.store / "sdquant-store.json").write_text("{")
    assert "sdquant-store.json" in one_line(sdquant("ls", code=3))


def test_a_flipped_byte_stops_the_next_stage_and_names_the_object(sdquant):
    sdquant(*SMALL)
    latents = sdquant.opened().resolve("latents")
    shard = sdquant.store / latents.path / "data.zarr" / "x" / "c" / "0" / "0" / "0" / "0"
    data = bytearray(shard.read_bytes())
    data[100] ^= 1
    shard.write_bytes(data)
    assert "'x' cannot be read" in one_line(sdquant("sensitivity", code=3))
    line = one_line(sdquant("verify", f"latents/{latents.manifest.key}", code=3))
    assert "x/c/0/0/0/0" in line
    assert f"sdquant rm latents/{latents.manifest.key}" in line
    sdquant("rm", "latents")
    sdquant(*SMALL)
    sdquant("verify")


def test_a_budget_needs_the_direct_measure_and_room_for_two_bits(sdquant, tiny, monkeypatch):
    from sdquant_cli.calibration.sensitivity import OneLayerAtATime

    for name in ("noise", "weight_noise"):  # the numbers do not matter here, and take a minute
        monkeypatch.setattr(OneLayerAtATime, name, lambda *_: torch.full((2,), 1e-3))
    monkeypatch.setattr(
        "sdquant_cli.calibration.sensitivity.weight_rounding_error", lambda _, grid: 4.0**-grid.bits
    )
    model = tiny("sd-v1-4/two-blocks")
    sdquant(*SMALL, "--model", model)
    for _ in range(2):  # without a ranking, and with one by gradients
        line = one_line(sdquant("calibrate", "--budget", "4.25", code=3))
        assert "`sdquant sensitivity --measure sqnr`" in line
        sdquant("sensitivity")
    sdquant("sensitivity", "--measure", "sqnr", "--limit", 1)
    total = sum(shape.numel() for shape in find_model(str(model)).layer_shapes.values())
    for budget, words in (("1.99", ()), (f"{total // 4 - 1}B", ("--dry-run",)), ("1kB", ())):
        line = one_line(sdquant("calibrate", "--budget", budget, *words, code=2))
        assert f"--budget {budget}: cannot be met" in line
        assert f"2 bits a weight, or {total // 4}B" in line
    sdquant("calibrate", "--budget", f"{total // 4}B", "--dry-run")
    assert not list(sdquant.store.glob("artifacts/quant-state/*"))


def test_a_ranking_of_another_model_is_left_out(sdquant, tiny, tmp_path):
    model = tiny("sd-v1-4/two-blocks")
    folder = shutil.copytree(model, tmp_path / "model")
    path = folder / "scheduler" / "scheduler_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "beta_end": 0.013}))
    sdquant(*SMALL, "--model", folder)
    sdquant("sensitivity")
    sdquant(*SMALL, "--model", model)
    told = sdquant("calibrate", "--iterations", 1).stderr
    assert "was computed for a different model and is ignored" in told
    for flag in (("--mixed",), ("--budget", "4")):
        assert "of this model" in sdquant("calibrate", *flag, code=3).stderr


def test_a_model_without_a_component(sdquant, tmp_path):
    folder = tmp_path / "model"
    shutil.copytree(EMBEDDED_FOLDER, folder)
    shutil.rmtree(folder / "vae")
    assert "has no vae/" in one_line(sdquant(*SMALL, "--model", folder, code=2))


def test_a_model_with_a_broken_file(sdquant, tmp_path):
    folder = tmp_path / "model"
    shutil.copytree(EMBEDDED_FOLDER, folder)
    weights = folder / "unet" / "diffusion_pytorch_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    assert str(folder / "unet") in one_line(sdquant(*SMALL, "--model", folder, code=2))
    (folder / "unet" / "config.json").write_text("{")
    assert "config.json" in one_line(sdquant(*SMALL, "--model", folder, code=2))


def test_a_model_that_changed_since_it_was_sampled(sdquant, tmp_path):
    folder = tmp_path / "model"
    shutil.copytree(EMBEDDED_FOLDER, folder)
    sdquant(*SMALL, "--model", folder)
    path = folder / "scheduler" / "scheduler_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "beta_end": 0.013}))
    assert "its files changed" in one_line(sdquant("precalc-time", code=2))


def test_a_copied_model_folder_works_as_the_embedded_one_does(sdquant, tmp_path):
    folder = tmp_path / "model"
    shutil.copytree(EMBEDDED_FOLDER, folder)
    sdquant(*SMALL, "--model", folder)
    sdquant(*SMALL)
    first, second = (a for a in sdquant.opened().artifacts() if a.manifest.kind == "latents")
    assert first.manifest.key != second.manifest.key
    assert first.manifest.digest == second.manifest.digest


def test_long_and_repeated_and_blank_prompts_are_told(sdquant, tmp_path):
    path = tmp_path / "prompts.txt"
    path.write_text("a red circle\n\n" + "verylongword " * 40 + "\na red circle\n")
    told = sdquant("sample", "--prompts", path, "--steps", "2").stderr
    assert "skipped 1 blank" in told
    assert "1 prompts are repeats" in told
    assert "1 prompts are longer than the 32 tokens" in told
    latents = sdquant.opened().resolve("latents")
    assert latents.facts.latents == 3


def test_removing_what_others_need_is_refused(sdquant):
    sdquant(*SMALL)
    assert "depend on it" in one_line(sdquant("rm", "prompts", code=2))
    sdquant("ls")
    sdquant("show", "latents")
    sdquant("tag", "latents", "baseline")
    assert json.loads(sdquant("show", "latents/baseline", "--json").stdout)["kind"] == "latents"
    sdquant("rm", "latents/baseline")


def test_a_preset_fills_what_the_user_leaves_open(sdquant, tiny, tmp_path):
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("a big red circle\n")
    words = ("--preset", "paper-sd14", "--model", tiny("sd-v1-4/two-blocks"), "--height", 64, "--width", 64)
    plan = json.loads(sdquant("sample", "--prompts", prompts, *words, "--dry-run", "--json").stdout)["plan"]
    assert plan["prompts"] == 1
    assert plan["UNet calls at least"] <= 2 * 50
    sdquant("sample", "--prompts", prompts, *words, "--steps", 2)
    sdquant("sensitivity")
    plan = json.loads(sdquant("calibrate", "--preset", "paper-sd14", "--dry-run", "--json").stdout)["plan"]
    assert plan["iterations"] == 10_000
    assert "nobody" in sdquant("sample", "--prompts", prompts, "--preset", "nobody", code=2).stderr
