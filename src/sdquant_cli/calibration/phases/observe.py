"""The first phase: quantizers from observed activations, without training."""

from functools import partial

import torch

from ...events import Events
from ...manifests import QuantStateSpec
from ...models.attention import open_attention
from ...quant.format import NumberFormat
from ...quant.relaxing import relaxed_rows
from ...quant.swap import swap
from ...types import Ranges, Tables
from ..items import prediction
from ..job import Job
from ..observer import Passes, QuantizerRules, item_passes, observe_and_initialise
from ..smoothing import find_smoothings


class Observe:
    """Run the student, still in floating point, on all items and quantize each module that has bits.

    The teacher's answers are cached in the same pass, if there is a cache.
    """

    uses_teacher = False

    def applies(self, spec: QuantStateSpec) -> bool:  # noqa: ARG002
        """Return True."""
        return True

    def run(self, job: Job) -> float:
        """Swap modules for quantized ones."""
        inputs, spec, network, rows = job.inputs, job.spec, job.student.network, job.student.rows
        if spec.attention_bits:
            open_attention(network)
        layers = {name: network.get_submodule(name) for name in inputs.bits}
        rules, forwards = _rules(job), 0
        passes = item_passes(inputs.items, partial(prediction, network), inputs.device)
        if cache := job.teacher.cache:
            answering = item_passes(inputs.items, cache.run, inputs.device, every=True)
            forwards += inputs.items.count
            if len(passes.row) < len(inputs.items) or rules.form.per_token:
                _run_all(answering, job.events)
            else:  # one run of each item serves both
                passes, forwards = answering, 0
        states, unseen_rows = observe_and_initialise(layers, passes, rules, job.events)
        states = {name: state.to(inputs.device) for name, state in states.items()}
        swap(network, states, rows, weights_on_grid=False)
        with_rows = sum(len(state.activation_step) > 1 for state in states.values())
        job.results.borrowed_rows = unseen_rows * with_rows
        if not rules.form.per_token:
            forwards += inputs.items.halves * len(passes.row)
        return float(forwards)


def _rules(job: Job) -> QuantizerRules:
    """Return the rules of a job's first quantizers, with the smoothings of its layers."""
    inputs, spec, student = job.inputs, job.spec, job.student
    form, smoothings = NumberFormat.of(spec), {}
    if spec.smoothing:
        smoothings = find_smoothings(student.network, inputs.bits, form, inputs.items, job.events)
    return QuantizerRules(
        inputs.bits,
        spec.tables or Tables.PER_STEP,
        spec.ranges or Ranges.MIN_MAX,
        relaxed_rows(spec.relax, len(student.rows.timesteps)),
        form=form,
        smoothings=smoothings,
    )


def _run_all(passes: Passes, events: Events) -> None:
    """Make all passes, for the answers that they leave in a cache."""
    with torch.no_grad(), events.task("floating-point predictions", passes.count, "batch") as task:
        for _, run in passes.runs:
            run()
            task.advance()
