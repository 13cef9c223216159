import pytest
import torch
from torch import nn

from sdquant_cli.errors import SdquantError
from sdquant_cli.methods.initialise import Ranges, all_batches, initial_states
from sdquant_cli.methods.items import Items, shuffled
from sdquant_cli.methods.serial_to_parallel import Training, collecting_outputs, feature_loss, output_loss
from sdquant_cli.quant.rows import Rows
from sdquant_cli.quant.swap import swap
from sdquant_cli.types import Bits


class Answer:
    def __init__(self, sample):
        self.sample = sample


class Net(nn.Module):
    """Called and answering as a UNet does."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(2, 64, 3, padding=1)
        self.to_k = nn.Linear(5, 64)
        self.out = nn.Conv2d(64, 2, 1)

    def forward(self, x, timestep, context):
        scale = 1 + timestep.view(-1, 1, 1, 1) / 10
        hidden = torch.relu(self.conv(x * scale)) + self.to_k(context).mean(1)[:, :, None, None]
        return Answer(self.out(hidden))


ROWS = torch.tensor([9.0, 5.0, 1.0])


def items(count=12):
    g = torch.Generator().manual_seed(0)
    return Items(
        x=torch.randn(count, 2, 4, 4, generator=g).half(),
        row=torch.tensor([0, 1] * (count // 2)),  # row 2 has no data
        text=torch.arange(count) % 3 + 1,
        embeddings=torch.randn(4, 3, 5, generator=g).half(),
        timesteps=ROWS,
    )


W4A8 = Bits(4, 8)


def quantized(bits=W4A8):
    torch.manual_seed(0)
    teacher = Net()
    student = Net()
    student.load_state_dict(teacher.state_dict())
    layers = dict(student.named_children())
    ranges = Ranges(layers, len(ROWS))
    for batch in all_batches(items(), 5, torch.device("cpu")):
        ranges.observe(student, batch)
    states = initial_states(layers, ranges, dict.fromkeys(layers, bits), lambda name: name == "to_k")
    rows = Rows(ROWS.tolist())
    swap(student, states, rows, weights_on_grid=False)
    rows.follow(student)
    return teacher.requires_grad_(False), student, ranges, states


def test_batches_hold_each_latent_without_and_with_its_prompt():
    batch = items().batch([4, 7], torch.device("cpu"))
    data = items()
    assert torch.equal(batch.x[:2], batch.x[2:])
    assert torch.equal(batch.timestep, ROWS[torch.tensor([0, 1, 0, 1])])
    assert torch.equal(batch.context[:2], data.embeddings[[0, 0]].float())
    assert torch.equal(batch.context[2:], data.embeddings[data.text[[4, 7]]].float())


def test_an_epoch_visits_every_item_once_and_epochs_differ():
    epoch = torch.cat([shuffled(12, 4, i, seed=1) for i in range(3)])
    assert sorted(epoch.tolist()) == list(range(12))
    assert not torch.equal(epoch, torch.cat([shuffled(12, 4, i, seed=1) for i in range(3, 6)]))
    assert not torch.equal(epoch[:4], shuffled(12, 4, 0, seed=2))


def test_ranges_are_those_of_each_row_alone():
    teacher, _, ranges, _ = quantized()
    data = items()
    for row in (0, 1):
        picks = [i for i in range(12) if data.row[i] == row]
        batch = data.batch(picks, torch.device("cpu"))
        hidden = {}
        handle = teacher.out.register_forward_pre_hook(lambda _, args, kept=hidden: kept.update(x=args[0]))
        teacher(batch.x, batch.timestep, batch.context)
        handle.remove()
        assert ranges.low["out"][row] == pytest.approx(hidden["x"].min().item(), rel=1e-5)
        assert ranges.high["out"][row] == pytest.approx(hidden["x"].max().item(), rel=1e-5)
    assert ranges.unseen_rows == 1


def test_unseen_rows_borrow_and_text_fed_layers_share_one():
    _, _, _, states = quantized()
    assert states["out"].activation_step.shape == (3,)
    assert states["out"].activation_step[2] == states["out"].activation_step[1]
    assert states["out"].activation_step[0] != states["out"].activation_step[1]
    assert states["to_k"].activation_step.shape == (1,)


def test_losses_are_equations_11_and_12():
    a, b = torch.randn(2, 3), torch.randn(2, 3)
    expected = sum((p - q) ** 2 for p, q in zip(a.flatten().tolist(), b.flatten().tolist(), strict=True)) / 6
    assert output_loss(a, b).item() == pytest.approx(expected, rel=1e-5)
    teacher = {"x": torch.full((2,), 2.0), "y": torch.full((2,), 10.0)}
    student = {"x": torch.full((2,), 3.0), "y": torch.full((2,), 10.0)}
    assert feature_loss(student, teacher).item() == pytest.approx((1 / 4 + 0) / 2)


def test_hooks_leave_nothing_behind():
    teacher, *_ = quantized()
    with collecting_outputs(teacher, ["conv"]) as outputs:
        batch = items().batch([0], torch.device("cpu"))
        teacher(batch.x, batch.timestep, batch.context)
        assert outputs["conv"].shape == (2, 64, 4, 4)
    assert not any(module._forward_hooks for module in teacher.modules())


def test_training_brings_the_student_closer_to_the_teacher():
    teacher, student, *_ = quantized(Bits(3, 8))
    training = Training(student, teacher, items(), 6, 0, weight_rate=2e-4, step_rate=2e-5)
    everything = items().batch(range(12), torch.device("cpu"))
    before = float(training.loss(everything).detach())
    for _ in range(60):
        training.step()
    assert float(training.loss(everything).detach()) < 0.6 * before
    assert all(p.grad is None for p in teacher.parameters())


def test_a_checkpoint_goes_on_exactly():
    def trained(stop_at):
        teacher, student, *_ = quantized()
        training = Training(student, teacher, items(), 4, 5)
        for _ in range(stop_at):
            training.step()
        return training

    whole, half = trained(8), trained(3)
    resumed = trained(0)
    resumed.load_state_dict(half.state_dict())
    for _ in range(5):
        resumed.step()
    assert resumed.losses == whole.losses
    for a, b in zip(whole.student.parameters(), resumed.student.parameters(), strict=True):
        assert torch.equal(a, b)


def test_a_loss_that_is_not_a_number_stops_the_training():
    teacher, student, *_ = quantized()
    training = Training(student, teacher, items(), 4, 5)
    with torch.no_grad():
        student.conv.bias.fill_(float("nan"))
    with pytest.raises(SdquantError, match=r"diverged.*iteration 0"):
        training.step()
