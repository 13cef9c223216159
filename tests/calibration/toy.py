"""A network of three layers with its calibration items, quantized and in training."""

import copy
from functools import partial

import torch
from torch import nn

from sdquant_cli.calibration.distillation import LossTargets, Training
from sdquant_cli.calibration.items import Items, prediction
from sdquant_cli.calibration.observer import QuantizerRules, initial_states, item_passes, observe
from sdquant_cli.calibration.sources import BatchContext, MixedLatents
from sdquant_cli.calibration.teacher import TeacherNetwork
from sdquant_cli.manifests import LossSpec, TrainSpec
from sdquant_cli.models.conditioning import Conditioning
from sdquant_cli.quant.rows import Rows
from sdquant_cli.quant.swap import swap
from sdquant_cli.types import Bits, Dtype, Train

CPU = torch.device("cpu")


class Answer:
    def __init__(self, sample):
        self.sample = sample


class Net(nn.Module):
    """A network with the call and the answer of a UNet."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(2, 64, 3, padding=1)
        self.to_k = nn.Linear(5, 64)
        self.out = nn.Conv2d(64, 2, 1)

    def forward(self, x, timestep, encoder_hidden_states):
        scale = 1 + timestep.view(-1, 1, 1, 1) / 10
        hidden = torch.relu(self.conv(x * scale)) + self.to_k(encoder_hidden_states).mean(1)[:, :, None, None]
        return Answer(self.out(hidden))


ROWS = torch.tensor([9.0, 5.0, 1.0])


def items(count=12, scale=3.0):
    g = torch.Generator().manual_seed(0)
    return Items(
        x=torch.randn(count, 2, 4, 4, generator=g).half(),
        row=torch.tensor([0, 1] * (count // 2)),  # row 2 has no data
        text=torch.arange(count) % 3 + 1,
        texts=Conditioning(torch.randn(4, 3, 5, generator=g).half()),
        timesteps=ROWS,
        guidance_scale=scale,
    )


W4A8 = Bits(4, 8)


PLAIN = LossSpec(sensitive=0, blocks=0, guided=0)


def quantized(bits=W4A8, data=None, **choices):
    """Return a teacher, a student that shares its weights, the observed inputs and the quantizers."""
    torch.manual_seed(0)
    teacher = Net().requires_grad_(False)
    rows = Rows(ROWS.tolist())
    student = copy.deepcopy(teacher, {id(p): p for p in teacher.parameters()})
    layers = dict(student.named_children())
    data = data or items()
    observed = observe(layers, item_passes(data, partial(prediction, student), torch.device("cpu")))
    every = dict.fromkeys(layers, bits) if isinstance(bits, Bits) else bits
    rules = QuantizerRules(every, has_one_row=lambda name: name == "to_k", **choices)
    states = initial_states(observed.layers, observed, rules)
    swap(student, states, rows, weights_on_grid=False)
    rows.follow(student)
    return teacher, student, observed, states


def train_spec(**changes):
    spec = TrainSpec(
        what=Train.WEIGHTS_AND_STEPS,
        rank=0,
        weight_rate=5e-5,
        step_rate=1e-4,
        accumulate=1,
        averaging=0,
        freezing=0,
        teacher=Dtype.FP32,
    )
    return spec.model_copy(update=changes)


def training(bits=W4A8, *, batch=4, iterations=8, targets=None, **changes):
    teacher, student, *_ = quantized(bits)
    context = BatchContext(items(), batch, 5, torch.device("cpu"), teacher, lambda: None, 3.0)
    targets = targets or LossTargets(PLAIN)
    live = TeacherNetwork(teacher, targets.watched)
    return Training(student, live, MixedLatents(context), targets, train_spec(**changes), iterations)
