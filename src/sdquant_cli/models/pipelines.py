"""Diffusers' pipeline of a family, without its components."""

import inspect
from typing import Any

from .families import Family


def pipeline_class_of(family: Family) -> Any:
    """The first pipeline class of a family, which encodes prompts and mends schedulers."""
    import diffusers

    return getattr(diffusers, family.pipelines[0])


def no_components(pipeline_class: Any) -> dict[str, Any]:
    """Arguments that make a pipeline without components, and without a safety checker."""
    takes = inspect.signature(pipeline_class).parameters.values()
    parts = {p.name: None if p.default is p.empty else p.default for p in takes}
    if "requires_safety_checker" in parts:
        parts["requires_safety_checker"] = False
    return parts
