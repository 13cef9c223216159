import torch

from sdquant_cli.quant.allocate import average_bits, extremes, mixed_bits
from sdquant_cli.quant.fisher import first_order, mean_of_slices, ranking, scores
from sdquant_cli.types import Bits


def test_scores_are_equation_10():
    weight = torch.randn(4, 3, generator=torch.Generator().manual_seed(0))
    samples = [torch.randn(4, 3, generator=torch.Generator().manual_seed(i)) for i in (1, 2, 3)]
    mean_gradient = sum(samples) / 3
    d = [sum(float(g[i, j] * weight[i, j]) for i in range(4) for j in range(3)) for g in samples]
    x = sum(d) / 3
    expected = abs(sum(float(v) for v in (mean_gradient * weight).flatten()) - 0.5 * x * x)
    found = first_order({"w": weight}, {"w": mean_gradient})["w"]
    torch.testing.assert_close(scores(torch.tensor([found])), torch.tensor([expected]), atol=1e-5, rtol=1e-5)


def test_slices_of_unequal_size_average_over_samples():
    slices, counts = torch.tensor([[1.0, 0.0], [4.0, 3.0]]), torch.tensor([3, 1])
    assert mean_of_slices(slices, counts).tolist() == [1.75, 0.75]


def test_ranking_is_highest_first_and_ties_are_by_name():
    assert ranking(["b", "a", "c"], torch.tensor([1.0, 1.0, 2.0])) == ["c", "a", "b"]


def test_extremes_are_five_percent_to_the_nearest():
    for layers, count in ((258, 13), (773, 39)):
        top, bottom = extremes([f"l{i}" for i in range(layers)])
        assert len(top) == len(bottom) == count
        assert top[0] == "l0"
        assert bottom[-1] == f"l{layers - 1}"


def test_mixed_bits_follow_the_table_for_any_bits():
    layers = ["a", "b", "c"]
    for bits, high, low in (
        (Bits(4, 8), Bits(8, 16), Bits(4, 4)),
        (Bits(8, 8), Bits(8, 16), Bits(8, 4)),
        (Bits(4, 4), Bits(8, 8), Bits(4, 4)),
        (Bits(3, 3), Bits(8, 6), Bits(3, 3)),
        (Bits(4, 16), Bits(8, 16), Bits(4, 8)),
    ):
        assert mixed_bits(layers, bits, ["a"], ["c"]) == {"a": high, "b": bits, "c": low}


def test_average_bits_name_their_weighting():
    found = average_bits({"a": Bits(8, 16), "b": Bits(4, 8)}, {"a": 1, "b": 3})
    assert found == {"weights, by layers": 6, "weights, by parameters": 5, "activations, by layers": 12}
