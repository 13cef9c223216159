"""Diffusers' pipeline of a family, without its components."""

import inspect
from typing import Any

from .families import Family


def pipeline_class_of(family: Family) -> Any:
    """The first pipeline class of a family, which encodes prompts and mends schedulers."""
    import diffusers

    return getattr(diffusers, family.pipelines[0])


def no_components(pipeline_class: Any) -> dict[str, Any]:
    """Return arguments that make a pipeline without components, and without a safety checker."""
    takes = inspect.signature(pipeline_class).parameters.values()
    parts = {p.name: None if p.default is p.empty else p.default for p in takes}
    return parts | safety_checker_off(pipeline_class)


def safety_checker_off(pipeline_class: Any) -> dict[str, bool]:
    """Return the argument that lets a pipeline do without a safety checker, of those that have one."""
    name = "requires_safety_checker"
    return {name: False} if name in inspect.signature(pipeline_class).parameters else {}


def in_pipeline(pipeline_class: Any, scheduler: Any) -> Any:
    """Return a scheduler as a pipeline holds it: some classes mend old configurations on construction."""
    return pipeline_class(**{**no_components(pipeline_class), "scheduler": scheduler}).scheduler
