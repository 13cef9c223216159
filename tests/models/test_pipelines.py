"""Pipelines of diffusers without their components."""

import diffusers
import pytest

from sdquant_cli.models.families import FAMILIES
from sdquant_cli.models.pipelines import in_pipeline, no_components, pipeline_class_of, safety_checker_off


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
def test_a_familys_pipeline_is_made_without_components(family):
    cls = pipeline_class_of(family)
    assert cls.__name__ == family.pipelines[0]
    pipeline = cls(**no_components(cls))
    assert not any(pipeline.components.values())


def test_only_a_pipeline_with_a_safety_checker_turns_it_off():
    assert safety_checker_off(diffusers.StableDiffusionPipeline) == {"requires_safety_checker": False}
    assert safety_checker_off(diffusers.StableDiffusion3Pipeline) == {}


@pytest.mark.filterwarnings("ignore")  # diffusers warns of the old configuration
def test_a_pipeline_updates_an_old_scheduler():
    """Stable Diffusion was published with `steps_offset` 0 in old versions, which draws other images."""
    old = diffusers.PNDMScheduler(steps_offset=0)
    updated = in_pipeline(diffusers.StableDiffusionPipeline, old)
    assert isinstance(updated, diffusers.PNDMScheduler)
    assert updated.config["steps_offset"] == 1
