"""Types of values that requests hold."""

import pytest
from pydantic import TypeAdapter, ValidationError

from sdquant_cli.options import values


@pytest.mark.parametrize(
    ("kind", "value", "read"),
    [
        (values.BitsText, "W4A8", "w4a8"),
        (values.BudgetText, 4.25, "4.25"),
        (values.BudgetText, "3mb", "3MB"),
        (values.ColumnText, 2, "2"),
        (values.SchedulerText, "EulerDiscreteScheduler", "euler"),
        (values.GateText, " psnr >= 25.0 ", "psnr>=25"),
        (values.Guidance, 7, 7.0),
        (values.ComponentText, "vae=w8a16", "vae=w8a16"),
    ],
)
def test_a_value_has_one_form(kind, value, read):
    assert TypeAdapter(kind).validate_python(value) == read


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        (values.Count, 0),
        (values.Decay, 1.0),
        (values.Quantile, 0.0),
        (values.Share, True),
        (values.BitsText, "w9a8"),
        (values.GateText, "psnr=25"),
        (values.Switch, 1),
        (values.ComponentText, "vae=8"),
        (values.ComponentText, "vae, unet"),
    ],
)
def test_a_value_out_of_bounds_is_refused(kind, value):
    with pytest.raises(ValidationError):
        TypeAdapter(kind).validate_python(value)


def test_a_component_is_a_name_and_bits_where_it_has_its_own():
    assert values.component("text_encoder_2") == ("text_encoder_2", None)
    assert values.component("vae=W8A16") == ("vae", "w8a16")
