"""A configuration file is read, or refused in one line that names file and field."""

import os

import pytest

from sdquant_cli.errors import UsageProblem
from sdquant_cli.options.config_file import read_configs

SAMPLE = "sample:\n  prompts: p.txt\n"


@pytest.fixture
def read(tmp_path):
    def of(content):
        path = tmp_path / "chain.yaml"
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        (config,) = read_configs(path)
        return config

    return of


def test_hyphens_and_underscores_aliases_of_values_and_empty_sections(read, monkeypatch):
    monkeypatch.setenv("HOME", "/home/somebody")
    chain = read(
        "sample: {prompts: ~/p.txt, per-prompt: &n 3, guidance-scale: 0}\n"
        "calibrate: {batch_size: *n, weight-rate: 1e-3, mixed: yes, budget: 4.25}\n"
        "precalc-time:\nevaluate: {gate: ['psnr>=25']}\n"
    )
    assert str(chain.sample.prompts) == "/home/somebody/p.txt"
    assert chain.sample.per_prompt == chain.calibrate.batch_size == 3
    assert chain.sample.guidance_scale == 0.0
    assert chain.calibrate.weight_rate == 1e-3
    assert chain.calibrate.mixed is True
    assert chain.calibrate.budget == "4.25"
    assert chain.evaluate.gate == ("psnr>=25",)
    assert chain.generate.limit is None


def test_several_chains_are_read_in_order(tmp_path):
    path = tmp_path / "chains.yaml"
    path.write_text("# the first\n--- # one\nsample: {prompts: a.txt}\n---\n---\nsample: {prompts: b.txt}\n")
    assert [str(config.sample.prompts) for config in read_configs(path)] == ["a.txt", "b.txt"]


def test_a_preset_fills_what_sections_leave_open(read):
    chain = read(
        "preset: paper-sd14\nsample: {prompts: p.txt, limit: 3}\n"
        "calibrate: {mixed: false, forwards: 1e3}\nsensitivity: {ranking: r.txt}\n"
    )
    assert (chain.sample.limit, chain.sample.steps, chain.sample.scheduler) == (3, 50, "pndm")
    assert (chain.calibrate.mixed, chain.calibrate.edges, chain.calibrate.batch_size) == (False, "none", 12)
    assert chain.calibrate.iterations is None  # --forwards replaces it
    assert chain.sensitivity.limit is None  # so does --ranking
    assert chain.generate.limit == 5_000


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("[" * 100_001, "larger than"),
        ("[" * 90_000, "line 1: more than 10 levels"),
        ("a: {" * 20_000, "line 1: more than 10 levels"),
        ("- " * 40_000, "line 1: more than 10 levels"),
        ("".join(" " * i + "a:\n" for i in range(200)), "line 11: more than 10 levels"),
        (
            "a: &a [x, x]\nb: &b [*a, *a]\nc: [*b, *b]\n",
            r"line 2: \*a: an alias may stand for",
        ),
        ("a: &a {x: 1}\nb: {<<: [*a, *a]}\n", r"line 2: \*a: an alias"),
        ("a: *nothing", r"line 1: \*nothing"),
        (SAMPLE + "  prompts: q.txt\n", "line 3: prompts: is given twice"),
        (SAMPLE + "  per-prompt: 1\n  per_prompt: 2\n", "line 4: per_prompt: is given twice"),
        (SAMPLE + SAMPLE, "line 3: sample: is given twice"),
        (SAMPLE + "  frob: 3\n", "sample.frob 3: unknown field"),
        (SAMPLE + "frob: {}\n", "frob: unknown field"),
        ("generate: {}\n", "sample: is required"),
        ("sample:\n", "sample.prompts: is required"),
        (SAMPLE + "calibrate: 3\n", "calibrate 3: expected fields and their values"),
        (SAMPLE + "  guidance-scale: .inf\n", "sample.guidance_scale inf: .*finite"),
        (SAMPLE + "  guidance-scale: .nan\n", "sample.guidance_scale nan: .*finite"),
        (SAMPLE + "  steps: true\n", "sample.steps True"),
        (SAMPLE + "  steps: 2024-01-01\n", "sample.steps: "),
        (SAMPLE + "  seed: 2024-99-99\n", "line 3: month must be"),
        (SAMPLE + "  seed: " + "9" * 5000, "line 3: Exceeds the limit"),
        (SAMPLE + "  seed: 1" + ":1" * 3000, r"sample.seed \(of 17721 bits\)"),
        (SAMPLE + "  model: !!binary /w==\n", "sample.model: "),
        ('sample: {prompts: "\\ud800"}', "sample.prompts: expected text in UTF-8"),
        ('sample: {prompts: "a\\0b"}', "sample.prompts: expected text without NUL"),
        (SAMPLE + "evaluate: {gate: [psnr>=1_0]}\n", "evaluate.gate psnr>=1_0: expected metric"),
        ("sample: !!python/object/apply:os.system [true]", "line 1: could not determine a constructor"),
        ("? [a]\n: b\n", "line 1: .*unhashable key"),
        ("a: 1\n---\nb: 2\n", "chain 1: sample: is required"),
        (SAMPLE + "---\n" + SAMPLE + "  frob: 3\n", "chain 2: sample.frob 3: unknown field"),
        (SAMPLE + "preset:\n", "preset None: expected one of"),
        (SAMPLE + "preset: paper\n", "preset paper: expected one of paper-sd14, "),
        (SAMPLE + "preset: [paper-sd14]\n", r"preset \['paper-sd14'\]: expected one of"),
        ("sample: 3\npreset: paper-sd14\n", "sample 3: expected fields"),
        ("a: \x01", "not YAML"),
        (b"\xff\xfe\xff", "not YAML"),
        ("1: {}\n", "is required"),
        ("- 1", "expected one section per stage: sample, precalc-time"),
        ("", "expected one section per stage"),
    ],
)
def test_what_makes_no_sense_is_one_line(read, content, says):
    with pytest.raises(UsageProblem, match=rf"^--config .*chain.yaml: .*{says}") as caught:
        read(content)
    assert "\n" not in str(caught.value)


def test_a_pipe_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "chain.yaml")
    with pytest.raises(UsageProblem, match="is a pipe"):
        read_configs(tmp_path / "chain.yaml")
