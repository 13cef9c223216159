"""What a denoiser is told besides latent and timestep, and the one way to call it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor


@dataclass(frozen=True)
class Conditioning:
    """The text of N items, and what SDXL and SD3 take beside it."""

    tokens: Tensor  # (N,L,D)
    pooled: Tensor | None = None  # (N,E): SDXL, SD3
    size: Tensor | None = None  # (N,6) fp32, pixels: original size, corner of the crop, target size; SDXL

    def __len__(self) -> int:
        return len(self.tokens)

    def __getitem__(self, index: Tensor | slice) -> "Conditioning":
        return self._each(lambda tensor: tensor[index])

    def to(self, device: torch.device | str, dtype: torch.dtype = torch.float32) -> "Conditioning":
        """On a device, text in a format; sizes stay fp32, which holds every pixel count."""
        size = None if self.size is None else self.size.to(device)
        moved = self._each(lambda tensor: tensor.to(device, dtype))
        return Conditioning(moved.tokens, moved.pooled, size)

    def guided(self, index: Tensor | Sequence[int] | NDArray[Any]) -> "Conditioning":
        """Items (2n) for guidance: n times the first, the unconditional one, then those of `index` (n)."""
        given = torch.as_tensor(index)
        return self[torch.cat([torch.zeros_like(given), given])]

    def _each(self, change: Callable[[Tensor], Tensor]) -> "Conditioning":
        parts = (self.tokens, self.pooled, self.size)
        return Conditioning(*(None if part is None else change(part) for part in parts))  # type: ignore[arg-type]


def size_ids(height: int, width: int) -> Tensor:
    """SDXL's size conditioning (1,6) of a picture that is neither scaled nor cropped."""
    return torch.tensor([[height, width, 0, 0, height, width]], dtype=torch.float32)


def dtype_of(network: Any) -> torch.dtype:
    """Of the network's numbers; parameters that are no floats are codes of packed layers."""
    return next(p.dtype for p in network.parameters() if p.is_floating_point())


def predict(network: Any, x: Tensor, timestep: Tensor, conditioning: Conditioning) -> Tensor:
    """The network's prediction (N,C,h,w) fp32 for latents (N,C,h,w) at timesteps (N) or one for all."""
    dtype = dtype_of(network)
    told = conditioning.to(x.device, dtype)
    more: dict[str, Any] = {}
    if told.size is not None:
        more["added_cond_kwargs"] = {"text_embeds": told.pooled, "time_ids": told.size}
    elif told.pooled is not None:
        more["pooled_projections"] = told.pooled
    predicted: Tensor = network(
        x.to(dtype), timestep=timestep.reshape(-1).to(x.device), encoder_hidden_states=told.tokens, **more
    ).sample
    return predicted.float()
