"""All stages in order, and the demo's picture."""

import numpy as np
import pytest
from PIL import Image

from sdquant_cli.artifacts.metrics import Metrics, layout
from sdquant_cli.artifacts.workspace import Blueprint
from sdquant_cli.errors import UsageProblem
from sdquant_cli.manifests import MetricsFacts, MetricsSpec
from sdquant_cli.options.config_file import PipelineConfig
from sdquant_cli.stages import pipeline
from tests.fakes import pictures, publish_pictures


def test_files_that_cannot_be_written_are_refused_before_the_first_stage(sdquant, tmp_path, monkeypatch):
    monkeypatch.setattr(pipeline, "_STAGES", {})
    config = PipelineConfig.model_validate(
        {"sample": {"prompts": "p.txt"}, "evaluate": {"summary": tmp_path / "absent" / "s.md"}}
    )
    with pytest.raises(UsageProblem, match="--summary"):
        pipeline.run(config, sdquant.workspace())


def test_the_demo_is_small_and_of_the_embedded_model():
    config = pipeline.demo_config()
    assert config.sample.model is None
    assert config.sample.limit <= 64
    assert config.calibrate.bits == "w4a8"


def published(workspace, reference, images, engine="simulated"):
    """The metrics of pictures."""
    sides = {
        "images": publish_pictures(workspace.store, images, engine=engine),
        "reference": publish_pictures(workspace.store, reference, engine="fp"),
    }

    def fill(draft):
        draft.write(0, {"psnr": np.ones(3)})
        return MetricsFacts(metrics={}, floor={}, itself={})

    blueprint = Blueprint(MetricsSpec(metrics=("psnr",), weights={}), sides, layout(["psnr"], 3))
    return workspace.produce(Metrics, blueprint, fill)


def test_pairs_are_drawn_floating_point_above_quantized_below(sdquant, tmp_path):
    workspace = sdquant.workspace()
    reference, images = pictures(3, seed=1), pictures(3, seed=2)
    metrics = published(workspace, reference, images)
    pipeline.side_by_side(metrics, workspace.store, tmp_path / "pairs.png", count=2)
    drawn = np.array(Image.open(tmp_path / "pairs.png"))
    assert drawn.shape == (256, 256, 3)  # two rows of two, enlarged twice
    np.testing.assert_array_equal(drawn[:128:2, :128:2], reference[0])
    np.testing.assert_array_equal(drawn[128::2, 128::2], images[1])


@pytest.mark.parametrize("engine", ["simulated", "integer"])
def test_the_demo_says_which_engine_drew(sdquant, tmp_path, monkeypatch, engine):
    metrics = published(sdquant.workspace(), pictures(3, seed=1), pictures(3, seed=2), engine)
    monkeypatch.setattr(pipeline, "run", lambda *_: metrics)
    told = sdquant("demo", "--output", tmp_path / "pairs.png").stdout
    assert f"below: w4a8, {engine})" in told
