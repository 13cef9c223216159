"""States drawn where they were not calibrated: with other schedules, and at other sizes.

    uv run python benchmarks/transfer.py --schedules pndm-50 --sizes per-step token --store runs/transfer

Prints the tables of docs/benchmarks/transfer.md for quantizer states of the embedded model: the PSNR of
simulated pictures to the floating-point model's of the same schedule and size, from the same prompts and
noise: mean with the half-width of its 95% interval over pictures, median and lowest. For states with other
schedules, first how far a calibrated table is from what is made of the others, every second row left out.
"""

import argparse
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import torch
from torch import Tensor

from sdquant_cli.artifacts.images import Drawing, draw
from sdquant_cli.artifacts.prompts import store_prompts
from sdquant_cli.artifacts.quant_state import QuantState, find_state, model_of
from sdquant_cli.artifacts.text_embeds import store_embeddings
from sdquant_cli.artifacts.time_table import TimeTable
from sdquant_cli.artifacts.workspace import Workspace
from sdquant_cli.manifests import ImagesSpec, Setting
from sdquant_cli.metrics.ratios import psnr
from sdquant_cli.models.schedule import log_snr
from sdquant_cli.prompts import read_prompts
from sdquant_cli.quant.interpolation import Interpolation
from sdquant_cli.store import Store
from sdquant_cli.types import Execution, StepMatch

ROOT = Path(__file__).parents[1]
SEED = 1000  # of the noise
SCHEDULES = (("ddim", 20), ("euler", 30))
SIZES = ((64, 64), (96, 96))


class Ground:
    """Held-out prompts in a store, and pictures of them."""

    def __init__(self, setting: Setting, prompts: int, workspace: Workspace) -> None:
        self.setting, self.workspace = setting, workspace
        file = read_prompts(ROOT / "examples/prompts/shapes-heldout.txt", prompts)
        self.prompts = store_prompts(workspace, file)
        self.embeds = store_embeddings(workspace, workspace.model(setting), self.prompts)

    def pictures(
        self, changes: dict[str, object], state: QuantState | None = None, match: StepMatch | None = None
    ) -> Tensor:
        """Pictures (N,H,W,3) at a changed setting, by a state or the floating-point model."""
        spec = ImagesSpec(
            setting=self.setting.model_copy(update=changes),
            engine=Execution.SIMULATED if state else Execution.FP,
            seed=SEED,
            micro_batch=8,
            step_match=match,
        )
        images = draw(self.workspace, Drawing(spec, self.prompts, self.embeds, state))
        return torch.from_numpy(images.read("image"))

    def psnr(
        self, changes: dict[str, object], state: QuantState, match: StepMatch | None = None
    ) -> tuple[str, str, str]:
        """PSNR to floating point, dB: mean, median and lowest."""
        ratios = psnr(self.pictures(changes, state, match), self.pictures(changes))
        half = 1.96 * ratios.std() / len(ratios) ** 0.5
        return f"{ratios.mean():.1f} ± {half:.1f}", f"{ratios.quantile(0.5):.1f}", f"{ratios.min():.1f}"


def left_out(state: QuantState, workspace: Workspace) -> Iterator[tuple[str, float]]:
    """Yield what every second row is made by, and the mean distance of the scales' logarithms from theirs."""
    model = model_of(workspace, state.spec, state.facts.setting)
    timesteps = workspace.input(TimeTable, state, "time-table").timesteps()
    t, x = torch.tensor(timesteps), log_snr(model.sampler(state.facts.setting), timesteps)
    kept, others = torch.arange(0, len(x), 2), torch.arange(1, len(x), 2)
    nearest = (t[others, None] - t[kept]).abs().argmin(1)
    in_snr = Interpolation.between(x[kept], x[others]).weights
    in_time = Interpolation.between(t[kept], t[others]).weights
    ways: dict[str, Callable[[Tensor], Tensor]] = {
        "nearest": lambda step: step[nearest],
        "linear in log-SNR": lambda step: in_snr @ step,
        "logarithms, linear in log-SNR": lambda step: (in_snr @ step.log()).exp(),
        "linear in the timestep": lambda step: in_time @ step,
    }
    layers = [layer for layer in state.state(model).values() if len(layer.activation_step) == len(x)]
    steps = [layer.activation_step.double() for layer in layers]
    for name, make in ways.items():
        distances = [(make(step[kept]) / step[others]).log().abs().mean() for step in steps]
        yield name, float(torch.stack(distances).mean())


def line(cells: Sequence[object]) -> None:
    print("| " + " | ".join(map(str, cells)) + " |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--schedules", nargs="*", default=(), metavar="STATE", help="with tables")
    parser.add_argument("--sizes", nargs="*", default=(), metavar="STATE")
    parser.add_argument("--store", default=str(ROOT / "runs" / "transfer"))
    parser.add_argument("--prompts", type=int, default=32)
    asked = parser.parse_args()
    workspace = Workspace(Store(asked.store)).on("cpu")
    for name in asked.schedules:
        state = find_state(workspace, f"quant-state/{name}")
        for way, distance in left_out(state, workspace):
            line([name, way, f"{100 * distance:.2f}%"])
        ground = Ground(state.facts.setting, asked.prompts, workspace)
        for scheduler, steps in SCHEDULES:
            for match in StepMatch:
                changes = {"scheduler": scheduler, "steps": steps}
                line([f"{scheduler}, {steps}", name, match, *ground.psnr(changes, state, match)])
    for name in asked.sizes:
        state = find_state(workspace, f"quant-state/{name}")
        ground = Ground(state.facts.setting, asked.prompts, workspace)
        for height, width in SIZES:
            size = {"height": height, "width": width}
            line([f"{height} x {width}", name, *ground.psnr(size, state)])


if __name__ == "__main__":
    main()
