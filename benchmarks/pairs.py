"""Why two pairs of the ablation come out nearly level.

    uv run python -m benchmarks.pairs --q-diffusion STATE --pcr STATE --store runs/board

Of a q-diffusion state: how different the two parts of each split shortcut are, as their quantizers have it.
Of a pcr state: its activation tables, found on what the quantized steps before give, beside tables found in
the same network along the floating-point trajectories of the same prompts and noise; and what latents at the
end are off with each, on held-out prompts. docs/explanation/methods.md says what follows.
"""

import argparse
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.steps import ROOT, Ground
from sdquant_cli.artifacts.latents import Latents, load_items
from sdquant_cli.artifacts.quant_state import QuantState, find_state, quantized_denoiser
from sdquant_cli.artifacts.time_table import TimeTable
from sdquant_cli.artifacts.workspace import Workspace
from sdquant_cli.calibration.block_optimizer import input_quantizers
from sdquant_cli.calibration.progressive import Progression
from sdquant_cli.cli.render import Terminal
from sdquant_cli.models.shortcuts import SplitConv2d
from sdquant_cli.store import Store

AT_ONCE = 16


class AlongFloatingPoint(Progression):
    """The same work where latents advance by another network's predictions."""

    leader: Any

    def _step(self, guided: Tensor) -> None:  # noqa: ARG002
        follower, self.network = self.network, self.leader
        super()._step(self._guided())
        self.network = follower


def of_parts(network: nn.Module) -> None:
    for name, part in network.named_modules():
        if isinstance(part, SplitConv2d):
            up, skipped = part.upward, part.skipped
            inputs = skipped.activation_step.mean() / up.activation_step.mean()
            weights = (skipped.weight_step / up.weight_step).median()
            print(f"{name}: inputs' step size {inputs:.2f}, weights' {weights:.2f} times")


def of_progression(state: QuantState, workspace: Workspace, prompts: int) -> None:
    own, other = (quantized_denoiser(workspace, state, state.facts.setting) for _ in range(2))
    compare_tables(input_quantizers(own), found_along(other, state, workspace))
    compare_latents(own, other, Ground(state.facts.setting, prompts, workspace))


def found_along(network: nn.Module, state: QuantState, workspace: Workspace) -> dict[str, Any]:
    """The layers of a pcr network whose tables are per step, found anew along floating-point trajectories."""
    setting = state.facts.setting
    latents, table = (
        workspace.input(Latents, state, "latents"),
        workspace.input(TimeTable, state, "time-table"),
    )
    items, model = load_items(workspace, latents, table), workspace.model(setting)
    shape, guidance, spec = tuple(items.x.shape[1:]), setting.guidance_scale, state.spec
    work = AlongFloatingPoint(
        network, model.sampler(setting), items.texts, shape, guidance, spec.ranges, spec.seed, AT_ONCE
    )
    work.leader = model.denoiser()
    with Terminal().task("along the floating-point trajectories", work.calls, "step") as task:
        for _ in range(work.calls):
            work.advance()
            task.advance()
    return work.layers


def compare_tables(own: dict[str, Any], others: dict[str, Any]) -> None:
    ratios = torch.stack(
        [own[name].activation_step / layer.activation_step for name, layer in others.items()]
    )
    spread = torch.tensor([0.05, 0.5, 0.95])
    for rows in torch.arange(ratios.shape[1]).split(10):
        quantiles = "  ".join(f"{value:.3f}" for value in ratios[:, rows].flatten().quantile(spread))
        print(f"progressive step sizes over the others, steps {rows[0]} to {rows[-1]}: {quantiles}")


def compare_latents(own: nn.Module, other: nn.Module, ground: Ground) -> None:
    calls = range(len(ground.timesteps))
    errors = [ground.reaching(network, calls, 0) for network in (own, other)]
    for name, error in zip(("progressive", "floating-point trajectories"), errors, strict=True):
        print(f"last latent, {name}: mean {error.mean():.2g}, median {error.median():.2g}")
    gains = 10 * torch.log10(errors[1] / errors[0])
    deviation = gains.std() / len(gains) ** 0.5
    print(f"gain in dB: {gains.mean():.2f}, standard error {deviation:.2f}")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--q-diffusion", metavar="STATE", required=True)
    parser.add_argument("--pcr", metavar="STATE", required=True)
    parser.add_argument("--store", default=str(ROOT / "runs" / "board"))
    parser.add_argument("--prompts", type=int, default=64)
    asked = parser.parse_args()
    workspace = Workspace(Store(asked.store)).on("cpu")
    split = find_state(workspace, asked.q_diffusion)
    of_parts(quantized_denoiser(workspace, split, split.facts.setting))
    of_progression(find_state(workspace, asked.pcr), workspace, asked.prompts)


if __name__ == "__main__":
    main()
