"""The configuration file of `sdquant run`: YAML with a section per stage, or several such documents.

Deep nesting, tags, aliases of anything but single values and repeated fields are refused before anything
is built from them.
"""

from collections.abc import Hashable, Iterator, Mapping
from pathlib import Path
from typing import Any, NoReturn

import yaml
from pydantic import ConfigDict, ValidationError

from ..errors import UsageProblem, first_line
from ..paths import check_regular, plain
from ..types import Preset
from .presets import PRESETS, preset_values
from .requests import (
    CalibrateRequest,
    EvaluateRequest,
    Fields,
    GenerateRequest,
    PrecalcTimeRequest,
    SampleRequest,
    SensitivityRequest,
    first_problem,
)

LARGEST = 100_000  # bytes
DEEPEST = 10  # sections, fields, lists


class PipelineConfig(Fields):
    """A section per stage, with the fields of its request.

    A stage without a section runs with its defaults.
    """

    model_config = ConfigDict(alias_generator=lambda name: name.replace("_", "-"))
    sample: SampleRequest
    precalc_time: PrecalcTimeRequest = PrecalcTimeRequest()
    sensitivity: SensitivityRequest = SensitivityRequest()
    calibrate: CalibrateRequest = CalibrateRequest()
    generate: GenerateRequest = GenerateRequest()
    evaluate: EvaluateRequest = EvaluateRequest()


SECTIONS = tuple(name.replace("_", "-") for name in PipelineConfig.model_fields)


class _Loader(yaml.SafeLoader):
    """A YAML loader that refuses repeated fields and malformed values."""

    def construct_object(self, node: yaml.Node, deep: bool = False) -> object:
        """Return a node's value; raises yaml.MarkedYAMLError for a malformed one."""
        try:
            return super().construct_object(node, deep)
        except (ValueError, OverflowError) as error:  # no such date, too many digits
            _refuse(first_line(error), node)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        """Return a mapping; raises yaml.MarkedYAMLError for a repeated field."""
        names = set()
        for key, _ in node.value:
            name = str(key.value).replace("-", "_")
            if name in names:
                _refuse(f"{key.value}: is given twice", key)
            names.add(name)
        return super().construct_mapping(node, deep)


def read_configs(path: Path) -> list[PipelineConfig]:
    """Read the chains of a configuration file; raises UsageProblem that names file, chain and field."""
    flag = f"--config {path}"
    documents = _documents(path, flag) or [None]
    if len(documents) == 1:
        return [_config(documents[0], flag)]
    return [_config(document, f"{flag}: chain {i}") for i, document in enumerate(documents, 1)]


def _config(document: object, flag: str) -> PipelineConfig:
    if not isinstance(document, Mapping):
        raise UsageProblem(f"{flag}: expected one section per stage: {', '.join(SECTIONS)}")
    sections = {name: _with_underscores(section) for name, section in document.items() if name != "preset"}
    if "preset" in document:
        sections = _with_preset(sections, document["preset"], flag)
    try:
        return PipelineConfig.model_validate(sections)
    except ValidationError as error:
        names, value, message = first_problem(error)
        field = f"{'.'.join(names)} {value}".strip()
        raise UsageProblem(f"{flag}: {field}: {message}") from None


def _with_preset(sections: dict[str, Any], name: object, flag: str) -> dict[str, Any]:
    """Return sections with a preset's values where they have none; raises UsageProblem for an unknown one."""
    if not isinstance(name, str) or name not in list(Preset):
        raise UsageProblem(f"{flag}: preset {name}: expected one of {', '.join(Preset)}")
    for stage in PRESETS[Preset(name)]:
        section = sections.get(stage, {})
        if isinstance(section, Mapping):
            sections[stage] = {**preset_values(Preset(name), stage, section), **section}
    return sections


def _documents(path: Path, flag: str) -> list[object]:
    """Return the documents of a file but for empty ones; raises UsageProblem if it is not plain YAML."""
    check_regular(path, "--config")
    if path.stat().st_size > LARGEST:
        raise UsageProblem(f"{flag}: is larger than {LARGEST:,} bytes, expected one section per stage")
    try:
        text = path.read_text(encoding="utf-8")
        _check_structure(text)
        return [_plain(document, "") for document in yaml.load_all(text, _Loader) if document is not None]
    except yaml.MarkedYAMLError as error:
        line = f"line {error.problem_mark.line + 1}: " if error.problem_mark else ""
        raise UsageProblem(f"{flag}: {line}{error.problem}") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UsageProblem(f"{flag}: not YAML ({first_line(error)})") from None
    except ValueError as error:
        raise UsageProblem(f"{flag}: {first_line(error)}") from None


def _check_structure(text: str) -> None:
    """Raise yaml.MarkedYAMLError for depth, and for an alias that stands for more than a single value."""
    depth, values = 0, set()
    for event in _events(text):
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1
        elif isinstance(event, yaml.ScalarEvent):
            values.add(event.anchor)
        elif isinstance(event, yaml.AliasEvent) and event.anchor not in values:
            _refuse(f"*{event.anchor}: an alias may stand for a single value only", event)
        if depth > DEEPEST:
            _refuse(f"more than {DEEPEST} levels of nesting", event)


def _events(text: str) -> Iterator[yaml.Event]:
    """Yield the events of a document one by one; nothing is built from them."""
    yield from yaml.parse(text, yaml.SafeLoader)


def _refuse(problem: str, where: yaml.Node | yaml.Event) -> NoReturn:
    raise yaml.MarkedYAMLError(problem=problem, problem_mark=where.start_mark)  # type: ignore[arg-type]


def _plain(value: object, name: str) -> object:
    """Return the values with plain texts; raises ValueError that names the field of any other text."""
    if isinstance(value, Mapping):
        return {field: _plain(item, f"{name}.{field}".lstrip(".")) for field, item in value.items()}
    if isinstance(value, list):
        return [_plain(item, name) for item in value]
    try:
        return plain(value) if isinstance(value, str) else value
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from None


def _with_underscores(section: object) -> object:
    """Return a section with underscores in the names of its fields; an empty one becomes {}."""
    if section is None:
        return {}
    if not isinstance(section, Mapping):
        return section
    return {str(name).replace("-", "_"): value for name, value in section.items()}
