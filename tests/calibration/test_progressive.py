"""Progressive calibration at linear cost finds what PCR's repeated runs find."""

import copy

import pytest
import torch

from sdquant_cli.calibration.block_optimizer import dropping
from sdquant_cli.calibration.progressive import Progression, StepResult
from sdquant_cli.models.conditioning import Conditioning, predict
from sdquant_cli.models.denoise import denoise
from sdquant_cli.models.layers import is_text_fed, quantizable_layers
from sdquant_cli.models.noise import initial_noise
from sdquant_cli.models.schedule import schedule_of
from sdquant_cli.models.trajectory import Trajectory
from sdquant_cli.quant.drop import Drop
from sdquant_cli.quant.format import PAPER
from sdquant_cli.quant.grid import Grid
from sdquant_cli.quant.modules import LayerState, QuantConv2d, QuantLinear
from sdquant_cli.quant.ranges import affine_parameters
from sdquant_cli.quant.relaxing import RelaxedRows
from sdquant_cli.quant.rows import Rows
from sdquant_cli.quant.swap import swap
from sdquant_cli.quant.weights import weight_scales
from sdquant_cli.types import Bits, Ranges
from tests.fakes import sampler

STEPS, SHAPE, SCALE = 3, (4, 8, 8), 3.0


def quantized(unet, relaxed: RelaxedRows | None = None):
    """The embedded UNet with tables of nonsense, to be found."""
    network = copy.deepcopy(unet)
    timesteps = schedule_of(sampler(steps=STEPS)).timesteps
    states = {}
    for name, layer in quantizable_layers(network).items():
        weight_grid, grid = PAPER.grids(Bits(8, 8))
        count = 1 if is_text_fed(name) else len(timesteps)
        steps, zero = affine_parameters(torch.full((count,), -9.0), torch.full((count,), 9.0), grid)
        own = None if is_text_fed(name) else relaxed
        states[name] = LayerState(
            weight_scales(layer.weight, weight_grid), steps, zero, weight_grid, grid, own
        )
    rows = Rows(timesteps)
    rows.follow(network)
    swap(network, states, rows, weights_on_grid=False)
    return network.requires_grad_(False)


def texts(unet):
    tokens = torch.randn(3, 6, unet.config.cross_attention_dim, generator=torch.Generator().manual_seed(3))
    return Conditioning(tokens)


def progression(unet, network):
    return Progression(network, sampler(steps=STEPS), texts(unet), SHAPE, SCALE, Ranges.MIN_MAX, 0, 2)


def layers_of(network):
    """Quantized layers with a table of rows, by name."""
    named = network.named_modules()
    quantized = ((n, m) for n, m in named if isinstance(m, QuantConv2d | QuantLinear))
    return {name: layer for name, layer in quantized if len(layer.activation_step) > 1}


def input_at(network, told, call: int, watched: str):
    """What a layer is given at a call of a run from the noise, nothing rounded at that call."""
    seen, schedule = [], schedule_of(sampler(steps=STEPS))

    def visit(current, x):
        if current == call:
            layer = network.get_submodule(watched)
            handle = layer.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
            with dropping(layers_of(network).values(), Drop(1.0)):
                predict(network, torch.cat([x, x]), torch.tensor(schedule.calls[call]), told)
            handle.remove()
        return current < call

    noise = initial_noise(SHAPE, 0, range(2), "progressive")
    denoise(network, Trajectory(sampler(steps=STEPS), noise), told, SCALE, visit)
    return seen[0]


def test_tables_are_those_of_running_from_the_noise_again_at_every_step(embedded_unet):
    work = progression(embedded_unet, network := quantized(embedded_unet))
    for _ in range(work.calls):
        work.advance()
    again, watched = quantized(embedded_unet), "up_blocks.3.resnets.2.conv1"
    told, rows = texts(embedded_unet).guided(torch.tensor([1, 2])), schedule_of(sampler(steps=STEPS)).rows
    layer, grid = network.get_submodule(watched), PAPER.grids(Bits(8, 8))[1]
    for row in range(STEPS):  # PCR as published: to each step from the noise, through those before
        seen = input_at(again, told, rows.index(row), watched)
        step, zero = affine_parameters(seen.min(), seen.max(), grid)
        assert float(layer.activation_step[row]) == pytest.approx(float(step), rel=1e-6)
        assert float(layer.activation_zero[row]) == float(zero)
        for name, twin in layers_of(again).items():
            twin.activation_step.data[row] = network.get_submodule(name).activation_step[row]
            twin.activation_zero[row] = network.get_submodule(name).activation_zero[row]


def test_a_resumed_progression_ends_where_an_undisturbed_one_does(embedded_unet):
    whole = progression(embedded_unet, first := quantized(embedded_unet))
    results = [whole.advance() for _ in range(whole.calls)]
    resumed = progression(embedded_unet, second := quantized(embedded_unet))
    resumed.repeat(StepResult(results[0].guided.clone(), results[0].quantizers))
    for _ in range(resumed.calls - 1):
        resumed.advance()
    assert torch.equal(whole.latents, resumed.latents)
    pairs = zip(first.modules(), second.modules(), strict=True)
    assert all(
        torch.equal(a.activation_step, b.activation_step) for a, b in pairs if hasattr(a, "activation_step")
    )


def test_relaxed_rows_have_their_own_grid(embedded_unet):
    relaxed = RelaxedRows(torch.tensor([False, False, True]), Grid(10, signed=False))
    work = progression(embedded_unet, network := quantized(embedded_unet, relaxed))
    for _ in range(work.calls):
        work.advance()
    layer = network.get_submodule("down_blocks.0.resnets.0.conv1")
    assert layer.grid_of(0).bits == 8
    assert layer.grid_of(2).bits == 10
    ratio = float(layer.activation_step[1] / layer.activation_step[2])
    assert 2 < ratio < 8  # ranges are alike, grids differ by a factor of four
    zero = layer.activation_zero
    assert zero[2] > 255 or zero[:2].max() < 256
    x = torch.randn(2, layer.in_channels, 8, 8)
    timesteps = schedule_of(sampler(steps=STEPS)).timesteps
    layer.rows.set(torch.tensor([timesteps[0], timesteps[2]]))
    together = layer.quantize_input(x)
    for i, row in enumerate((0, 2)):
        layer.rows.set(torch.tensor(timesteps[row]))
        assert torch.equal(layer.quantize_input(x[i : i + 1]), together[i : i + 1])
