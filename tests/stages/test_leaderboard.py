"""`leaderboard` with two methods, few steps and pictures, on a tiny model."""

import json
import re
from html.parser import HTMLParser

import numpy as np
import pytest

from sdquant_cli.errors import SdquantError
from sdquant_cli.methods.published import METHODS
from sdquant_cli.options.requests import LeaderboardRequest
from sdquant_cli.report.leaderboard import command_line
from sdquant_cli.stages import calibrate, sample
from sdquant_cli.types import Kind
from tests.conftest import PROMPTS, Sdquant

HELDOUT = PROMPTS / "shapes-heldout.txt"
ROWS = ["rtn w4a8", "serial-to-parallel w4a8"]
SHOWN = 2  # prompts of the page


class Page(HTMLParser):
    """Tags by name with their attributes, and the cells of each table row."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: dict[str, list[dict[str, str | None]]] = {}
        self.rows: list[list[str]] = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.setdefault(tag, []).append(dict(attrs))
        if tag == "tr":
            self.rows.append([])
        elif tag in ("td", "th"):
            self.rows[-1].append("")

    def handle_data(self, data):
        if self.rows and self.rows[-1]:
            self.rows[-1][-1] += data.strip()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("leaderboard")


@pytest.fixture(scope="module")
def words(folder, tiny):
    prompts = folder / "train.txt"
    prompts.write_text("a big red circle\na small blue square\n")
    return (
        *("leaderboard", "--methods", "rtn,serial-to-parallel", "--bits", "w4a8", "--prompts", prompts),
        *("--model", tiny("sd-v1-4/two-blocks"), "--test-prompts", HELDOUT),
        *("--steps", 3, "--limit", 3, "--iterations", 2, "--pictures", SHOWN),
        *("--output", folder / "board.html", "--markdown", folder / "board.md"),
    )


@pytest.fixture(scope="module")
def made(folder, words):
    """The store after a run that was stopped before the last stage, and the same command again."""
    sdquant = Sdquant(folder / "store")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sdquant_cli.stages.leaderboard.evaluate.run", _interrupt)
        assert "interrupted" in sdquant(*words, code=130).stderr
    partly = json.loads(sdquant(*words, "--dry-run", "--json").stdout)["plan"]
    # both methods ask for the same latents
    rest = "missing: sensitivity, calibrate, generate, evaluate"
    assert partly == dict(zip(ROWS, ("missing: evaluate", rest), strict=True))
    return sdquant, json.loads(sdquant(*words, "--json").stdout)


def _interrupt(*_):
    raise KeyboardInterrupt


def test_every_row_has_the_metrics_that_its_artifacts_have(made):
    sdquant, document = made
    store = sdquant.opened()
    facts = document["facts"]
    assert list(document["inputs"]) == ROWS == document["spec"]["rows"]
    values = store.resolve("leaderboard").read("value")
    for at, (row, standing) in enumerate(zip(ROWS, facts["standings"], strict=True)):
        metrics = store.resolve(f"metrics/{document['inputs'][row]['key']}")
        images = store.follow(metrics.manifest.inputs["images"])
        state = store.follow(images.manifest.inputs["state"])
        assert f"{state.spec.method} {state.spec.bits}" == row
        assert images.spec.seed == 1000
        assert facts["images"] == images.facts.images == 3
        expected = [metrics.facts.metrics[name].mean for name in facts["metrics"]]
        assert np.array_equal(values[at], np.array(expected, dtype=float), equal_nan=True)
        assert standing["metrics"]["psnr"]["mean"] == metrics.facts.metrics["psnr"].mean
        took = state.manifest.provenance
        assert (standing["seconds"], standing["peak_memory"]) == (took.seconds, took.peak_memory)
        mixed = standing["method"] == "serial-to-parallel"  # as it was published
        assert state.spec.mixed == mixed
        assert standing["average_bits"] == pytest.approx(4.11 if mixed else 4, abs=0.01)
        assert (standing["activation_bits"] > 8) == mixed  # so are its relaxed steps
        assert standing["latents"] == 2 * min(3, METHODS[state.spec.method].data.per_prompt)
        # a method without use for a ranking has none, whatever else is in the store
        assert ("sensitivity" in state.manifest.inputs) == (state.spec.method != "rtn")
    assert [standing["iterations"] for standing in facts["standings"]] == [0, 2]
    assert facts["floor"]["psnr"]["mean"] < values[:, facts["metrics"].index("psnr")].min()


def test_rows_stand_beside_the_closest_picture_by_picture(made):
    sdquant, document = made
    store = sdquant.opened()
    psnr = [store.resolve(f"metrics/{document['inputs'][row]['key']}").read("psnr") for row in ROWS]
    first, other = (0, 1) if psnr[0].mean() > psnr[1].mean() else (1, 0)
    standings = document["facts"]["standings"]
    assert standings[first]["beside"] == {}
    beside = standings[other]["beside"]["psnr"]
    assert beside["mean"] == pytest.approx((psnr[other] - psnr[first]).mean())
    assert beside["ci95"][0] < beside["mean"] < beside["ci95"][1]
    assert "ssim" in standings[other]["beside"]


def test_show_prints_the_table(made):
    shown = made[0]("show", "leaderboard").stdout
    assert "PSNR, dB" in shown
    lines = [" ".join(line.split()[:2]) for line in shown.splitlines()]
    assert set(ROWS) <= set(lines)


def test_the_same_command_again_computes_nothing(made, words, monkeypatch):
    sdquant, document = made
    before = {a.manifest.key for a in sdquant.opened().artifacts()}
    monkeypatch.setattr(
        "sdquant_cli.models.load.Model._load", lambda *_, **__: pytest.fail("weights were loaded")
    )
    assert json.loads(sdquant(*words, "--json").stdout)["key"] == document["key"]
    assert {a.manifest.key for a in sdquant.opened().artifacts()} == before
    plan = json.loads(sdquant(*words, "--dry-run", "--json").stdout)["plan"]
    assert plan == dict.fromkeys(ROWS, "up to date")


def test_latents_that_another_process_tags_meanwhile_do_not_come_between(made, words, monkeypatch):
    sdquant, document = made
    sdquant("sample", "--prompts", words[words.index("--prompts") + 1], "--steps", 3, "--seed", 5)
    store, real = sdquant.opened(), sample.run
    other = store.need(Kind.LATENTS)

    def overtaken(*words):
        own = real(*words)
        store.tag(other)
        return own

    monkeypatch.setattr("sdquant_cli.stages.leaderboard.sample.run", overtaken)
    assert json.loads(sdquant(*words, "--json").stdout)["key"] == document["key"]
    assert store.need(Kind.LATENTS).ref == other.ref


def test_a_dry_run_changes_nothing(sdquant, words):
    plan = json.loads(sdquant(*words, "--dry-run", "--json").stdout)["plan"]
    assert plan[ROWS[0]] == "missing: sample, calibrate, generate, evaluate"
    assert not sdquant.store.exists()


def test_the_markdown_table_has_a_line_per_row_and_both_ends(made, folder):
    _, document = made
    text = (folder / "board.md").read_text()
    lines = [
        [cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if "|" in line
    ]
    heading, _, *rows = lines
    assert {len(line) for line in lines} == {len(heading)}
    assert "PSNR, dB \u2191" in heading
    found = {f"{row[0]} {row[1]}".strip(): row for row in rows}
    assert set(found) == {*ROWS, "floating point, other seed", "floating point, self-baseline"}
    column = heading.index("PSNR, dB \u2191")
    for standing in document["facts"]["standings"]:
        shown = found[f"{standing['method']} {standing['bits']}"][column]
        assert float(shown) == pytest.approx(standing["metrics"]["psnr"]["mean"], abs=0.01)
    psnr = [float(row[column]) for row in rows[:2]]
    assert psnr == sorted(psnr, reverse=True)
    (command,) = re.findall(r"sdquant leaderboard .*", text)
    assert "--steps 3 --methods rtn,serial-to-parallel --bits w4a8" in command


def test_the_page_shows_every_prompt_with_every_method(made, folder):
    from sdquant_cli.report import pictures

    sdquant, document = made
    page = Page((folder / "board.html").read_text())
    assert {f"{row[0]} {row[1]}".strip() for row in page.rows[1:]} >= set(ROWS)
    assert len(page.tags["article"]) == SHOWN
    prompts = HELDOUT.read_text().splitlines()
    expected = [f"{name}: {prompts[i]}" for i in range(SHOWN) for name in ("floating point", *ROWS)]
    shown = {image["alt"]: image["src"] for image in page.tags["img"]}
    assert sorted(shown) == sorted(expected)
    store = sdquant.opened()
    for row in ROWS:
        images = store.follow(store.resolve(document["inputs"][row]["key"]).manifest.inputs["images"])
        assert shown[f"{row}: {prompts[1]}"] == pictures.data_uri(images.read("image")[1], pictures.LADDER[0])
    assert all(link.startswith("data:") for link in shown.values())


def test_a_row_that_fails_is_told_and_loses_no_other(made, words, folder, monkeypatch):
    sdquant, _ = made
    real = calibrate.run

    def diverging(request, *others):
        if request.method != "rtn":
            raise SdquantError("calibration diverged | at once")
        return real(request, *others)

    monkeypatch.setattr("sdquant_cli.stages.leaderboard.calibrate.run", diverging)
    pages = ("--output", folder / "failed.html", "--markdown", folder / "failed.md")
    done = sdquant(*words[:-4], *pages, code=1)
    assert "1 of 2 rows failed: serial-to-parallel w4a8: calibration diverged" in done.stderr
    assert "rtn" in done.stdout
    assert r"failed: calibration diverged \| at once" in (folder / "failed.md").read_text()
    page = Page((folder / "failed.html").read_text())
    assert ["serial-to-parallel", "w4a8", "failed: calibration diverged | at once"] in page.rows
    assert len(page.tags["img"]) == SHOWN * 2


def test_refusals(sdquant, words, tmp_path):
    def told(*more):
        return sdquant(*words, *more, code=2).stderr

    known = f"expected all or some of {', '.join(METHODS)}"
    assert f"--methods nobody, none: {known}" in told("--methods", "rtn,nobody,none")
    assert "--bits w99a8: expected w<2..8>a<2..16>" in told("--bits", "w8a8,w99a8")
    assert "--forwards: replaces --iterations" in told("--forwards", 10)
    assert "--test-prompts absent.txt: no such file" in told("--test-prompts", "absent.txt")
    assert f"--output {tmp_path}: is a folder, expected a file" in told("--output", tmp_path)
    assert not sdquant.store.exists()


def test_a_row_of_its_own_options_and_one_that_cannot_have_what_all_have(folder, words, made, tmp_path):
    pages = ("--output", tmp_path / "b.html", "--markdown", tmp_path / "b.md")
    methods = ("--methods", "rtn,rtn --ranges min-max,eda-dm", "--relax", "last")
    words = [word for word in words if word != "rtn,serial-to-parallel"]
    words.remove("--methods")
    done = made[0](*words, *methods, *pages)
    assert "eda-dm w4a8 is not run: --relax: has no effect with --tables single" in done.stderr
    text = (tmp_path / "b.md").read_text()
    rows = [
        [cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines() if "| w4a8 |" in line
    ]
    chosen = {row[0]: row[-1] for row in rows}
    assert chosen["rtn"] == "per-step tables, mse"
    assert chosen["rtn --ranges min-max"] == "per-step tables, min-max"
    (refused,) = (row for row in rows if row[0] == "eda-dm")
    assert refused[2].startswith("not run: --relax: has no effect")
    assert "all rows all codes; 10 bits in the last timesteps; losses: none" in text


def test_the_page_names_a_command_line_that_makes_it_again():
    request = LeaderboardRequest(
        prompts="p.txt",
        methods=("rtn", "serial --train low-rank"),
        mixed=False,
        full_range=False,
        smoothing=True,
    )
    assert command_line(request).split(" ", 2)[2] == (
        "--no-full-range --smoothing --methods 'rtn,serial --train low-rank' --prompts p.txt --no-mixed"
    )


def test_several_calibrations_have_other_latents_and_intervals_over_them(folder, words, made, tmp_path):
    words = [word for word in words if word != "rtn,serial-to-parallel"]
    words.remove("--methods")
    pages = ("--output", tmp_path / "b.html", "--markdown", tmp_path / "b.md")
    methods = ("--methods", "rtn,rtn --ranges min-max", "--calibrations", 2)
    planned = json.loads(made[0](*words, *methods, "--dry-run", "--json").stdout)["plan"]
    assert planned["rtn w4a8"] == "missing: sample, calibrate, generate, evaluate of seed 1"
    document = json.loads(made[0](*words, *methods, *pages, "--json").stdout)
    store, names = made[0].opened(), ["rtn w4a8", "rtn w4a8, seed 1"]
    artifacts = [store.resolve(f"metrics/{document['inputs'][name]['key']}") for name in names]
    means = [artifact.facts.metrics["psnr"].mean for artifact in artifacts]
    assert means[0] != means[1]
    rows = {row["method"]: row for row in document["facts"]["standings"]}
    found = rows["rtn"]["metrics"]["psnr"]
    assert rows["rtn"]["means"]["psnr"] == means
    assert found["mean"] == pytest.approx(np.mean(means))
    assert found["n"] == 2
    assert found["ci95"][1] - found["mean"] == pytest.approx(12.7062 * abs(means[0] - means[1]) / 2, rel=1e-4)
    (beside,) = (row["beside"]["psnr"] for row in rows.values() if row["beside"])
    assert beside["n"] == 2
    assert "means over 2 calibrations" in (tmp_path / "b.md").read_text()
