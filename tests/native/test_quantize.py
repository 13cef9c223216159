"""The kernel from activations to codes, called with addresses, against plain torch on small tensors."""

import pytest
import torch

from sdquant_cli.native import quantize as native

pytestmark = pytest.mark.skipif(not native.available(), reason="no C compiler here")


def test_codes_are_padded_with_zero_points_and_saturate_at_both_ends():
    x = torch.tensor([[[[-9.0, 0.26], [0.5, 9.0]]]]).permute(0, 2, 3, 1).contiguous()  # (n,h,w,c)
    low = torch.full((1, 4, 4, 1), 99, dtype=torch.uint8)
    activations = native.Activations(x.data_ptr(), False, (1, 2, 2, 1))
    native.quantize(activations, (low.data_ptr(), None), (1, 1), 0.5, 3.0, 15.0)
    expected = torch.full((4, 4), 3)
    expected[1:3, 1:3] = torch.tensor([[0, 4], [4, 15]])
    assert torch.equal(low[0, :, :, 0].long(), expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_codes_of_more_than_8_bits_are_split_into_bytes(dtype):
    x = torch.tensor([0.0, 300.0, 1000.0, 5000.0], dtype=dtype)
    low, high = torch.zeros(4, dtype=torch.uint8), torch.zeros(4, dtype=torch.uint8)
    activations = native.Activations(x.data_ptr(), dtype is torch.bfloat16, (1, 4, 1, 1))
    native.quantize(activations, (low.data_ptr(), high.data_ptr()), (0, 0), 1.0, 10.0, 1023.0)
    assert (low.int() + 256 * high.int()).tolist() == [10, 310, 1010, 1023]
