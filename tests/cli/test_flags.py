"""Each flag of each command: what it sets in the stage's request, and which field of a spec that becomes.

A flag without a row fails `test_every_flag_has_a_row`.
"""

import importlib
from pathlib import Path

import pytest
import typer

from sdquant_cli import manifests
from sdquant_cli.cli import app
from sdquant_cli.report import reproduce
from sdquant_cli.types import (
    Activations,
    Dtype,
    Engine,
    ExportFormat,
    Measure,
    Ranges,
    Relax,
    Select,
    StepMatch,
    Tables,
    TimePath,
    Train,
)

GROUP = typer.main.get_command(app)
COMMANDS = GROUP.commands

# command -> flag -> (what is typed after it, the value in the request, the field of a spec or None)
MODEL = {
    "--model": ("m", "m", "ModelRef.source"),
    "--revision": ("v1", "v1", "ModelRef.revision"),
    "--variant": ("fp16", "fp16", "ModelRef.variant"),
    "--base": ("b", "b", "ModelRef.base"),
    "--lora": ("l", Path("l"), "ModelRef.lora"),
    "--lora-scale": ("0.5", 0.5, "ModelRef.lora_scale"),
}
SCHEDULE = {
    "--scheduler": ("EulerDiscreteScheduler", "euler", "Setting.scheduler"),
    "--steps": ("7", 7, "Setting.steps"),
}
SIZE = {
    "--guidance-scale": ("2.5", 2.5, "Setting.guidance_scale"),
    "--height": ("64", 64, "Setting.height"),
    "--width": ("72", 72, "Setting.width"),
}
DTYPE = {"--dtype": ("bf16", Dtype.BF16, "Setting.dtype")}
PROMPTS = {
    "--prompts": ("p.txt", Path("p.txt"), None),
    "--column": ("caption", "caption", None),
    "--shuffle": ("5", 5, None),
    "--limit": ("3", 3, None),
}
DEVICE = {"--device": ("cuda:1", "cuda:1", None)}
STATE = {"--state": ("quant-state/x", "quant-state/x", None)}
WEIGHTS = {"--weights-dir": ("w", Path("w"), None)}
DOWNLOAD = {"--download": (None, True, None)}

NUMBERS = {  # of `calibrate`, and of every row of `leaderboard`
    "--full-range": (None, True, "QuantStateSpec.full_range"),
    "--no-full-range": (None, False, None),
    "--group-size": ("16", 16, "QuantStateSpec.group_size"),
    "--branch-rank": ("4", 4, "QuantStateSpec.branch_rank"),
    "--edges": ("W8A16", "w8a16", "QuantStateSpec.edges"),
    "--activations": ("token", Activations.TOKEN, "QuantStateSpec.activations"),
    "--tables": ("single", Tables.SINGLE, "QuantStateSpec.tables"),
    "--ranges": ("l2.4", Ranges.L24, "QuantStateSpec.ranges"),
    "--relax": ("first", Relax.FIRST, "QuantStateSpec.relax"),
    "--smoothing": (None, True, "QuantStateSpec.smoothing"),
    "--no-smoothing": (None, False, "QuantStateSpec.smoothing"),
}
FLAGS = {
    "sample": {
        **PROMPTS,
        "--per-prompt": ("2", 2, "LatentsSpec.per_prompt"),
        "--select": ("normal", Select.NORMAL, "SelectSpec.rule"),
        "--select-mean": ("0.3", 0.3, "SelectSpec.mean"),
        "--select-deviation": ("0.2", 0.2, "SelectSpec.deviation"),
        "--select-variety": ("4", 4.0, "SelectSpec.variety"),
        "--select-radius": ("0.1", 0.1, "SelectSpec.radius"),
        **MODEL,
        **SCHEDULE,
        **SIZE,
        **DTYPE,
        "--seed": ("9", 9, "LatentsSpec.seed"),
        "--micro-batch": ("4", "4", "LatentsSpec.micro_batch"),
        **DEVICE,
    },
    "precalc-time": {**SCHEDULE, **DEVICE},
    "sensitivity": {
        "--measure": ("sqnr", Measure.SQNR, "SensitivitySpec.measure"),
        "--ranking": ("r.txt", Path("r.txt"), None),
        "--bits": ("W8A8", "w8a8", "SensitivitySpec.bits"),
        "--limit": ("3", 3, "SensitivitySpec.latents"),
        "--micro-batch": ("4", 4, "SensitivitySpec.micro_batch"),
        **DEVICE,
    },
    "calibrate": {
        "--method": ("rtn", "rtn", "QuantStateSpec.method"),
        "--bits": ("w3a8", "w3a8", "QuantStateSpec.bits"),
        "--mixed": (None, True, "QuantStateSpec.mixed"),
        "--no-mixed": (None, False, None),
        "--budget": ("3mb", "3MB", "QuantStateSpec.budget"),
        **NUMBERS,
        "--split-shortcuts": (None, True, "QuantStateSpec.split_shortcuts"),
        "--no-split-shortcuts": (None, False, "QuantStateSpec.split_shortcuts"),
        "--attention-bits": ("8", 8, "QuantStateSpec.attention_bits"),
        "--softmax-bits": ("8", 8, "QuantStateSpec.softmax_bits"),
        "--time-path": ("quantized", TimePath.QUANTIZED, None),
        "--iterations": ("5", 5, "QuantStateSpec.iterations"),
        "--forwards": ("1e3", 1000.0, None),
        "--batch-size": ("2", 2, "QuantStateSpec.batch_size"),
        "--accumulate": ("2", 2, "TrainSpec.accumulate"),
        "--train": ("low-rank", Train.LOW_RANK, "TrainSpec.what"),
        "--zero-points": (None, True, "TrainSpec.zero_points"),
        "--no-zero-points": (None, False, None),
        "--rank": ("8", 8, "TrainSpec.rank"),
        "--weight-rate": ("0.001", 0.001, "TrainSpec.weight_rate"),
        "--step-rate": ("0.01", 0.01, "ReconstructSpec.step_rate"),
        "--output-weight": ("0.5", 0.5, "LossSpec.output"),
        "--sensitive-weight": ("0.5", 0.5, "LossSpec.sensitive"),
        "--block-weight": ("0.5", 0.5, "LossSpec.blocks"),
        "--guided-weight": ("0.5", 0.5, "LossSpec.guided"),
        "--layer-weight": ("0.5", 0.5, "ReconstructSpec.layer_weight"),
        "--drop": ("0.25", 0.25, "ReconstructSpec.drop"),
        "--cache-memory": ("0.5", 0.5, None),
        "--averaging": ("0.9", 0.9, "TrainSpec.averaging"),
        "--freezing": ("0.02", 0.02, "TrainSpec.freezing"),
        "--teacher-dtype": ("bf16", Dtype.BF16, "TrainSpec.teacher"),
        "--amp": (None, True, "TrainSpec.amp"),
        "--tf32": (None, True, "TrainSpec.tf32"),
        "--checkpointing": (None, True, None),
        "--no-checkpointing": (None, False, None),
        "--images": ("folder", Path("folder"), None),
        "--correction": (None, True, "QuantStateSpec.correction"),
        **SCHEDULE,
        **SIZE,
        "--seed": ("9", 9, "QuantStateSpec.seed"),
        **DEVICE,
    },
    "generate": {
        "--model": ("fp", "fp", None),
        **STATE,
        **PROMPTS,
        "--engine": ("simulated", Engine.SIMULATED, "ImagesSpec.engine"),
        "--step-match": ("nearest", StepMatch.NEAREST, "ImagesSpec.step_match"),
        "--output": ("folder", Path("folder"), None),
        **SCHEDULE,
        **SIZE,
        **DTYPE,
        "--seed": ("9", 9, "ImagesSpec.seed"),
        "--micro-batch": ("4", "4", "ImagesSpec.micro_batch"),
        **DEVICE,
    },
    "evaluate": {
        "--against": ("images/x", "images/x", None),
        "--images": ("images/y", "images/y", None),
        "--prompts": ("p.txt", Path("p.txt"), None),
        "--column": ("text", "text", None),
        "--output": ("r.html", Path("r.html"), None),
        "--gate": ("psnr>=25.0", ("psnr>=25",), None),
        "--require": ("lpips, fid", ("lpips", "fid"), None),
        "--floor": (None, True, None),
        "--no-floor": (None, False, None),
        "--drift": (None, True, None),
        "--drift-prompts": ("3", 3, "DriftSpec.prompts"),
        "--summary": ("s.md", Path("s.md"), None),
        **WEIGHTS,
        **DOWNLOAD,
        **DEVICE,
    },
    "export": {
        "--output": ("folder", Path("folder"), None),
        **STATE,
        "--format": ("dequant", ExportFormat.DEQUANT, None),
        "--lossy": (None, True, None),
        **{flag: (word, value, None) for flag, (word, value, _) in SCHEDULE.items()},
    },
    "bench": {
        **STATE,
        "--height": ("64", 64, None),
        "--width": ("72", 72, None),
        "--items": ("4", 4, None),
        "--repeats": ("5", 5, None),
        "--pictures": ("0", 0, None),
    },
    "report": {
        "NAMES": ("metrics/x", ("metrics/x",), None),
        "--output": ("r.html", Path("r.html"), None),
        "--pictures": ("3", 3, None),
    },
    "leaderboard": {
        **PROMPTS,
        **{flag: (word, value, None) for flag, (word, value, _) in NUMBERS.items()},
        "--mixed": (None, True, None),
        "--no-mixed": (None, False, None),
        "--budget": ("3mb", "3MB", None),
        "--methods": ("rtn, pcr", ("rtn", "pcr"), None),
        "--bits": ("w8a8, W4A8", ("w8a8", "w4a8"), None),
        "--test-prompts": ("t.txt", Path("t.txt"), None),
        "--test-column": ("text", "text", None),
        "--seed": ("9", 9, None),
        "--calibrations": ("3", 3, None),
        "--iterations": ("5", 5, None),
        "--forwards": ("1e3", 1000.0, None),
        "--output": ("b.html", Path("b.html"), None),
        "--markdown": ("b.md", Path("b.md"), None),
        "--pictures": ("3", 3, None),
        **MODEL,
        **SCHEDULE,
        **SIZE,
        **DTYPE,
        **WEIGHTS,
        **DEVICE,
    },
    "doctor": {**WEIGHTS, **DOWNLOAD},
}
REQUIRED = {  # without which a command refuses to start
    "sample": {"--prompts": "p.txt"},
    "export": {"--output": "folder"},
    "leaderboard": {"--prompts": "p.txt"},
}
SHARED = {  # flags that set no field of a request, and the test that is theirs
    "--store": "test_the_store_is_opened_where_the_flag_says",
    "--dry-run": "test_a_dry_run_plans",
    "--json": "test_json_is_one_document",
    "--preset": "tests/cli/test_presets.py",
}
OTHERS = {  # commands whose request goes to no stage with a store: their flags and arguments
    "quantize": {
        "MODEL",
        "--output",
        "--components",
        "--bits",
        "--group-size",
        "--branch-rank",
        "--dry-run",
        *MODEL,
    }
    - {"--model"},
    "demo": {"--output", "--store"},
    "run": {"--config", "--dry-run", "--store", "--json"},
    "ls": {"--store", "--json"},
    "show": {"NAME", "--store", "--json"},
    "verify": {"NAME", "--store"},
    "rm": {"NAME", "--force", "--store"},
    "gc": {"--older-than", "--dry-run", "--store"},
    "tag": {"NAME", "TAG_NAME", "--store"},
}
RUNS = {name: (name.replace("-", "_"), "run") for name in FLAGS} | {"doctor": ("doctor", "examine")}


def parameters(name):
    """Return every spelling of a command's flags, and its arguments in capitals."""
    spellings = set()
    for parameter in COMMANDS[name].get_params(typer.Context(COMMANDS[name])):
        for spelling in (*parameter.opts, *parameter.secondary_opts):
            spellings.add(spelling if spelling.startswith("-") else spelling.upper())
    return spellings


@pytest.mark.parametrize("name", COMMANDS)
def test_every_flag_has_a_row(name):
    if name in OTHERS:
        assert parameters(name) - {"--help"} == OTHERS[name]
        return
    assert parameters(name) - {*SHARED, "--help"} == FLAGS[name].keys()


@pytest.fixture
def run(sdquant, monkeypatch):
    """Run a command up to its stage; return what the stage is called with."""

    def intercepted(command, *words, function=None):
        calls = []

        def stop(*arguments):
            calls.append(arguments)
            raise typer.Exit

        module, usual = RUNS[command]
        stage = importlib.import_module(f"sdquant_cli.stages.{module}")
        monkeypatch.setattr(stage, function or usual, stop)
        has_store = "--store" in parameters(command)
        line = [command, *words, *(["--store", str(sdquant.store)] if has_store else [])]
        assert GROUP.main(line, prog_name="sdquant", standalone_mode=False) == 0
        return calls[0]

    return intercepted


def line_of(command, flag, typed):
    """Return the words of a command line that gives a flag a value, and whatever else the command needs."""
    words = [word for pair in REQUIRED.get(command, {}).items() if pair[0] != flag for word in pair]
    if flag.startswith("--"):
        words.append(flag)
    return words if typed is None else [*words, typed]


@pytest.mark.parametrize(
    ("command", "flag"), [(command, flag) for command, rows in FLAGS.items() for flag in rows]
)
def test_a_flag_sets_its_field_of_the_request(run, command, flag):
    typed, value, _ = FLAGS[command][flag]
    request, *_ = run(command, *line_of(command, flag, typed))
    field = flag.removeprefix("--").removeprefix("no-").replace("-", "_").lower()
    assert getattr(request, field) == value
    without = [word for pair in REQUIRED.get(command, {}).items() for word in pair]
    default, *_ = run(command, *without)
    changed = {
        name for name in type(request).model_fields if getattr(request, name) != getattr(default, name)
    }
    assert changed <= {field}


SPECS = [
    pytest.param(flag, value, field, id=f"{command} {flag}")
    for command, rows in FLAGS.items()
    for flag, (_, value, field) in rows.items()
    if field is not None and field.partition(".")[0] not in ("ModelRef", "Setting")
]


@pytest.mark.parametrize(("flag", "value", "field"), SPECS)
def test_a_reports_commands_set_that_field_by_the_same_flag(flag, value, field):
    owner, _, name = field.partition(".")
    cls = getattr(manifests, owner)
    fields = dict.fromkeys(cls.model_fields)
    words, _ = reproduce.spec_flags(cls.model_construct(**fields | {name: value}))
    expected = [flag] if isinstance(value, bool) else [flag, str(value)]
    assert " ".join(expected) in " ".join(words)


@pytest.mark.parametrize("flag", [*MODEL, *SCHEDULE, *SIZE, *DTYPE])
def test_a_reports_commands_set_the_setting_by_the_same_flags(flag):
    _, value, field = (MODEL | SCHEDULE | SIZE | DTYPE)[flag]
    owner, _, name = field.partition(".")
    model = manifests.ModelRef.model_construct(**dict.fromkeys(manifests.ModelRef.model_fields))
    setting = manifests.Setting.model_construct(
        **dict.fromkeys(manifests.Setting.model_fields) | {"model": model}
    )
    if owner == "ModelRef":
        setting = setting.model_copy(update={"model": model.model_copy(update={name: value})})
    else:
        setting = setting.model_copy(update={name: value})
    assert reproduce.setting_flags(setting) == [flag, str(value)]


CALIBRATE = [flag for flag, row in FLAGS["calibrate"].items() if row[2] and not row[2].startswith("Setting")]


@pytest.mark.parametrize("flag", CALIBRATE)
def test_calibrates_flags_reach_the_spec(run, flag):
    """The resolved spec has the value in the field that the table names."""
    from sdquant_cli.methods.resolve import recipe_of, spec_of

    typed, value, field = FLAGS["calibrate"][flag]
    owner, _, name = field.partition(".")
    words = line_of("calibrate", flag, typed)
    words += {
        "--softmax-bits": ["--attention-bits", "6"],
        "--rank": ["--train", "low-rank"],
        "--no-split-shortcuts": ["--method", "q-diffusion"],
    }.get(flag, [])
    words += ["--method", "eda-dm"] if owner == "ReconstructSpec" else []
    request, *_ = run("calibrate", *words)
    spec = spec_of(request, recipe_of(request), request.batch_size or 3, ranked=True, pictures=None)
    within = {"TrainSpec": spec.train, "LossSpec": spec.loss, "ReconstructSpec": spec.reconstruct}
    assert getattr(within.get(owner, spec), name) == value


@pytest.mark.parametrize("command", [name for name in FLAGS if "--dry-run" in parameters(name)])
def test_a_dry_run_plans(run, command):
    request, *_ = run(command, *line_of(command, "", None), "--dry-run", function="plan")
    assert type(request).__name__.lower() == command.replace("-", "") + "request"


@pytest.mark.parametrize("command", [name for name in FLAGS if "--store" in parameters(name)])
def test_the_store_is_opened_where_the_flag_says(run, sdquant, command):
    _, place, *_ = run(command, *line_of(command, "", None))
    assert str(sdquant.store) in getattr(place, "store", place).url


def test_json_is_one_document(sdquant):
    assert sdquant("ls", "--json").stdout == "[]\n"
