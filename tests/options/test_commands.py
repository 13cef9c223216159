"""The table of commands: which options each has, and which fields of specs they set."""

import pytest

from sdquant_cli import manifests
from sdquant_cli.options import base, calibration
from sdquant_cli.options.commands import COMMANDS, flags_by_spec
from sdquant_cli.options.requests import CalibrateRequest, SampleRequest


@pytest.mark.parametrize("name", COMMANDS)
def test_options_are_described_in_a_sentence_and_named_once(name):
    flags = COMMANDS[name].flags
    assert len({flag.name for flag in flags}) == len(flags)
    for flag in flags:
        assert flag.option.help[0].isupper()
        assert flag.option.help.endswith(".")


@pytest.mark.parametrize("name", COMMANDS)
def test_a_field_without_a_flag_is_meant(name):
    command = COMMANDS[name]
    described = {flag.name for flag in command.request_flags}
    assert command.request.model_fields.keys() - described == command.request.without_flag


def test_flags_name_fields_that_specs_have():
    for name in flags_by_spec():
        owner, _, field = name.partition(".")
        assert field in getattr(manifests, owner).model_fields


def test_requests_share_one_description_of_the_setting():
    assert issubclass(SampleRequest, base.SettingRequest)
    assert calibration.CalibrateRequest is CalibrateRequest
    for name in base.SettingRequest.model_fields:
        descriptions = [cls.model_fields[name].metadata for cls in (base.SettingRequest, CalibrateRequest)]
        assert descriptions[0] == descriptions[1]
    assert CalibrateRequest.without_flag == base.MODEL | {"dtype"}
