"""Reconstruction on the embedded UNet: what is captured, what is learned, and what it costs."""

import copy
from pathlib import Path

import pytest
import torch
from torch import nn

from sdquant_cli.calibration.activation_cache import ActivationCache, TensorPool, mix, stopping_at
from sdquant_cli.calibration.block_optimizer import (
    BlockOptimizer,
    ReconstructionPhase,
    error,
    noise_to_signal,
    phases_of,
)
from sdquant_cli.manifests import ReconstructSpec
from sdquant_cli.quant.branch import split_off
from sdquant_cli.quant.format import PAPER
from sdquant_cli.quant.modules import LayerState
from sdquant_cli.quant.ranges import affine_parameters
from sdquant_cli.quant.rows import Rows
from sdquant_cli.quant.swap import swap
from sdquant_cli.quant.weights import weight_scales
from sdquant_cli.types import Bits

SPEC = ReconstructSpec(
    layer_weight=0.0,
    drop=0.0,
    mixed_inputs=0.0,
    regulariser=0.0,
    joint=True,
    second=0.0,
    weight_rate=3e-2,
    step_rate=1e-3,
)


class Block(nn.Module):
    """Two layers, as a unit."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(12, 24), nn.Linear(24, 6)

    def forward(self, x, scale=1.0):
        return self.second(torch.relu(self.first(x))) * scale


def blocks(rank=0):
    """A floating-point block and its quantized twin."""
    torch.manual_seed(0)
    teacher = Block().requires_grad_(False)
    student, states = copy.deepcopy(teacher), {}
    for name in ("first", "second"):
        weight_grid, grid = PAPER.grids(Bits(3, 8))
        step, zero = affine_parameters(torch.tensor([-4.0]), torch.tensor([4.0]), grid)
        weight = student.get_submodule(name).weight
        branch = split_off(weight, rank, weight_grid) if rank else None
        scale = weight_scales(weight - branch.weight if branch else weight, weight_grid)
        states[name] = LayerState(scale, step, zero, weight_grid, grid, branch=branch)
    rows = Rows([1.0])
    swap(student, states, rows, weights_on_grid=False)
    student.requires_grad_(False)
    return teacher, student


def captured(value, tmp_path: Path, memory: int = 10**9) -> ActivationCache:
    kept = ActivationCache(len(value[0][0]), TensorPool(memory, tmp_path))
    kept.add(value, torch.arange(len(value[0][0])))
    return kept


class Plain:
    """Outputs in memory."""

    def __init__(self, values):
        self.values = values

    def __getitem__(self, index):
        return self.values[index]


def fitted(
    spec: ReconstructSpec, phase: ReconstructionPhase, tmp_path: Path, iterations: int = 150, rank: int = 0
):
    teacher, student = blocks(rank)
    g = torch.Generator().manual_seed(1)
    x = torch.randn(64, 3, generator=g) @ torch.randn(3, 12, generator=g)  # what correlates can cancel out
    inputs = captured(((x,), {"scale": 2.0}), tmp_path)
    outputs = Plain(teacher(x, scale=2.0))
    layers = {name: student.get_submodule(name) for name in ("first", "second")}
    random = torch.Generator().manual_seed(0)
    block = BlockOptimizer(student, teacher, layers, inputs, inputs, outputs, spec, phase, random)
    everything = torch.arange(64)
    before = block.distance(everything)
    with block.training():
        optimizer = block.optimizer()
        for iteration in range(iterations):
            block.update(optimizer, everything, iteration)
    return before, block.distance(everything), student


def test_a_fitted_block_answers_closer_and_lies_on_its_grid(tmp_path):
    before, after, student = fitted(SPEC, ReconstructionPhase(True, True, 0.0, 2.0, 150, True), tmp_path)
    assert after < 0.6 * before
    for name in ("first", "second"):
        layer = student.get_submodule(name)
        codes = layer.weight / layer.weight_step[:, None]
        assert torch.allclose(codes, codes.round(), atol=1e-4)
        assert layer.weight_transform is None
        assert layer.drop is None
        assert not layer.activation_step.requires_grad


def test_branches_are_trained_with_the_rounding_beside_them(tmp_path):
    phase = ReconstructionPhase(True, True, 0.0, 2.0, 150, True)
    before, after, student = fitted(SPEC, phase, tmp_path, rank=1)
    assert after < 0.6 * before
    _, untrained = blocks(rank=1)
    for name in ("first", "second"):
        branch, first = (network.get_submodule(name).branch for network in (student, untrained))
        assert not any(map(torch.equal, branch, first))
        assert not any(factor.requires_grad for factor in branch)
    scales_alone = ReconstructionPhase(False, True, 0.0, 2.4, 20, True)
    _, _, student = fitted(SPEC, scales_alone, tmp_path, iterations=20, rank=1)
    assert all(map(torch.equal, student.first.branch, untrained.first.branch))


def test_rounding_moves_no_weight_further_than_to_its_other_neighbour(tmp_path):
    _, _, student = fitted(SPEC, ReconstructionPhase(True, False, 0.5, 2.0, 60, False), tmp_path, 60)
    teacher, _ = blocks()
    for name in ("first", "second"):
        layer = student.get_submodule(name)
        clipped = layer.weight_step[:, None] * layer.weight_grid.high
        original = teacher.get_submodule(name).weight.clamp(-clipped, clipped)
        assert ((layer.weight - original).abs() <= layer.weight_step[:, None] * (1 + 1e-4)).all()


def test_the_layers_errors_join_the_units(tmp_path):
    """Fine-grained reconstruction (EDA-DM, FBR): the unit's error and gamma times its layers'."""
    teacher, student = blocks()
    x = torch.randn(16, 12)
    inputs = captured(((x,), {}), tmp_path)
    layers = {name: student.get_submodule(name) for name in ("first", "second")}
    spec, phase = (
        SPEC.model_copy(update={"layer_weight": 0.8}),
        ReconstructionPhase(False, True, 0.0, 2.0, 10, True),
    )
    block = BlockOptimizer(
        student, teacher, layers, inputs, inputs, Plain(teacher(x)), spec, phase, torch.Generator()
    )
    with block.training():
        found = float(block._loss(torch.arange(16), 0.5).detach())
        hidden = (student.first(x) - teacher.first(x)).square().sum(-1).mean()
        whole = (student(x) - teacher(x)).square().sum(-1).mean()
    assert found == pytest.approx(float((whole + 0.8 * hidden).detach()), rel=1e-5)


def test_errors_sum_over_channels():
    a, b = torch.randn(2, 3, 4, 4), torch.randn(2, 3, 4, 4)
    assert float(error(a, b, 2.4)) == pytest.approx(float((a - b).abs().pow(2.4).sum(1).mean()), rel=1e-6)
    assert noise_to_signal(2 * b, b) == pytest.approx(1.0)


def test_a_second_phase_trains_scales_alone():
    spec = SPEC.model_copy(update={"joint": False, "drop": 1.0, "second": 0.25})
    first, second = phases_of(spec, 400)
    assert (first.rounding, first.scales, first.drop, first.iterations) == (True, False, 1.0, 400)
    assert (second.rounding, second.scales, second.drop, second.iterations) == (False, True, 0.0, 100)
    assert second.power == 2.4


def test_what_does_not_fit_in_memory_lies_on_disk_and_reads_the_same(tmp_path):
    value = ((torch.randn(6, 5), (torch.randn(6, 2, 2), None)), {"scale": 3, "mask": torch.ones(6, 1)})
    inside, outside = captured(value, tmp_path / "a"), captured(value, tmp_path / "b", memory=0)
    assert not (tmp_path / "a").exists()
    assert (tmp_path / "b").exists()
    index = torch.tensor([5, 0, 3])
    for kept in (inside, outside):
        (x, (y, nothing)), told = kept[index]
        assert torch.equal(x, value[0][0][index])
        assert torch.equal(y, value[0][1][0][index])
        assert nothing is None
        assert told["scale"] == 3
    assert list((tmp_path / "b").iterdir()) == []  # files go with what they hold


def test_memory_returns_to_the_pool(tmp_path):
    pool = TensorPool(1000, tmp_path)
    kept = ActivationCache(4, pool)
    kept.add((torch.zeros(4, 10),), torch.arange(4))
    assert pool.bytes == 1000 - 160
    kept.free()
    assert pool.bytes == 1000


def test_a_run_stops_at_the_module():
    ran = []
    network = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2), nn.Linear(2, 2))
    network[2].register_forward_hook(lambda *_: ran.append(2))
    with stopping_at(network[1], lambda told: ran.append(told[0][0].shape)):
        network(torch.zeros(3, 2))
    with stopping_at(network[1], lambda _: None, lambda output: ran.append(output.sum().isfinite())):
        network(torch.zeros(3, 2))
    assert ran == [torch.Size([3, 2]), torch.tensor(True)]
    assert not network[1]._forward_hooks
    assert not network[1]._forward_pre_hooks


def test_inputs_are_mixed_value_by_value():
    ones, zeros = ((torch.ones(50, 50),), {"n": 1}), ((torch.zeros(50, 50),), {"n": 1})
    (x,), told = mix(ones, zeros, 0.5, torch.Generator().manual_seed(0))
    assert float(x.mean()) == pytest.approx(0.5, abs=0.05)
    assert told == {"n": 1}
    assert mix(ones, zeros, 0.0, torch.Generator()) is ones
