"""A trajectory from noise to the last latent, one call of the network after the other."""

import inspect
from collections.abc import Sequence

import torch
from torch import Tensor

from .samplers import Sampler, refused

ITEMS, SIDE = 2, 4  # of the latent that a rehearsal draws


class Trajectory:
    """Latents (N,C,h,w) between noise and image, and the sampler that updates them after each call."""

    def __init__(
        self,
        sampler: Sampler,
        noise: Tensor,
        generators: Sequence[torch.Generator] | None = None,
        context: Tensor | None = None,
    ) -> None:
        """Start from `noise` with a sampler whose timesteps are set; `generators` (N) are for added noise.

        `context` (N,X,h,w) has further channels of the network's input, the same in every call.
        """
        self.sampler = sampler
        self._context = context
        self.call = 0
        self.latents = noise * getattr(sampler, "init_noise_sigma", 1.0)
        # as the pipelines' `prepare_extra_step_kwargs`
        parameters = inspect.signature(sampler.step).parameters
        self._options: dict[str, object] = {"eta": 0.0} if "eta" in parameters else {}
        if generators is not None and "generator" in parameters:
            self._options["generator"] = list(generators)

    @property
    def calls(self) -> int:
        """Number of calls of the whole trajectory."""
        return len(self.sampler.timesteps)

    @property
    def finished(self) -> bool:
        """Whether all calls were made."""
        return self.call == self.calls

    @property
    def timestep(self) -> Tensor:
        """The timestep of the next call."""
        timestep: Tensor = self.sampler.timesteps[self.call]
        return timestep

    def input(self) -> Tensor:
        """Return the network's input (N,C,h,w) of the next call; with flow matching it is the latents.

        The channels of the context come last.
        """
        scaled = self.latents
        if hasattr(self.sampler, "scale_model_input"):
            scaled = self.sampler.scale_model_input(scaled, self.timestep)
        return scaled if self._context is None else torch.cat([scaled, self._context], dim=1)

    def advance(self, prediction: Tensor) -> None:
        """Update the latents by the call's prediction (N,C,h,w), guidance applied."""
        self.latents = self.sampler.step(prediction, self.timestep, self.latents, **self._options).prev_sample
        self.call += 1


def rehearse(sampler: Sampler, steps: int, channels: int, predicted: int) -> None:
    """Run all steps on small random latents; raise UsageProblem if that fails or is not finite.

    The sampler cannot be used afterwards. `channels` are the latents', `predicted` the predictions'.
    """
    problem = f"--steps {steps}: {type(sampler).__name__} cannot run them"
    generators = [torch.Generator().manual_seed(seed) for seed in range(ITEMS + 1)]
    with torch.random.fork_rng(devices=[]), refused(problem):
        before = torch.random.get_rng_state()
        path = Trajectory(sampler, _random(channels, generators[-1]), generators[:ITEMS])
        while not path.finished:
            path.input()
            path.advance(_random(predicted, generators[-1]))
            if not bool(path.latents.isfinite().all()):
                kind = sampler.config.get("prediction_type")
                raise ValueError(f"NaN or infinity at call {path.call - 1}, prediction_type {kind}")
        if path.latents.shape[1] != channels:
            raise ValueError(f"it makes {path.latents.shape[1]} channels of {channels}")
        if not torch.equal(before, torch.random.get_rng_state()):
            raise ValueError("it adds noise that no seed decides")


def _random(channels: int, generator: torch.Generator) -> Tensor:
    return torch.randn(ITEMS, channels, SIDE, SIDE, generator=generator)
