"""Phases of a calibration: which apply, what they cost, and how long the teacher is kept."""

from types import SimpleNamespace

import pytest
import torch

from sdquant_cli.calibration import phases
from sdquant_cli.calibration.checkpoints import Scratch
from sdquant_cli.calibration.distillation import LossTargets
from sdquant_cli.calibration.job import Job
from sdquant_cli.calibration.phases.correct import CorrectOutput
from sdquant_cli.calibration.phases.distill import DistillNetwork
from sdquant_cli.calibration.phases.observe import Observe
from sdquant_cli.calibration.phases.phase import Phase
from sdquant_cli.calibration.phases.progress import ProgressiveTables
from sdquant_cli.calibration.phases.reconstruct import ReconstructBlocks
from sdquant_cli.calibration.tabulated import TabulatedDenoiser
from sdquant_cli.calibration.teacher import CachedTeacher, TeacherAccess, TeacherNetwork
from sdquant_cli.events import SILENT
from sdquant_cli.methods.published import METHODS
from sdquant_cli.methods.resolve import recipe_of, spec_of
from sdquant_cli.options.requests import CalibrateRequest
from tests.calibration.toy import CPU, PLAIN, W4A8, items, quantized


def spec(**options):
    request = CalibrateRequest(**options)
    return spec_of(request, recipe_of(request), 4, ranked=False, pictures=None)


def job(folder, options, *, cached=False):
    """The toy network, quantized, as a job that has come past observation."""
    teacher, student, *_ = quantized()
    data, state_spec = items(), spec(**options)
    cache = None
    if cached:
        cache = CachedTeacher(TeacherNetwork(teacher, ()), data.count)
        for batch in data.batches(5, CPU):
            cache.run(batch)
    inputs = SimpleNamespace(
        spec=state_spec,
        recipe=METHODS[state_spec.method],
        bits=dict.fromkeys(("conv", "to_k", "out"), W4A8),
        items=data,
        device=CPU,
        targets=LossTargets(PLAIN),
        model=SimpleNamespace(sampler=lambda setting: None),
        setting=SimpleNamespace(guidance_scale=3.0),
        pictures=None,
        checkpointing=False,
    )
    denoiser = TabulatedDenoiser(student, student.conv.rows, None)
    return Job(inputs, denoiser, TeacherAccess(teacher, cache), Scratch(folder, lambda: None, SILENT))


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"method": "rtn"}, [Observe]),
        ({"method": "rtn", "tables": "progressive"}, [Observe, ProgressiveTables]),
        ({"method": "pqd", "correction": True}, [Observe, ReconstructBlocks, CorrectOutput]),
        ({"method": "pqd", "iterations": 0}, [Observe]),
        ({"method": "pcr"}, [Observe, ReconstructBlocks, ProgressiveTables]),
        ({}, [Observe, DistillNetwork]),
    ],
)
def test_phases_follow_from_the_spec(options, expected):
    assert [type(phase) for phase in phases.PHASES if phase.applies(spec(**options))] == expected


@pytest.mark.parametrize(("cached", "passes"), [(False, 4), (True, 3)])
def test_a_cached_teacher_costs_no_pass(tmp_path, cached, passes):
    work = job(tmp_path, {"iterations": 3}, cached=cached)
    assert DistillNetwork().run(work) == passes * 3 * 4 * 2  # three updates of four latents of two items
    assert len(work.results.losses) == 3


def test_the_correction_comes_with_the_state(tmp_path):
    work = job(tmp_path, {"method": "rtn", "correction": True})
    assert CorrectOutput().run(work) == 2 * work.inputs.items.count
    assert work.results.arrays["correction_bias"].shape == (3, 2)


class Watching(Phase):
    """A phase that notes whether the teacher is there."""

    def __init__(self, seen, *, uses_teacher):
        self.seen, self.uses_teacher = seen, uses_teacher

    def applies(self, spec):
        return True

    def run(self, job):
        self.seen.append(job.teacher.network is not None)
        return 1.0


@pytest.mark.parametrize(
    ("uses", "cached", "expected"),
    [
        ((False, True, False), False, [True, True, False]),
        ((False, False, True), False, [True, True, True]),
        ((False, True, True), True, [True, False, False]),
    ],
)
def test_the_teacher_is_freed_when_no_later_phase_asks_for_it(tmp_path, monkeypatch, uses, cached, expected):
    seen = []
    monkeypatch.setattr(phases, "PHASES", [Watching(seen, uses_teacher=each) for each in uses])
    results = phases._run_phases(job(tmp_path, {"method": "rtn"}, cached=cached))
    assert seen == expected
    assert results.forwards == 3.0
    assert results.table_rows == {"conv": 3, "to_k": 1, "out": 3}
    assert torch.tensor(results.arrays["bits"]).tolist() == [[4, 8]] * 3
