import pytest

from sdquant_cli.types import Bits


@pytest.mark.parametrize(
    ("text", "bits"), [("w4a8", Bits(4, 8)), ("W8A8", Bits(8, 8)), (" w2a16 ", Bits(2, 16))]
)
def test_bits_are_read_and_written(text, bits):
    assert Bits.parse(text) == bits
    assert Bits.parse(str(bits)) == bits


@pytest.mark.parametrize("text", ["w5a99", "w-1a8", "w4", "a8w4", "w4a8x", "", "w9a8", "w1a8", "w4a17"])
def test_other_bits_are_refused(text):
    with pytest.raises(ValueError, match="expected"):
        Bits.parse(text)
