"""The diffusers pipeline of a family, without its components."""

import inspect
from typing import TYPE_CHECKING

from .families import Family

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline

    from .samplers import Sampler


def pipeline_class_of(family: Family) -> "type[DiffusionPipeline]":
    """Return the first pipeline class of a family, which encodes prompts and updates schedulers."""
    import diffusers

    return getattr(diffusers, family.pipelines[0])


def no_components(pipeline_class: "type[DiffusionPipeline]") -> dict[str, object]:
    """Return arguments that make a pipeline without components and without a safety checker."""
    arguments: dict[str, object] = {}
    for parameter in inspect.signature(pipeline_class).parameters.values():
        has_default = parameter.default is not parameter.empty
        arguments[parameter.name] = parameter.default if has_default else None
    return arguments | safety_checker_off(pipeline_class)


def safety_checker_off(pipeline_class: "type[DiffusionPipeline]") -> dict[str, bool]:
    """Return the argument that turns the safety checker off; empty where a pipeline has none."""
    name = "requires_safety_checker"
    return {name: False} if name in inspect.signature(pipeline_class).parameters else {}


def in_pipeline(pipeline_class: "type[DiffusionPipeline]", scheduler: "Sampler") -> "Sampler":
    """Return a scheduler as a pipeline holds it: some classes update old configurations."""
    return pipeline_class(**{**no_components(pipeline_class), "scheduler": scheduler}).scheduler
