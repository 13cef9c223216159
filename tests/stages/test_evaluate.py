"""`evaluate` and `doctor` on pictures that were never drawn, and on the embedded model's own."""

import json
import shutil

import numpy as np
import pytest

from sdquant_cli.artifacts.features import IMAGES_PER_UNIT
from sdquant_cli.metrics import pairs
from sdquant_cli.metrics.catalog import NETWORK_FILES
from sdquant_cli.metrics.weights import WEIGHT_FILES
from tests.conftest import PROMPTS
from tests.fakes import noisy, pictures, publish_pictures
from tests.metrics.conftest import random_weights, weights  # noqa: F401  fixtures

REFERENCE = pictures(6)
OFFLINE = ["psnr", "ssim", "feature_distance[shapes-clip]", "fid[shapes-clip]", "kid[shapes-clip]",
           "clip_score[shapes-clip]", "clip_score_difference[shapes-clip]"]  # fmt: skip


@pytest.fixture
def compared(sdquant):
    """A store with pictures of other noise, a reference, and pictures near it."""
    store = sdquant.opened()
    publish_pictures(store, pictures(6, seed=9), "fp", seed=1)
    publish_pictures(store, REFERENCE, "fp")
    publish_pictures(store, noisy(REFERENCE, 8))
    return sdquant


def evaluate(sdquant, *words, code=0):
    return sdquant("evaluate", *words, code=code)


def document(sdquant, *words):
    return json.loads(evaluate(sdquant, "--json", *words).stdout)


def test_every_result_stands_between_the_floor_and_the_reference_itself(compared):
    found = document(compared)
    assert [n for n, m in found["metrics"].items() if not m["skipped"]] == OFFLINE
    metrics, floor, itself = found["metrics"], found["floor"], found["itself"]
    for metric in ("psnr", "ssim"):
        assert metrics[metric]["mean"] > floor[metric]["mean"]
    for metric in ("feature_distance[shapes-clip]", "fid[shapes-clip]"):
        assert 0 < metrics[metric]["mean"] < floor[metric]["mean"]
        assert itself[metric]["mean"] == pytest.approx(0, abs=1e-6)
    assert (itself["psnr"]["mean"], itself["psnr"]["identical"]) == (None, 6)
    assert itself["ssim"]["mean"] == pytest.approx(1)
    assert metrics["psnr"]["n"] == floor["psnr"]["n"] == 6
    rows = [row["psnr"] for row in found["images"]]
    assert metrics["psnr"]["mean"] == pytest.approx(np.mean(rows))
    assert metrics["psnr"]["worst"][0] == int(np.argmin(rows))


def test_identical_pictures_are_null_and_counted(sdquant):
    images = noisy(REFERENCE, 8)
    images[2] = REFERENCE[2]
    publish_pictures(sdquant.opened(), REFERENCE, "fp")
    publish_pictures(sdquant.opened(), images)
    found = document(sdquant, "--no-floor", "--gate", "psnr>=25")
    assert found["metrics"]["psnr"]["identical"] == 1
    assert found["images"][2]["psnr"] is None
    assert found["floor"] == {}
    assert "(1 identical)" in evaluate(sdquant, "--no-floor").stdout


def test_a_gate_on_identical_pictures_is_met(sdquant):
    publish_pictures(sdquant.opened(), REFERENCE, "fp")
    publish_pictures(sdquant.opened(), REFERENCE)
    met = evaluate(sdquant, "--no-floor", "--gate", "psnr>=100", "--gate", "ssim>=0.999")
    assert "gate" not in met.stderr
    assert "identical (6)" in met.stdout


def test_gates_decide_the_exit_code_and_the_summary_tells_them(compared, tmp_path):
    summary = tmp_path / "summary.md"
    evaluate(compared, "--gate", "psnr>=1", "--gate", "fid[shapes-clip]<=1000", "--summary", summary)
    failed = evaluate(
        compared, "--gate", "psnr>=1", "--gate", "ssim >= 2", "--json", "--summary", summary, code=4
    )
    assert "ssim>=2 (is 0." in failed.stderr
    assert "psnr" not in failed.stderr.splitlines()[-1]
    assert json.loads(failed.stdout)["metrics"]["ssim"]["n"] == 6
    assert "unknown metric 'vmaf'" in evaluate(compared, "--gate", "vmaf<=0.1", code=2).stderr
    assert "expected metric<=number" in evaluate(compared, "--gate", "psnr==3", code=2).stderr
    text = summary.read_text()
    assert text.count("| psnr |") == 2
    assert "`ssim>=2` **not met**" in text


def test_metrics_without_weights_are_skipped_unless_they_are_required(compared):
    found = document(compared)["metrics"]
    assert found["lpips"]["skipped"] == "needs alexnet-owt-7be5be79.pth, LPIPS_v0.1_alex-df73285e.pth"
    lines = evaluate(compared).stdout.splitlines()
    assert "lpips  skipped (needs alexnet-owt-7be5be79.pth, LPIPS_v0.1_alex-df73285e.pth)" in lines
    assert "fid, kid, fid[legacy], sfid[nash]  skipped (needs inception-2015-12-05.pt)" in lines
    assert len([line for line in lines if "skipped" in line]) == 5  # one for each set of files
    for words in (("--require", "ssim,lpips"), ("--gate", "lpips<=0.1")):
        told = evaluate(compared, *words, code=5).stderr
        assert "lpips" in told
        assert "alexnet-owt-7be5be79.pth" in told
        assert "--download" in told
    assert "unknown metric 'lpipz'" in evaluate(compared, "--require", "lpipz", code=2).stderr


def test_each_definition_of_a_metric_can_be_required_and_gated(compared):
    for words in (("--require", "fid[legacy],sfid[nash]"), ("--gate", "sfid[nash]<=5")):
        assert "needs inception-2015-12-05.pt, not in" in evaluate(compared, *words, code=5).stderr
    told = evaluate(compared, "--require", "clip_score[vit-l-14]", code=5).stderr
    assert "needs clip-vit-large-patch14.bin, clip-vit-base-patch32-tokenizer.json, not in" in told


def test_the_reference_is_not_compared_with_itself_pair_by_pair(compared, monkeypatch):
    make, given = pairs.psnr, []

    def recording(device):
        metric = make(device)

        def compare(images, reference):
            given.append((images, reference))
            return metric(images, reference)

        return compare

    monkeypatch.setattr(pairs, "psnr", recording)
    assert document(compared)["itself"]["psnr"]["identical"] == 6
    assert len(given) == 2  # the pictures, and those of another seed
    assert not any(np.array_equal(*pictures) for pictures in given)


@pytest.mark.filterwarnings("ignore")  # the metric libraries'
def test_with_all_weights_everything_is_measured_and_features_are_kept(sdquant, weights):  # noqa: F811
    publish_pictures(sdquant.opened(), REFERENCE[:2], "fp")
    publish_pictures(sdquant.opened(), noisy(REFERENCE[:2], 8))
    words = ("--no-floor", "--weights-dir", weights.folder, "--require", "lpips,fid,clip_score")
    found = document(sdquant, *words)
    assert not any(m["skipped"] for m in found["metrics"].values())
    assert found["itself"]["fid"]["mean"] == pytest.approx(0, abs=1e-6)
    assert found["metrics"]["lpips"]["mean"] > 0
    kept = [a for a in sdquant.opened().artifacts() if a.manifest.kind == "features"]
    assert {a.spec.network for a in kept} == set(NETWORK_FILES)
    assert len(kept) == len(NETWORK_FILES) * 2
    assert found["metrics"]["fid[legacy]"]["mean"] != found["metrics"]["fid"]["mean"]
    assert found["metrics"]["sfid[nash]"]["mean"] > 0
    assert len({found["metrics"][name]["mean"] for name in ("clip_score", "clip_score[vit-l-14]")}) == 2
    assert found["artifact"] != document(sdquant, "--no-floor")["artifact"]


def test_doctor_is_right_about_an_empty_a_partial_and_a_full_folder(sdquant, weights, tmp_path):  # noqa: F811
    def doctor(folder, *words):
        from typer.testing import CliRunner

        from sdquant_cli.cli import app

        result = CliRunner().invoke(app, ["doctor", "--weights-dir", str(folder), *words])
        assert result.exit_code == 0, result.stderr
        return result.stdout

    def conditions(folder):
        return {f["file"]: f["condition"] for f in json.loads(doctor(folder, "--json"))["files"]}

    assert set(conditions(tmp_path / "empty").values()) == {"missing"}
    assert set(conditions(weights.folder).values()) == {"intact"}
    partial = tmp_path / "partial"
    partial.mkdir()
    first, second = list(WEIGHT_FILES)[2:4]
    shutil.copy(weights.path(first), partial)
    (partial / second).write_bytes(weights.path(second).read_bytes()[:-1])
    found = conditions(partial)
    assert (found.pop(first), found.pop(second)) == ("intact", "wrong")
    assert set(found.values()) == {"missing"}
    table = doctor(partial)
    assert all(file in table and WEIGHT_FILES[file].url in table for file in WEIGHT_FILES)


def test_a_wrong_weight_file_stops_before_anything_is_drawn(compared, weights, tmp_path):  # noqa: F811
    (tmp_path / "weights").mkdir()
    (tmp_path / "weights" / "inception-2015-12-05.pt").write_bytes(b"an error page")
    before = len(compared.opened().artifacts())
    told = compared("evaluate", "--weights-dir", tmp_path / "weights", code=5).stderr
    assert "inception-2015-12-05.pt: sha256 is" in told
    assert len(compared.opened().artifacts()) == before


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"seed": 5}, "seed is 5"),
        ({"steps": 7}, "steps is 7"),
        ({"scheduler": "ddim"}, "scheduler is ddim"),
        ({"guidance_scale": 7.5}, "guidance_scale is 7.5"),
        ({"text": "another prompt"}, "prompts is"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_pictures_that_differ_in_more_than_quantization_are_refused(compared, changes, field):
    other = publish_pictures(compared.opened(), pictures(6, seed=3), "fp", **changes)
    told = evaluate(compared, "--against", other.name, code=2).stderr
    assert field in told
    assert other.name in told


def test_pictures_of_another_number_or_size_are_refused(compared):
    store = compared.opened()
    fewer = publish_pictures(store, pictures(5), "fp")
    assert "N is 5" in evaluate(compared, "--against", fewer.name, code=2).stderr
    larger = publish_pictures(store, pictures(6, side=96), "fp")
    assert "height is 96" in evaluate(compared, "--against", larger.name, code=2).stderr


def test_against_takes_an_images_artifact_and_nothing_else(compared):
    reference = compared.opened().resolve("images/latest-fp")
    assert document(compared, "--against", reference.name)["artifact"] == document(compared)["artifact"]
    assert "is prompts, expected images" in evaluate(compared, "--against", "prompts", code=2).stderr
    assert "no artifact named 'int8'" in evaluate(compared, "--against", "int8", code=3).stderr


def test_drift_of_floating_point_pictures_is_refused(compared):
    told = evaluate(compared, "--drift", "--images", "images/latest-fp", code=2).stderr
    assert "there is no drift" in told


def test_one_picture_has_no_distance_of_sets(sdquant):
    publish_pictures(sdquant.opened(), REFERENCE[:1], "fp")
    publish_pictures(sdquant.opened(), noisy(REFERENCE[:1], 8))
    found = document(sdquant, "--no-floor")
    assert found["metrics"]["fid[shapes-clip]"]["mean"] is None
    assert "has no value" in evaluate(sdquant, "--no-floor", "--gate", "fid[shapes-clip]<=1", code=5).stderr


def test_more_pictures_than_a_unit_are_measured_and_the_second_time_read(sdquant):
    reference = pictures(IMAGES_PER_UNIT + 44, side=16)
    publish_pictures(sdquant.opened(), reference, "fp")
    publish_pictures(sdquant.opened(), noisy(reference, 8))
    found = document(sdquant, "--no-floor")
    assert found["metrics"]["psnr"]["n"] == len(found["images"]) == 300
    kept = [a for a in sdquant.opened().artifacts() if a.manifest.kind == "features"]
    assert [len(a.manifest.units) for a in kept] == [2, 2]
    assert "is up to date" in evaluate(sdquant, "--no-floor").stderr


def test_memory_holds_few_pictures_at_a_time():
    from types import SimpleNamespace

    from sdquant_cli.metrics.measures import batches

    def of(side):
        return SimpleNamespace(size=(side, side))

    assert list(batches(of(64), 0, 100)) == [(0, 64), (64, 100)]
    assert list(batches(of(512), 3, 5)) == [(3, 4), (4, 5)]


def test_more_bits_are_closer_and_drift_less(sdquant):
    """The embedded model by rounding alone: W8A8, W4A8, W4A4 in this order; other noise is furthest."""
    words = ("--limit", 2, "--steps", 4, "--per-prompt", 4)
    sdquant("sample", "--prompts", PROMPTS / "shapes-train.txt", *words)
    sdquant("sensitivity", "--limit", 1)
    rows = []
    for bits in ("w8a8", "w4a8", "w4a4"):
        sdquant("calibrate", "--bits", bits, "--mixed", "--method", "rtn")
        sdquant("generate", "--limit", 3)
        rows.append(document(sdquant, "--drift", "--drift-prompts", 1))
    psnr, distance = (
        [row["metrics"][name]["mean"] for row in rows] for name in ("psnr", "feature_distance[shapes-clip]")
    )
    floor = {name: summary["mean"] for name, summary in rows[0]["floor"].items()}
    assert psnr == sorted(psnr, reverse=True)
    assert distance == sorted(distance)
    assert psnr[-1] > floor["psnr"]
    # features follow the prompt: a ruined picture can be further from it than one of other noise
    assert distance[0] < floor["feature_distance[shapes-clip]"]
    store = sdquant.opened()
    drifts = [a for a in store.artifacts() if a.manifest.kind == "drift"]
    first, _, last = (a.facts for a in drifts)
    assert first.latent_snr[0] is None  # the same noise
    assert all(a > b for a, b in zip(first.prediction_sqnr, last.prediction_sqnr, strict=True))
    assert first.latent_snr[-1] < first.latent_snr[1]
    assert len(first.timesteps) == 5
    assert drifts[0].read("latent_cosine").shape == (1, 5)


def test_pictures_that_are_not_finite_are_named(sdquant, monkeypatch):
    from sdquant_cli.models.load import Model

    load = Model.denoiser

    def broken(self, *words):
        unet = load(self, *words)
        unet.conv_out.bias.data.fill_(float("nan"))
        return unet

    monkeypatch.setattr(Model, "denoiser", broken)
    words = ("--model", "fp", "--limit", 2, "--steps", 2)
    assert "picture 0 is not finite" in sdquant("generate", *words, code=1).stderr


@pytest.mark.parametrize(
    ("problem", "said"),
    [(None, "kernels in Triton"), ("it is from 2017", "GPU: it is from 2017"), (..., None)],
)
def test_doctor_says_what_a_gpu_computes_integers_with(monkeypatch, problem, said):
    from typer.testing import CliRunner

    from sdquant_cli.cli import app
    from sdquant_cli.native.cuda import support

    monkeypatch.setattr(support.torch.cuda, "is_available", lambda: problem is not ...)
    monkeypatch.setattr(support, "problem", lambda device: problem)
    told = CliRunner().invoke(app, ["doctor"]).stdout
    assert (said in told) if said else ("GPU" not in told)
