"""`sdquant report` on stored artifacts: what the page holds, and what it refuses."""

import base64
import json
import re
from html.parser import HTMLParser

import numpy as np
import pytest

from sdquant_cli.manifests import SensitivitySpec
from sdquant_cli.report import pictures
from sdquant_cli.report.content import make_page
from sdquant_cli.report.reproduce import FLAGS, Only, prompt_file, spec_flags
from sdquant_cli.stages.report import read_material
from tests.report.conftest import BLOCKS, GENERATE, HELDOUT, LAYERS, SMALL

SECTIONS = [
    "numbers",
    "pictures",
    "drift",
    "sensitivity",
    "activations",
    "loss",
    "bits",
    "lineage",
    "reproduce",
]


class Parsed(HTMLParser):
    """Attributes by tag, ids, and the text of a document."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.words = ""
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.found.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.words += data

    def values(self, attribute: str) -> list[str]:
        return [a[attribute] or "" for _, a in self.found if attribute in a]

    def count(self, tag: str) -> int:
        return sum(name == tag for name, _ in self.found)

    @property
    def downloads(self) -> dict[str, bytes]:
        return {
            a["download"]: base64.b64decode(a["href"].partition("base64,")[2])
            for _, a in self.found
            if "download" in a
        }


def written(sdquant, path, *words):
    sdquant("report", *words, "--output", path)
    return path.read_text()


@pytest.fixture(scope="module")
def one(measured, tmp_path_factory):
    """The default report: of the latest metrics, w8a8 without drift."""
    return written(measured, tmp_path_factory.mktemp("page") / "one.html")


@pytest.fixture(scope="module")
def both(measured, tmp_path_factory):
    return written(measured, tmp_path_factory.mktemp("page") / "both.html", "metrics/mixed", "metrics")


def test_the_page_is_self_contained_and_small(one, both):
    for text in (one, both):
        page = Parsed(text)
        links = [v for name in ("src", "href", "xlink:href", "srcset", "action") for v in page.values(name)]
        assert links
        assert not [link for link in links if not link.startswith(("data:", "#"))]
        assert not re.search(r"url\(\s*[\"']?http|@import", text)
        assert len(text.encode()) < 10_000_000
        ids = page.values("id")
        assert set(SECTIONS) <= set(ids)
        assert len(set(ids)) == len(ids)


def test_models_stand_side_by_side(both):
    page = Parsed(both)
    assert page.count("article") == 6
    assert page.count("img") == 6 * (1 + 2 + 2)
    assert "w4a8 mixed and w8a8 compared with floating point" in page.words
    assert re.search(r"Skipped:\s+lpips \(needs vgg16-397923af.pth\)", page.words)
    assert "1 identical" in page.words
    assert len(re.findall("simulated|integer", page.words)) >= 2
    assert "w8a8: not measured; run sdquant evaluate --drift." in page.words
    assert "w8a8: no training; its weights are rounded to nearest." in page.words


def test_the_pictures_are_the_stored_ones(measured):
    store = measured.opened()
    page = make_page(read_material(measured.workspace(), ["metrics/mixed"], 4))
    reference = store.follow(store.resolve("metrics/mixed").manifest.inputs["reference"]).read("image")
    psnr = store.resolve("metrics/mixed").read("psnr")
    worst = sorted(range(6), key=lambda i: psnr[i])[:2]
    assert [card.index for card in page.grid.cards] == worst + [i for i in range(6) if i not in worst][:2]
    for card in page.grid.cards:
        assert card.pictures[0] == pictures.data_uri(reference[card.index], pictures.LADDER[0])
        assert card.distance["psnr"] == (-psnr[card.index] if np.isfinite(psnr[card.index]) else None)
    assert "the 2 worst by psnr and the first 2 of the others" in page.grid.sentence


def test_charts_follow_the_theme_and_are_the_same_twice(measured, both, tmp_path):
    assert written(measured, tmp_path / "again.html", "metrics/mixed", "metrics") == both
    charts = "".join(re.findall(r"<svg.*?</svg>", both, flags=re.S))
    assert "var(--ink)" in charts
    assert not re.search(r"#0[0-9a-f]0[0-9a-f]0[0-9a-f]", charts)  # a stand-in colour is left
    assert charts.count("<title>") == LAYERS  # a bar for each layer
    assert "font-family" not in charts


def test_the_frontier_of_a_budget_is_a_line_and_without_one_there_is_none():
    from types import SimpleNamespace

    from sdquant_cli.manifests import FrontierPoint
    from sdquant_cli.report.sections import frontier

    def model(points):
        facts = SimpleNamespace(frontier=points, allocation=points[0] if points else None)
        return SimpleNamespace(label="w4a8", state=SimpleNamespace(facts=facts))

    points = tuple(
        FrontierPoint(average_bits=b, weight_bytes=b, predicted_sqnr=6.0 * b, layers_by_width={b: 1})
        for b in (2, 4, 8)
    )
    assert frontier([model(())]) == []
    (chart,) = frontier([model(()), model(points)])
    assert "w4a8 uses 2.00 bits" in chart.caption
    assert "predicted SQNR, dB" in chart.svg


def test_the_bit_map_has_every_layer(both, measured):
    titles = [a["title"] for tag, a in Parsed(both).found if tag == "i" and "title" in a]
    assert len(titles) == 2 * LAYERS
    top = measured.opened().resolve("sensitivity").facts.top
    assert {t for t in titles[:LAYERS] if t.endswith("w8 a16")} == {f"{name}: w8 a16" for name in top}
    ends = {"conv_in: floating point", "conv_out: floating point"}
    assert {t for t in titles[LAYERS:] if not t.endswith("w8 a8")} == ends
    blocks = re.findall(r'class="block"><span>([^<]*)<', both)
    assert blocks[: len(blocks) // 2] == [
        "conv_in",
        *(f"down_blocks.{i}" for i in range(BLOCKS)),
        "mid_block",
        *(f"up_blocks.{i}" for i in range(BLOCKS)),
        "conv_out",
    ]


def test_the_lineage_names_every_artifact(both, measured):
    rows = set(re.findall(r'scope="row"><code>([^<]*/[0-9a-f]{20})</code>', both))
    assert rows == {a.name for a in measured.opened().artifacts()}


def test_prompts_are_text_never_markup(sdquant, sample, tmp_path):
    hostile = ['<script>alert("x")</script>', "a ' \" & </style><img src=x onerror=1>", "{{ 7 * 7 }}"]
    (tmp_path / "p.jsonl").write_text("".join(json.dumps({"prompt": p}) + "\n" for p in hostile))
    from tests.report.conftest import publish_metrics

    sdquant(*sample)
    sdquant("calibrate", "--bits", "w8a8", "--iterations", 0)
    for words in ((), ("--model", "fp")):
        sdquant("generate", "--prompts", tmp_path / "p.jsonl", *words)
    store = sdquant.opened()
    publish_metrics(store, *(store.resolve(f"images/{tag}") for tag in ("latest-quantized", "latest-fp")))
    page = Parsed(written(sdquant, tmp_path / "r.html"))
    assert page.count("script") == 1
    assert all("onerror" not in a for _, a in page.found)
    assert all(prompt in page.words for prompt in hostile)
    assert page.downloads["p.txt"].decode().splitlines() == hostile
    # without a ranking, tables and a floor the page says so
    assert "Nothing is calibrated: scales are found at run time, per token and pixel." in page.words
    assert "found at run time, per token and pixel" in page.words
    assert "w8a8 was calibrated without a sensitivity artifact." in page.words
    assert "(not measured here)" in page.words


@pytest.mark.parametrize("kind", ["sensitivity", "latents", "time-table", "drift", "text-embeds"])
def test_what_was_removed_is_said(changeable, tmp_path, kind):
    key = changeable.opened().resolve(f"{kind}/{newest(changeable, kind)}").manifest.key
    changeable("rm", key, "--force")
    page = Parsed(written(changeable, tmp_path / "r.html", "metrics/mixed"))
    if kind == "drift":
        assert "not measured; run sdquant evaluate --drift" in page.words
    else:
        assert "removed from the store" in page.words
    if kind in ("sensitivity", "latents"):
        assert f"Not available: {kind}/{key} was removed; make it with sdquant sam" in page.words or (
            f"w4a8 mixed: {kind}/{key} was removed; make it with sdquant {kind}" in page.words
        )


def newest(sdquant, kind: str) -> str:
    return [a for a in sdquant.opened().artifacts() if a.manifest.kind == kind][-1].manifest.key


def test_a_missing_input_names_the_command(changeable, tmp_path):
    key = changeable.opened().resolve("quant-state").manifest.key
    changeable("rm", key, "--force")
    told = changeable("report", "--output", tmp_path / "r.html", code=3).stderr
    assert f"quant-state/{key} was removed; make it with `sdquant calibrate" in told
    assert not (tmp_path / "r.html").exists()


def test_refusals(measured, sdquant, tmp_path):
    def told(*words, code=2):
        return measured("report", *words, code=code).stderr

    assert "is a folder, expected a file" in told("--output", tmp_path)
    assert "there is no folder" in told("--output", tmp_path / "none" / "r.html")
    assert "images: is images, expected metrics" in told("images")
    assert "is named twice" in told("metrics", "metrics/latest")
    assert "--pictures 0" in told("--pictures", 0)
    assert "no artifact named 'abc'" in told("abc", code=3)
    assert "sdquant evaluate" in sdquant("report", code=3).stderr


@pytest.mark.parametrize(
    ("words", "field"),
    [(("--limit", 5), "N"), (("--seed", 1), "seed"), ((), "prompts")],
)
def test_metrics_that_differ_are_not_put_side_by_side(changeable, tmp_path, words, field):
    from tests.report.conftest import publish_metrics

    prompts = HELDOUT
    if field == "prompts":
        prompts = tmp_path / "other.txt"
        prompts.write_text("\n".join(reversed(HELDOUT.read_text().splitlines()[:6])))
    for engine in ((), ("--model", "fp")):
        changeable("generate", "--prompts", prompts, "--limit", 6, *words, *engine)
    store = changeable.opened()
    publish_metrics(store, *(store.resolve(f"images/{tag}") for tag in ("latest-quantized", "latest-fp")))
    told = changeable("report", "metrics/mixed", "metrics", code=2).stderr
    assert f": {field} is " in told
    assert f"metrics with different {field} cannot be compared" in told


def test_floating_point_pictures_are_no_quantized_model(changeable):
    from tests.report.conftest import publish_metrics

    store = changeable.opened()
    fp = [a for a in store.artifacts() if a.manifest.kind == "images" and a.spec.engine == "fp"]
    publish_metrics(store, *fp)
    assert "measures floating-point images" in changeable("report", code=2).stderr


# ------------------------------------------------------------------------------- reproduction


def commands(text: str) -> list[str]:
    """The command lines of a page, as a reader copies them."""
    block = re.search(r'<pre id="commands">(.*?)</pre>', text, flags=re.S)[1]
    parsed = Parsed(block)
    return parsed.words.strip().splitlines()


def test_every_field_of_a_spec_has_a_flag_or_a_reason():
    for spec, rows in FLAGS.items():
        assert set(rows) == set(spec.model_fields), spec.__name__


def test_a_field_that_commands_do_not_know_is_a_loud_error(monkeypatch):
    class Extended(SensitivitySpec):
        added: str

    fields = {"bits": "w4a8", "measure": "fisher", "latents": 4, "micro_batch": 8, "loss": None}
    spec = Extended(**fields, added="this")
    monkeypatch.setitem(FLAGS, Extended, FLAGS[SensitivitySpec])
    with pytest.raises(TypeError, match=r"Extended\.added: no option sets it"):
        spec_flags(spec)
    monkeypatch.setitem(FLAGS, Extended, FLAGS[SensitivitySpec] | {"added": Only("that")})
    assert spec_flags(spec)[1] == ["added this, which this version cannot set (it has that)"]


def test_commands_make_the_same_pictures_in_an_empty_store(both, measured, sdquant, tmp_path, monkeypatch):
    """All but `evaluate`, whose metrics are published by hand here."""
    import shlex

    monkeypatch.chdir(tmp_path)
    for name, data in Parsed(both).downloads.items():
        (tmp_path / name).write_bytes(data)
    lines = commands(both)
    assert lines[0] == "export SDQUANT_STORE=./sdquant-again"
    ran = [shlex.split(line)[1:] for line in lines if line.startswith("sdquant ")]
    assert [words[0] for words in ran] == [
        *("sample", "precalc-time", "calibrate", "generate", "evaluate"),
        *("sensitivity", "calibrate", "generate", "evaluate"),  # a ranking for the mixed one alone
        "report",
    ]
    for words in ran:
        if words[0] not in ("evaluate", "report"):
            sdquant(*words)
    made = {a.manifest.digest for a in sdquant.opened().artifacts()}
    for name in ("metrics/mixed", "metrics"):
        images = measured.opened().resolve(name).manifest.inputs["images"]
        assert images.digest in made


def test_what_commands_cannot_do_is_said(changeable, tmp_path):
    from tests.report.conftest import publish_metrics

    store = changeable.opened()
    images = store.resolve("images/latest-quantized")
    fp = [a for a in store.artifacts() if a.manifest.kind == "images" and a.spec.engine == "fp"]
    publish_metrics(store, images, next(a for a in fp if a.spec.seed == 1))
    text = written(changeable, tmp_path / "r.html")
    assert "which --against fp does not generate." in Parsed(text).words
    assert any("--no-floor" in line for line in commands(text))


def test_a_large_prompt_file_is_named_and_not_embedded(measured, tmp_path, monkeypatch):
    monkeypatch.setattr("sdquant_cli.report.content.PROMPT_BYTES", 10)
    page = Parsed(written(measured, tmp_path / "r.html"))
    assert not page.downloads
    assert "too large to embed" in page.words


def test_prompt_files_hold_prompts_exactly(tmp_path):
    from pathlib import Path

    from sdquant_cli.artifacts.prompts import store_prompts
    from sdquant_cli.artifacts.workspace import Workspace
    from sdquant_cli.prompts import PromptFile, read_prompts
    from sdquant_cli.store import Store

    for prompts in (("plain", "b\u2028c"), ("a\nline", "two"), ("\ufeffmarked",)):
        file = PromptFile(Path("odd name.csv"), prompts, 0, 0)
        stored = store_prompts(Workspace(Store(str(tmp_path / "store"))), file)
        saved = prompt_file(stored.facts.source, stored.texts())
        (tmp_path / saved.name).write_bytes(saved.data)
        assert read_prompts(tmp_path / saved.name).prompts == prompts
        assert saved.prompts == len(prompts)


# ------------------------------------------------------------------------------- the real chain


def test_commands_make_the_same_metrics_in_an_empty_store(sdquant, sample, tmp_path, monkeypatch):
    import shlex

    from tests.conftest import Sdquant

    for words in (sample, ("sensitivity",), ("calibrate", "--bits", "w4a8", "--mixed", *SMALL), GENERATE):
        sdquant(*words)
    sdquant("evaluate", "--against", "fp", "--drift")
    text = written(sdquant, tmp_path / "r.html")
    monkeypatch.chdir(tmp_path)
    for name, data in Parsed(text).downloads.items():
        (tmp_path / name).write_bytes(data)
    again = Sdquant(tmp_path / "again")
    for line in commands(text):
        if line.startswith("sdquant "):
            again(*shlex.split(line)[1:])
    first, second = (s.opened().resolve("metrics").manifest for s in (sdquant, again))
    assert first.digest == second.digest
    assert (tmp_path / "sdquant-report.html").exists()


def test_layers_are_those_of_the_model_that_was_quantized_and_no_network_is_asked(monkeypatch):
    """Without a ranking: revision, variant, base and adapter are those of the calibration."""
    from types import SimpleNamespace

    from sdquant_cli.artifacts.lineage import Lineage
    from sdquant_cli.manifests import ModelRef
    from sdquant_cli.models.source import ModelName
    from sdquant_cli.report import layers

    calls = []

    def find_model(name, *, fetch):
        calls.append((name, fetch))
        return SimpleNamespace(layer_shapes={"conv_in": None})

    monkeypatch.setattr(layers, "find_model", find_model)
    fields = {"source": "m.safetensors", "revision": "r", "variant": "fp16", "base": "b"}
    fields |= {"lora": "l.safetensors", "lora_scale": 0.5}
    setting = SimpleNamespace(model=ModelRef(digest="d", **fields))
    model = SimpleNamespace(
        images=SimpleNamespace(spec=SimpleNamespace(setting=setting)),
        state=SimpleNamespace(inputs={}),
        label="w4a8",
    )
    assert layers.layer_names([model], Lineage({}, {})) == ["conv_in"]
    assert calls == [(ModelName(**fields), False)]
