"""The paper's tables in examples/paper/ are planned, and what the presets ask for fits the GPUs they name."""

import json
import shutil

import pyarrow
import pytest
from pyarrow import parquet

from sdquant_cli.calibration.published_ranking import read_ranking
from sdquant_cli.methods.resolve import recipe_of, spec_of
from sdquant_cli.models.load import find_model
from sdquant_cli.options.calibration import CalibrateRequest
from sdquant_cli.options.config_file import read_configs
from sdquant_cli.options.presets import PRESETS, preset_values
from sdquant_cli.quant.allocate import extremes
from sdquant_cli.resources import predicted
from sdquant_cli.types import Preset
from tests.conftest import ROOT
from tests.fakes import setting
from tools.random_models.make import make

PAPER = ROOT / "examples" / "paper"
TABLES = sorted(PAPER.glob("*.yaml"))
PIPELINES = {Preset.SD14: "sd-v1-4", Preset.SD21: "sd-v2-1", Preset.SDXL: "sdxl"}
GPU_BYTES = {Preset.SD14: 40e9, Preset.SD21: 40e9, Preset.SDXL: 80e9}
PEAK = "peak memory, bytes"


@pytest.fixture(scope="session")
def skeletons(tmp_path_factory):
    """Folders of the paper's models at full size, without weights, by their names on the Hub."""
    root = tmp_path_factory.mktemp("skeletons")
    return {
        PRESETS[preset]["sample"]["model"]: make(name, root / name, weights=False)
        for preset, name in PIPELINES.items()
    }


@pytest.fixture
def beside_the_data(tmp_path, monkeypatch, skeletons):
    """A working folder with three prompts in each data set, and models without weights in the Hub's place."""
    captions = {"annotations": [{"image_id": i, "id": i, "caption": f"a cat {i}"} for i in range(3)]}
    for name in ("captions_train2017.json", "captions_val2017.json"):
        (tmp_path / name).write_text(json.dumps(captions))
    parquet.write_table(
        pyarrow.table({"Prompt": ["a dog 0", "a dog 1", "a dog 2"]}), tmp_path / "sd-prompts.parquet"
    )
    shutil.copytree(PAPER, tmp_path / "examples" / "paper")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sdquant_cli.models.load.locate", lambda name, **_: skeletons[name.source])
    # predictions take seconds at full size and are not the point here
    monkeypatch.setattr(predicted, "drawing", lambda *_, **__: {})
    monkeypatch.setattr(predicted, "calibrating", lambda *_, **__: {})


def test_there_is_a_file_for_each_table():
    assert [path.stem for path in TABLES] == sorted(f"table-{n}" for n in range(4, 12))
    for path in TABLES:
        assert path.read_text().startswith(f"# {path.stem.replace('table-', 'Table ')} of ")


@pytest.mark.parametrize("path", TABLES, ids=lambda path: path.stem)
def test_a_table_is_planned_row_by_row(sdquant, beside_the_data, path):
    config = path.relative_to(ROOT)
    chains = json.loads(sdquant("run", "--config", config, "--dry-run", "--json").stdout)
    configs = read_configs(config)
    assert len(chains) == len(configs)
    for plans, asked in zip(chains, configs, strict=True):
        stages = {plan["stage"]: plan["plan"] for plan in plans}
        assert stages["evaluate"]["images"] == 3
        assert stages["generate"]["UNet calls"] >= 3 * 2 * (asked.generate.steps or asked.sample.steps)
        if calibrate := stages.get("calibrate"):  # else an earlier row has made it
            assert calibrate["method"] == asked.calibrate.method
            assert calibrate["iterations"] == asked.calibrate.iterations
            assert asked.calibrate.method != "serial-to-parallel" or calibrate["losses"] == "L_out + L_sen"
    assert "sample" in [plan["stage"] for plan in chains[0]]
    assert not sdquant.store.exists()


@pytest.mark.parametrize(
    "preset",
    [Preset.SD14, *(pytest.param(name, marks=pytest.mark.full_size) for name in (Preset.SD21, Preset.SDXL))],
)
def test_a_presets_training_fits_the_gpu(monkeypatch, skeletons, preset):
    monkeypatch.setattr(predicted, "_resident", lambda: 0)
    monkeypatch.setattr(predicted, "_seconds", lambda cost, _: float(cost.flops))
    sample = PRESETS[preset]["sample"]
    model = find_model(str(skeletons[sample["model"]]))
    names = ("scheduler", "steps", "guidance_scale", "height", "width")
    drawn = setting(**{name: sample[name] for name in names})

    def peak(**given):
        request = CalibrateRequest(**preset_values(preset, "calibrate", given), **given)
        spec = spec_of(request, recipe_of(request), request.batch_size, ranked=True, pictures=None)
        checkpointing = request.checkpointing
        return predicted.calibrating(model, drawn, spec, sample["limit"], 0, checkpointing=checkpointing)[
            PEAK
        ]

    assert peak() < 0.75 * GPU_BYTES[preset]  # the rest is for what is not predicted
    assert peak(checkpointing=False) > GPU_BYTES[preset]


@pytest.mark.parametrize(
    ("file", "preset"), [("layers-sd14.txt", Preset.SD14), ("layers-sdxl.txt", Preset.SDXL)]
)
def test_the_published_layers_are_the_ends_of_a_ranking(skeletons, file, preset):
    layers = list(find_model(str(skeletons[PRESETS[preset]["sample"]["model"]])).layer_shapes)
    published = json.loads((ROOT / "tests" / "data" / "paper_layers.json").read_text())
    lists = published["sd-v1-4" if preset is Preset.SD14 else "sdxl-1.0"]
    ranking = read_ranking(PAPER / file, layers)
    assert sorted(ranking) == sorted(layers)
    assert extremes(ranking) == (tuple(lists["sensitive"]), tuple(lists["insensitive"]))
