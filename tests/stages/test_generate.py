"""`generate`: which model draws, with which setting."""

import numpy as np
import pytest
from PIL import Image

from sdquant_cli.errors import UsageProblem
from sdquant_cli.options.requests import GenerateRequest
from sdquant_cli.stages import generate
from tests.conftest import PROMPTS
from tests.fakes import pictures, publish_pictures

HELDOUT = PROMPTS / "shapes-heldout.txt"


def test_without_any_artifact_the_floating_point_model_draws_with_its_defaults(sdquant):
    request = GenerateRequest(model="fp", prompts=HELDOUT, steps=4)
    source = generate._floating_point(request, sdquant.workspace())
    assert source.state is None
    assert source.setting.steps == 4
    assert source.setting.model.source == "shapes"


@pytest.mark.parametrize(
    ("words", "flag"), [({"state": "quant-state"}, "--state"), ({"engine": "integer"}, "--engine integer")]
)
def test_flags_of_a_quantized_model_are_refused_with_the_floating_point_one(sdquant, words, flag):
    request = GenerateRequest(model="fp", prompts=HELDOUT, **words)
    with pytest.raises(UsageProblem, match=flag):
        generate.run(request, sdquant.workspace())


def test_a_column_needs_a_prompt_file(sdquant):
    request = GenerateRequest(model="fp", column="title")
    with pytest.raises(UsageProblem, match="--column title"):
        generate.run(request, sdquant.workspace())


def test_png_files_hold_the_pictures(sdquant, tmp_path):
    workspace, drawn = sdquant.workspace(), pictures(2)
    generate.write_png(publish_pictures(workspace.store, drawn), tmp_path / "out", workspace.events)
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["00000.png", "00001.png"]
    np.testing.assert_array_equal(np.array(Image.open(tmp_path / "out" / "00001.png")), drawn[1])
