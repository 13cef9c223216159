"""The phase that trains a network block by block."""

from collections.abc import Collection, Sequence
from dataclasses import replace

from ...events import Events
from ...manifests import QuantStateSpec, UnitFacts
from ...models.blocks import Block, blocks_of
from ..activation_cache import TensorPool
from ..block_optimizer import ReconstructionPhase, phases_of
from ..checkpoints import State, resumable
from ..items import prediction
from ..job import Job
from ..reconstruction import Reconstruction


class ReconstructBlocks:
    """Train each block towards the floating-point block's answer; every finished block is kept in scratch."""

    uses_teacher = True

    def applies(self, spec: QuantStateSpec) -> bool:
        """Return whether the spec has a reconstruction."""
        return spec.reconstruct is not None

    def run(self, job: Job) -> float:
        """Reconstruct the student in place, in as many phases over all blocks as the method has."""
        assert job.spec.reconstruct is not None
        work = _reconstruction(job)
        blocks = _blocks(job)
        total = sum(block.macs for block in blocks)
        blocks = _runnable(work, _with_layers(blocks, job.inputs.bits), job.events)
        phases = phases_of(job.spec.reconstruct, job.spec.iterations)
        fits = [(phase, block) for phase in phases for block in blocks]
        facts = _fit_all(work, fits, total, job)
        job.results.units = tuple(facts[-len(blocks) :])
        return work.forwards


def _reconstruction(job: Job) -> Reconstruction:
    spec, student = job.spec, job.student
    assert spec.reconstruct is not None
    assert job.teacher.network is not None
    return Reconstruction(
        student.network,
        job.teacher.network,
        job.inputs.items,
        lambda batch: student.set(batch.timestep, batch.conditioning),
        spec.reconstruct,
        spec.batch_size,
        spec.seed,
        TensorPool(job.inputs.cache_bytes, job.scratch.folder),
    )


def _blocks(job: Job) -> list[Block]:
    """Return the blocks of the network in running order."""
    network = job.teacher.network
    assert network is not None
    first = next(job.inputs.items.batches(1, job.inputs.device))
    return blocks_of(network, lambda: prediction(network, first))


def _with_layers(blocks: Sequence[Block], quantized: Collection[str]) -> list[Block]:
    """Return the blocks that have quantized layers, with these layers alone."""
    trained = []
    for block in blocks:
        if layers := tuple(name for name in block.layers if name in quantized):
            trained.append(replace(block, layers=layers))
    return trained


def _runnable(work: Reconstruction, blocks: list[Block], events: Events) -> list[Block]:
    """Return the same blocks, but the layers of a block that cannot be run by itself.

    Enclosing modules that cannot be run by themselves are left out too.
    """
    enclosing = {tap: work.runs_alone(tap.name) for block in blocks for tap in block.enclosing}
    runnable: list[Block] = []
    for block in blocks:
        block = replace(block, enclosing=tuple(tap for tap in block.enclosing if enclosing[tap]))
        if len(block.layers) == 1 or work.runs_alone(block.name):
            runnable.append(block)
        else:
            events.warn(f"{block.name} cannot be reconstructed as a block; its layers are, one by one")
            runnable += block.single_layers()
    return runnable


def _fit_all(
    work: Reconstruction, fits: Sequence[tuple[ReconstructionPhase, Block]], total: int, job: Job
) -> list[UnitFacts]:
    """Fit each block in each phase, or load it from scratch, and return the facts of each."""

    def run(index: int) -> State:
        phase, block = fits[index]
        unit = work.fit(block, phase, index, total)
        saved = work.trained_tensors(block)
        return {"saved": saved, "forwards": work.forwards, "facts": unit.model_dump()}

    def replay(state: State) -> None:
        work.load(state["saved"])
        work.forwards = state["forwards"]

    names = [f"unit-{index:05d}.pt" for index in range(len(fits))]
    facts = []
    with job.events.task("reconstructing", len(fits), "block") as task:
        for state in resumable(job.scratch, names, run, replay):
            facts.append(UnitFacts(**state["facts"]))
            task.advance()
    return facts
