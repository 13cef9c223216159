"""`evaluate --images FOLDER --against FOLDER`: pictures that sdquant did not draw, without a store."""

import json
import re

import numpy as np
import pytest
from PIL import Image

from sdquant_cli.errors import UsageProblem
from sdquant_cli.metrics.choice import choose, required_metrics
from sdquant_cli.metrics.weights import Weights
from sdquant_cli.options.requests import EvaluateRequest
from sdquant_cli.report.folders import PICTURES
from sdquant_cli.stages import compare
from tests.fakes import noisy, pictures, publish_pictures

REFERENCE = pictures(4)
NOISY = noisy(REFERENCE, 8)
TEXT = "a big red circle"
OF_PROMPTS = ["clip_score", "clip_score_difference",
              "clip_score[vit-l-14]", "clip_score_difference[vit-l-14]",
              "clip_score[shapes-clip]", "clip_score_difference[shapes-clip]"]  # fmt: skip


def save(folder, images, name="{:05d}.png"):
    folder.mkdir(exist_ok=True)
    for index, image in enumerate(images):
        Image.fromarray(image).save(folder / name.format(index))
    return folder


@pytest.fixture
def two(tmp_path, sdquant):
    """Run `evaluate` on two folders: noisy pictures, and what they were made from."""
    ours, theirs = save(tmp_path / "ours", NOISY), save(tmp_path / "theirs", REFERENCE)

    def run(*words, code=0, images=ours, against=theirs):
        result = sdquant("evaluate", "--images", images, "--against", against, *words, code=code)
        assert not sdquant.store.exists()
        return result

    run.ours, run.theirs = ours, theirs
    return run


def line(result) -> str:
    """The one line of an error."""
    (told,) = [text for text in result.stderr.splitlines() if text.startswith("sdquant: ")]
    return told.removeprefix("sdquant: ")


def document(result):
    return json.loads(result.stdout)


def test_psnr_is_the_one_computed_by_hand(two):
    found = document(two("--json"))
    error = (NOISY.astype(float) - REFERENCE) ** 2
    by_hand = 10 * np.log10(255**2 / error.mean((1, 2, 3)))
    np.testing.assert_allclose([row["psnr"] for row in found["images"]], by_hand, rtol=1e-9)
    assert found["metrics"]["psnr"]["mean"] == pytest.approx(by_hand.mean())
    assert found["metrics"]["psnr"]["worst"][0] == int(np.argmin(by_hand))
    assert found["images"][1]["image"] == found["images"][1]["reference"] == "00001.png"
    assert found["inputs"] == {"images": str(two.ours), "reference": str(two.theirs)}
    assert (found["artifact"], found["floor"]) == (None, {})


def test_equal_pictures_are_identical_and_at_no_distance(two):
    result = two("--gate", "psnr>=100", "--gate", "feature_distance[shapes-clip]<=1e-6", images=two.theirs)
    assert "identical (4)" in result.stdout
    metrics = document(two("--json", images=two.theirs))["metrics"]
    assert (metrics["psnr"]["mean"], metrics["psnr"]["identical"]) == (None, 4)
    assert metrics["ssim"]["mean"] == pytest.approx(1)
    for name in ("feature_distance[shapes-clip]", "fid[shapes-clip]"):
        assert metrics[name]["mean"] == pytest.approx(0, abs=1e-6)


def test_what_is_known_of_the_reference_itself_is_what_a_copy_of_it_measures(two, tmp_path):
    copy = save(tmp_path / "copy", REFERENCE)
    (tmp_path / "prompts.txt").write_text(f"{TEXT}\n" * 4)
    found = document(two("--json", "--prompts", tmp_path / "prompts.txt", images=copy))
    assert len(found["itself"]) == 7
    assert found["itself"] == {name: found["metrics"][name] for name in found["itself"]}


def test_the_numbers_are_those_of_stored_images(two, sdquant, tmp_path):
    (tmp_path / "prompts.txt").write_text("".join(f"{TEXT} {i}\n" for i in range(4)))
    folders = document(two("--json", "--prompts", tmp_path / "prompts.txt"))
    publish_pictures(sdquant.opened(), REFERENCE, "fp", text=TEXT)
    publish_pictures(sdquant.opened(), NOISY, text=TEXT)
    stored = document(sdquant("evaluate", "--against", "fp", "--no-floor", "--json"))
    for part in ("metrics", "itself"):
        assert folders[part] == stored[part]
    for ours, theirs in zip(folders["images"], stored["images"], strict=True):
        assert theirs.items() <= ours.items()
    assert folders["metrics"]["clip_score[shapes-clip]"]["mean"] > 0


def test_lossy_formats_of_other_names_are_compared_in_order(two, tmp_path):
    webp = save(tmp_path / "webp", NOISY, "img{}.webp")
    told = two("--json", images=webp)
    assert "compared in order, img0.webp with 00000.png first" in told.stderr
    assert 20 < document(told)["metrics"]["psnr"]["mean"] < 40
    jpeg = save(tmp_path / "jpeg", REFERENCE, "{:05d}.jpg")
    assert "in order" not in two(images=jpeg).stderr


def test_scores_of_prompts_are_skipped_or_required(two):
    metrics = document(two("--json"))["metrics"]
    assert {metrics[name]["skipped"] for name in OF_PROMPTS} == {"needs --prompts"}
    printed = two().stdout
    assert printed.startswith(f"{two.ours} against {two.theirs}\n")
    assert f"{', '.join(OF_PROMPTS)}  skipped (needs --prompts)" in printed
    told = line(two("--require", "clip_score[shapes-clip]", code=2))
    assert told == "--require clip_score[shapes-clip]: needs the prompts of the pictures; pass --prompts FILE"
    assert "--download" in line(two("--gate", "lpips<=0.1", code=5))
    assert choose({}, Weights(), prompts=False).names == tuple(
        n for n, m in metrics.items() if not m["skipped"]
    )
    with pytest.raises(UsageProblem, match="--gate vmaf>=1: unknown metric 'vmaf'"):
        required_metrics(["vmaf>=1"], [])


def test_gates_decide_the_exit_code_and_the_summary_tells_them(two, tmp_path):
    summary = tmp_path / "summary.md"
    failed = two("--gate", "psnr>=20", "--gate", "ssim>=0.9999", "--summary", summary, code=4)
    assert line(failed).startswith("gate not met: ssim>=0.9999 (is 0.")
    text = summary.read_text()
    assert text.startswith(f"### Distance between pictures ({two.ours} against {two.theirs})\n")
    assert "- `psnr>=20` met" in text
    assert "- `ssim>=0.9999` **not met**" in text


def test_a_dry_run_counts_and_computes_nothing(two, tmp_path):
    page = tmp_path / "page.html"
    plan = document(two("--dry-run", "--json", "--output", page))["plan"]
    assert plan == {"images": 4, "metrics": 5, "skipped": 13}
    assert not page.exists()


def test_the_page_shows_numbers_and_pictures_and_fetches_nothing(two, tmp_path):
    page = tmp_path / "page.html"
    told = two("--output", page, "--gate", "psnr>=90", code=4)  # written before the gate is judged
    assert f"{page} (0." in told.stderr
    text = page.read_text()
    assert text.startswith("<!doctype html>")
    assert f"<h1>{two.ours} compared with {two.theirs}</h1>" in text
    assert all(name in text for name in ("psnr", "fid<wbr>[shapes-clip]", "00003", "order of the names"))
    assert text.count("<article") == 4 < PICTURES
    assert text.count("data:image/png;base64,") == 12  # reference, picture and difference
    assert not re.findall(r"https?://(?!www.w3.org)", text)


def test_prompts_are_one_for_each_picture(two, tmp_path):
    prompts = tmp_path / "prompts.csv"
    prompts.write_text("id,title\n" + "\n".join(f"{i},a red circle {i}" for i in range(3)))
    told = line(two("--prompts", prompts, "--column", "title", code=2))
    assert told.startswith(
        f"--prompts {prompts}: holds 3 prompts, expected 4, one for each picture of --images"
    )
    with prompts.open("a") as file:
        file.write("\n3,a <blue> square\n")
    page = tmp_path / "page.html"
    two("--prompts", prompts, "--column", "title", "--require", "clip_score[shapes-clip]", "--output", page)
    assert "a &lt;blue&gt; square" in page.read_text()


# ------------------------------------------------------------------------------------ bad input


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (lambda file: file.unlink(), "holds 3 pictures, expected 4 as --images"),
        (lambda file: file.rename(file.with_name("x.png")), "00002.png has no counterpart"),
        (
            lambda file: file.write_bytes(file.read_bytes()[:-900]),
            "00002.png: cannot be read (image file is tr",
        ),
        (lambda file: file.write_text("error 404"), "00002.png: is not a PNG, JPEG or WebP picture"),
        (
            lambda file: Image.new("RGB", (32, 64)).save(file),
            "00002.png: is 32 x 64 pixels, expected 64 x 64",
        ),
        (lambda file: Image.new("RGBA", (64, 64)).save(file), "00002.png: has an alpha channel that is not"),
        (
            lambda file: Image.new("I;16", (64, 64)).save(file),
            "00002.png: is a PNG of 16 bits a channel (grey)",
        ),
    ],
    ids=["number", "name", "truncated", "unreadable", "size", "alpha", "16 bits"],
)
def test_a_bad_file_is_named_before_anything_is_measured(two, damage, says):
    damage(two.theirs / "00002.png")
    result = two(code=2)
    assert says in line(result)
    assert line(result).startswith(f"--against {two.theirs}")
    assert "comparing" not in result.stderr


def test_an_opaque_alpha_channel_changes_nothing(two):
    before = document(two("--json"))["metrics"]
    for path in two.ours.iterdir():
        Image.open(path).convert("RGBA").save(path)
    assert document(two("--json"))["metrics"] == before


def test_folders_that_are_missing_empty_or_of_another_size(two, tmp_path):
    (tmp_path / "empty").mkdir()
    assert line(two(code=2, images=tmp_path / "empty")).startswith(
        f"--images {tmp_path / 'empty'}: holds no "
    )
    absent = tmp_path / "absent"
    assert line(two(code=2, against=absent)) == f"--against {absent}: no such folder"
    larger = save(tmp_path / "larger", pictures(4, side=96))
    assert "00000.png: is 96 x 96 pixels, expected 64 x 64 as --images" in line(two(code=2, against=larger))


def test_flags_that_mean_nothing_for_folders_are_refused(two, tmp_path):
    assert line(two("--drift", code=2)).startswith("--drift: needs stored images")
    assert line(two("--column", "title", code=2)) == "--column title: requires --prompts"
    assert "there is no folder" in line(two("--output", tmp_path / "absent" / "x.html", code=2))
    notes = tmp_path / "notes.md"
    notes.write_text("# Notes")
    assert "is not an HTML page" in line(two("--output", notes, code=2))


def test_a_folder_beside_stored_images_is_told(two, sdquant):
    assert "give a folder to both or neither" in line(two(code=2, against="fp"))
    assert "give a folder to both or neither" in line(two(code=2, images="images/latest"))
    told = line(sdquant("evaluate", "--against", two.theirs, code=2))
    assert told == (
        f"--against {two.theirs}: is a folder, but --images names none; give a folder to both or neither"
    )
    publish_pictures(sdquant.opened(), REFERENCE, "fp")
    publish_pictures(sdquant.opened(), NOISY)
    assert "--images names none" in line(sdquant("evaluate", "--against", two.theirs, code=2))


def test_stored_images_take_no_flags_of_folders(sdquant, tmp_path):
    publish_pictures(sdquant.opened(), REFERENCE)
    for words, says in (
        (("--prompts", "p.txt"), "--prompts p.txt: is for folders of images"),
        (("--column", "title"), "--column title: is for folders of images"),
        (("--output", "x.html"), "run `sdquant report` for stored ones"),
    ):
        assert says in line(sdquant("evaluate", *words, code=2))
    folder = save(tmp_path / "a", REFERENCE)
    config = tmp_path / "c.yaml"
    config.write_text(f"sample: {{prompts: p.txt}}\nevaluate: {{images: {folder}, against: {folder}}}\n")
    assert "only `sdquant evaluate` compares folders" in line(sdquant("run", "--config", config, code=2))


def test_stored_names_win_over_folders_of_the_same_name(sdquant, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    stored = "images/latest-quantized"
    (tmp_path / stored).mkdir(parents=True)
    (tmp_path / "fp").mkdir()
    publish_pictures(sdquant.opened(), REFERENCE, "fp")
    publish_pictures(sdquant.opened(), NOISY)
    found = document(sdquant("evaluate", "--images", stored, "--against", "fp", "--no-floor", "--json"))
    assert found["artifact"].startswith("metrics/")


def test_a_store_that_is_unusable_is_never_opened(two, tmp_path):
    (tmp_path / "store").write_text("a file")
    request = EvaluateRequest(images=str(two.ours), against=str(two.theirs))
    assert compare.plan(request).numbers["images"] == 4
    from tests.conftest import Sdquant

    Sdquant(tmp_path / "store")("evaluate", "--images", two.ours, "--against", two.theirs)
