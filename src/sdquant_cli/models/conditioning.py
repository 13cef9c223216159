"""The conditioning inputs of a denoiser, and the one way to call it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

Index = Tensor | Sequence[int] | NDArray[np.integer]


@dataclass(frozen=True)
class Conditioning:
    """The text embeddings of N items, with what some denoisers take in addition."""

    tokens: Tensor  # (N,L,D)
    pooled: Tensor | None = None  # (N,E): SDXL, SD3
    size: Tensor | None = None  # (N,6) fp32, pixels: original size, corner of the crop, target size; SDXL
    guidance: Tensor | None = None  # (N,G), embedding of the guidance scale; latent consistency models
    mask: Tensor | None = None  # (N,L), 1 for tokens of the prompt and 0 for padding; PixArt

    def __len__(self) -> int:
        return len(self.tokens)

    def __getitem__(self, index: Tensor | slice) -> "Conditioning":
        return self._each(lambda part: part[index])

    def to(self, device: torch.device | str, dtype: torch.dtype = torch.float32) -> "Conditioning":
        """Return it on a device, embeddings in `dtype`; sizes stay fp32, which holds every pixel count."""
        moved = self._each(lambda part: part.to(device, dtype))
        return moved if self.size is None else replace(moved, size=self.size.to(device))

    def _each(self, change: Callable[[Tensor], Tensor]) -> "Conditioning":
        """Return it with every part changed."""
        others: dict[str, Tensor | None] = {}
        for field in fields(self)[1:]:
            part = getattr(self, field.name)
            others[field.name] = None if part is None else change(part)
        return Conditioning(change(self.tokens), **others)

    def guided(self, index: Index) -> "Conditioning":
        """Return 2n items for guidance: n times the first, unconditional one, then those of `index` (n)."""
        conditional = torch.as_tensor(index)
        return self[torch.cat([torch.zeros_like(conditional), conditional])]


def size_ids(height: int, width: int) -> Tensor:
    """Return SDXL's size conditioning (1,6) of an image that is neither scaled nor cropped."""
    return torch.tensor([[height, width, 0, 0, height, width]], dtype=torch.float32)


def dtype_of(network: nn.Module) -> torch.dtype:
    """Return the dtype of a network's weights; parameters of another kind are codes of packed layers."""
    return next(p.dtype for p in network.parameters() if p.is_floating_point())


def predict(network: nn.Module, x: Tensor, timestep: Tensor, conditioning: Conditioning) -> Tensor:
    """Return the network's prediction (N,C,h,w) fp32 for latents (N,C,h,w) at timesteps (N) or (1).

    Channels of a learned variance, which come after the latent's, are left out.
    """
    dtype = dtype_of(network)
    conditioning = conditioning.to(x.device, dtype)
    timestep = timestep.reshape(-1).to(x.device)
    extra: dict[str, object] = {}
    if conditioning.size is not None:
        extra["added_cond_kwargs"] = {"text_embeds": conditioning.pooled, "time_ids": conditioning.size}
    elif conditioning.pooled is not None:
        extra["pooled_projections"] = conditioning.pooled
    if conditioning.guidance is not None:
        extra["timestep_cond"] = conditioning.guidance
    if conditioning.mask is not None:
        extra["encoder_attention_mask"] = conditioning.mask
        timestep = timestep.expand(len(x))  # as PixArt's pipeline does
    predicted: Tensor = network(
        x.to(dtype),
        timestep=timestep,
        encoder_hidden_states=conditioning.tokens,
        **extra,
    ).sample
    return predicted[:, : x.shape[1]].float()
