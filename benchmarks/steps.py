"""Which steps' errors reach the picture, and how much of them is overfitting.

    uv run python benchmarks/steps.py STATE [STATE ...] --store runs/ablation

Prints the tables of docs/benchmarks/steps.md: of each quantizer state the squared error of its guided noise
prediction, on held-out trajectories of the floating-point model and on the state's calibration latents; and
of the first state what the latent at the end is off where only one call was made by the quantized network,
summed in fives, and where all calls were at once, all but those of the last two lines, and only those.
"""

import argparse
from collections.abc import Callable, Container, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sdquant_cli.artifacts.latents import Latents, load_items
from sdquant_cli.artifacts.prompts import store_prompts
from sdquant_cli.artifacts.quant_state import QuantState, find_state, quantized_denoiser
from sdquant_cli.artifacts.text_embeds import store_embeddings
from sdquant_cli.artifacts.time_table import TimeTable
from sdquant_cli.artifacts.workspace import Workspace
from sdquant_cli.manifests import Setting
from sdquant_cli.models.conditioning import Conditioning, predict
from sdquant_cli.models.guidance import apply_guidance, batch_conditioning, repeat_for_guidance
from sdquant_cli.models.noise import initial_noise
from sdquant_cli.models.trajectory import Trajectory
from sdquant_cli.prompts import read_prompts
from sdquant_cli.store import Store
from sdquant_cli.types import Dtype

ROOT = Path(__file__).parents[1]
SEED = 1000  # of the noise; latents are sampled with seed 0
AT_ONCE = 16  # calibration latents
CALLS = 5  # in a line of the tables
CPU = torch.device("cpu")


class Ground:
    """Held-out prompts, their noise, and the floating-point network's trajectories from it."""

    def __init__(self, setting: Setting, prompts: int, workspace: Workspace) -> None:
        self.setting, self.model = setting, workspace.model(setting)
        file = read_prompts(ROOT / "examples/prompts/shapes-heldout.txt", prompts)
        stored = store_prompts(workspace, file)
        embeds = store_embeddings(workspace, self.model, stored)
        index = torch.from_numpy(embeds.index())
        texts = embeds.texts(self.model, setting)
        self.conditioning = batch_conditioning(texts, index, setting.guidance_scale)
        self.noise = initial_noise(
            self.model.latent_shape(setting.height, setting.width), SEED, range(prompts)
        )
        self.teacher = self.model.denoiser(Dtype(setting.dtype))
        self.timesteps = self.model.sampler(setting).timesteps
        self.inputs: list[Tensor] = []
        self.answers: list[Tensor] = []
        self.latents = self._run(self._watched)

    def guided(self, network: Any, x: Tensor, timestep: Tensor, conditioning: Conditioning) -> Tensor:
        """Prediction (N,C,h,w) of inputs (N,C,h,w) and the conditioning of their items."""
        scale = self.setting.guidance_scale
        return apply_guidance(predict(network, repeat_for_guidance(x, scale), timestep, conditioning), scale)

    def _watched(self, _: int, x: Tensor, timestep: Tensor) -> Tensor:
        """The floating-point network's answer, kept with its input."""
        self.inputs.append(x)
        self.answers.append(self.guided(self.teacher, x, timestep, self.conditioning))
        return self.answers[-1]

    @torch.no_grad()
    def _run(self, answer: Callable[[int, Tensor, Tensor], Tensor]) -> Tensor:
        """Last latents (N,C,h,w), where each call is answered from its number, input and timestep."""
        path = Trajectory(self.model.sampler(self.setting), self.noise)
        while not path.finished:
            path.advance(answer(path.call, path.input(), path.timestep))
        return path.latents

    @torch.no_grad()
    def errors(self, student: Any) -> Tensor:
        """Squared error (calls) of the prediction on the floating-point trajectories."""
        calls = zip(self.inputs, self.timesteps, self.answers, strict=True)
        found = [self.guided(student, x, t, self.conditioning) - answer for x, t, answer in calls]
        return torch.stack([error.square().mean() for error in found])

    def reaching(self, student: Any, calls: Container[int], first: int) -> Tensor:
        """Squared error (N) of the last latent where these calls, `first` the earliest, are the student's."""

        def answer(call: int, x: Tensor, timestep: Tensor) -> Tensor:
            if call < first:
                return self.answers[call]
            return self.guided(student if call in calls else self.teacher, x, timestep, self.conditioning)

        return (self._run(answer) - self.latents).square().flatten(1).mean(1)

    @torch.no_grad()
    def errors_on_latents(self, student: Any, state: QuantState, workspace: Workspace) -> Tensor:
        """Squared error (calls) of the prediction on the latents that a state was calibrated with."""
        latents = workspace.input(Latents, state, "latents")
        items = load_items(workspace, latents, workspace.input(TimeTable, state, "time-table"))
        errors = torch.empty(len(items))
        for index in torch.arange(len(items)).split(AT_ONCE):
            batch = items.batch(index, CPU)
            inputs = (batch.x[: len(index)], batch.timestep, batch.conditioning)
            ours, theirs = (self.guided(network, *inputs) for network in (student, self.teacher))
            errors[index] = (ours - theirs).square().flatten(1).mean(1)
        at = items.timesteps[items.row]
        return torch.stack([errors[at == timestep].mean() for timestep in self.timesteps])


def line(cells: Sequence[object]) -> None:
    print("| " + " | ".join(map(str, cells)) + " |", flush=True)


def head(cells: Sequence[str]) -> None:
    line(cells)
    line(["---"] * len(cells))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("states", nargs="+", metavar="STATE")
    parser.add_argument("--store", default=str(ROOT / "runs" / "ablation"))
    parser.add_argument("--prompts", type=int, default=24)
    asked = parser.parse_args()
    workspace = Workspace(Store(asked.store)).on("cpu")
    states = [find_state(workspace, name) for name in asked.states]
    setting = states[0].facts.setting
    ground = Ground(setting, asked.prompts, workspace)
    students = [quantized_denoiser(workspace, state, setting) for state in states]
    fives = torch.arange(len(ground.timesteps)).split(CALLS)
    spans = [f"{ground.timesteps[five[0]]:g} ... {ground.timesteps[five[-1]]:g}" for five in fives]

    head(["timesteps", *(f"{name}, {kind}" for name in asked.states for kind in ("held out", "calibration"))])
    columns = []
    for student, state in zip(students, states, strict=True):
        columns += [ground.errors(student), ground.errors_on_latents(student, state, workspace)]
    for span, five in zip(spans, fives, strict=True):
        line([span, *(f"{column[five].mean():.2g}" for column in columns)])

    print()
    head(["timesteps", "prediction", "last latent, sum of means", "sum of medians"])
    for span, five in zip(spans, fives, strict=True):
        reached = torch.stack([ground.reaching(students[0], (call,), call) for call in five.tolist()])
        own = (columns[0][five].mean(), reached.mean(1).sum(), reached.median(1).values.sum())
        line([span, *(f"{value:.2g}" for value in own)])
    calls, late = range(len(ground.timesteps)), int(fives[-2][0])
    for several in (calls, calls[:late], calls[late:]):
        together = ground.reaching(students[0], several, several[0])
        span = f"{ground.timesteps[several[0]]:g} ... {ground.timesteps[several[-1]]:g} at once"
        line([span, "", f"{together.mean():.2g}", f"{together.median():.2g}"])


if __name__ == "__main__":
    main()
