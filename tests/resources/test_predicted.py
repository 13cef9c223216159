"""Predicted memory, time and disk space of a tiny model: how they depend on what is asked for."""

import pytest

from sdquant_cli.manifests import LossSpec, QuantStateSpec, TrainSpec
from sdquant_cli.models.load import find_model
from sdquant_cli.resources import predicted
from sdquant_cli.resources.predicted import Rounding
from sdquant_cli.store import ArraySpec
from sdquant_cli.types import Dtype, Ranges, Tables, Train
from tests.fakes import setting

SETTING = setting("ddim", 4, height=64, width=64)
MEMORY, SECONDS, SCRATCH = "peak memory, bytes", "seconds, roughly", "scratch, bytes, roughly"


@pytest.fixture(autouse=True)
def constant_process(monkeypatch):
    """What this process holds, and how fast the machine is, change from call to call."""
    monkeypatch.setattr(predicted, "_resident", lambda: 0)
    monkeypatch.setattr(predicted, "_seconds", lambda cost, dtype: float(cost.flops))


@pytest.fixture(scope="module")
def model(tiny):
    return find_model(str(tiny("sd-v1-4/two-blocks")))


def calibration(model, what: Train | None, *, iterations: int = 10, checkpointing: bool = False):
    train = what and TrainSpec(
        what=what,
        rank=None,
        weight_rate=1e-4,
        step_rate=1e-3,
        accumulate=1,
        averaging=0.0,
        freezing=0.0,
        teacher=Dtype.FP32,
    )
    spec = QuantStateSpec(
        method="parallel",
        bits="w4a8",
        mixed=False,
        tables=Tables.PER_STEP,
        ranges=Ranges.MSE,
        iterations=iterations,
        batch_size=4,
        seed=0,
        loss=LossSpec(sensitive=0, blocks=0, guided=0) if train else None,
        train=train,
    )
    return predicted.calibrating(model, SETTING, spec, 8, 0, checkpointing=checkpointing)


def test_a_larger_batch_takes_memory_and_not_time(model):
    small, large = (predicted.drawing(model, SETTING, batch, 64) for batch in (1, 8))
    assert large[MEMORY] > small[MEMORY]
    assert large[SECONDS] == pytest.approx(small[SECONDS], rel=1e-3)
    assert predicted.drawing(model, SETTING, 1, 128)[SECONDS] == 2 * small[SECONDS]


def test_quantized_networks_hold_codes_and_rounded_attention_is_not_fused(model):
    fp, simulated = (predicted.drawing(model, SETTING, 8, 64, Rounding(yes)) for yes in (False, True))
    weights = sum(shape.numel() for shape in model.layer_shapes.values())
    assert simulated[MEMORY] == fp[MEMORY] + weights
    rounded = predicted.drawing(model, SETTING, 8, 64, Rounding(quantized=True, attention=8))
    assert rounded[MEMORY] > simulated[MEMORY]


def test_training_takes_more_than_rounding_and_less_with_checkpointing(model):
    rounding, steps = calibration(model, None), calibration(model, Train.STEPS)
    weights, checkpointed = (
        calibration(model, Train.WEIGHTS_AND_STEPS, checkpointing=yes) for yes in (False, True)
    )
    assert SECONDS not in rounding
    assert rounding[MEMORY] < steps[MEMORY] < weights[MEMORY]
    assert checkpointed[MEMORY] < weights[MEMORY]
    assert checkpointed[SECONDS] == 5 / 4 * weights[SECONDS]


def test_checkpointing_keeps_the_inputs_of_blocks(model):
    checkpointed = calibration(model, Train.WEIGHTS_AND_STEPS, checkpointing=True)[MEMORY]
    forward = predicted._cost(model, SETTING, 8, Dtype.FP32, None).bytes
    weights = 4 * 4 * sum(shape.numel() for shape in model.layer_shapes.values())
    assert checkpointed > weights + 2 * forward


def test_scratch_is_needed_once_there_are_checkpoints(model):
    assert SCRATCH not in calibration(model, Train.WEIGHTS_AND_STEPS, iterations=10)
    long = calibration(model, Train.WEIGHTS_AND_STEPS, iterations=1000)
    assert long[SCRATCH] > 3 * 4 * sum(shape.numel() for shape in model.layer_shapes.values())


def test_disk_is_that_of_all_arrays():
    arrays = {"x": ArraySpec((10, 3), "float16", ("a", "b")), "row": ArraySpec((10,), "int64", ("a",))}
    assert predicted.disk(arrays) == 10 * 3 * 2 + 10 * 8
