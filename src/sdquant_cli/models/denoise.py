"""The denoising loop, for everything that runs a model from noise to the last latent."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from .conditioning import Conditioning, dtype_of, predict
from .guidance import apply_guidance, repeat_for_guidance
from .trajectory import Trajectory

Visit = Callable[[int, Tensor], bool]  # (call, input before it is repeated for guidance) -> go on?


@torch.no_grad()
def denoise(
    network: nn.Module,
    path: Trajectory,
    conditioning: Conditioning,
    guidance_scale: float,
    visit: Visit | None = None,
) -> Tensor:
    """Run a trajectory to its end and return its latents (N,C,h,w).

    Every call runs the items of `conditioning`: `batch_conditioning` of N prompts at the same guidance scale.
    `visit` sees the input of each call, after `scale_model_input`; where it returns False the loop stops.
    """
    device = path.latents.device
    conditioning = conditioning.to(device, dtype_of(network))  # the same tensors in every call
    while not path.finished:
        scaled = path.input()
        if visit is not None and not visit(path.call, scaled):
            break
        x = repeat_for_guidance(scaled, guidance_scale)
        prediction = predict(network, x, path.timestep, conditioning)
        path.advance(apply_guidance(prediction, guidance_scale))
    return path.latents
