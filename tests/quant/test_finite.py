"""Numbers that are not finite are refused by the name of their owner."""

import pytest
import torch

from sdquant_cli.errors import SdquantError
from sdquant_cli.quant.finite import check_finite, check_state
from sdquant_cli.quant.state import SavedLayer
from sdquant_cli.types import Bits


@pytest.mark.parametrize("broken", [float("nan"), float("inf"), -float("inf")])
def test_the_first_item_that_is_not_finite_is_named(broken):
    values, names = torch.zeros(4, 2, 3), ["a", "b", "c", "d"]
    check_finite(values, names, "advice")
    values[1, 1, 2] = values[3, 0, 0] = broken
    with pytest.raises(SdquantError, match=r"^b is not finite: advice"):
        check_finite(values, names, "advice")


@pytest.mark.parametrize("field", ["weight_step", "activation_step"])
def test_a_scale_that_is_not_finite_names_its_layer(field):
    def saved(**broken):
        scales = {"weight_step": torch.ones(2), "activation_step": torch.ones(3), **broken}
        codes, zero = torch.zeros(2, 5, dtype=torch.int8), torch.zeros(3, dtype=torch.int32)
        return SavedLayer(Bits(4, 8), codes, activation_zero=zero, **scales)

    check_state({"to_q": saved()})
    state = {"to_q": saved(), "to_k": saved(**{field: torch.tensor([1.0, float("nan")])})}
    with pytest.raises(SdquantError, match=f"^{field} of layer to_k is not finite"):
        check_state(state)
