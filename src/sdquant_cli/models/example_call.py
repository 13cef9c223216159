"""One call of a denoiser on random numbers, where time, memory or agreement matter and images do not."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..manifests import Setting
from .conditioning import Conditioning, predict
from .load import Model


@dataclass(frozen=True)
class ExampleCall:
    """The inputs of one call."""

    x: Tensor  # (N,C,h,w)
    timestep: Tensor  # (1)
    conditioning: Conditioning  # of N items

    @classmethod
    def of(cls, model: Model, setting: Setting, items: int, timestep: float) -> "ExampleCall":
        """Return a call on normal numbers, always the same ones."""
        g = torch.Generator().manual_seed(0)
        pooled = None
        if model.pooled_width is not None:
            pooled = torch.randn(items, model.pooled_width, generator=g)
        tokens = torch.randn(items, *model.text_shape, generator=g)
        mask = torch.ones(tokens.shape[:2]) if model.family.masked else None
        conditioning = model.in_setting(Conditioning(tokens, pooled, mask=mask), setting)
        x = torch.randn(items, *model.input_shape(setting.height, setting.width), generator=g)
        return cls(x, torch.tensor([timestep]), conditioning)

    @classmethod
    def of_shapes(cls, model: Model, setting: Setting, items: int) -> "ExampleCall":
        """Return a call on the meta device, which computes shapes alone."""
        tokens, channels = model.text_shape
        with torch.device("meta"):
            pooled = None if model.pooled_width is None else torch.empty(items, model.pooled_width)
            size = torch.empty(items, 6) if model.family.sized else None
            guidance = None if model.guidance_width is None else torch.empty(items, model.guidance_width)
            mask = torch.empty(items, tokens) if model.family.masked else None
            conditioning = Conditioning(torch.empty(items, tokens, channels), pooled, size, guidance, mask)
            x = torch.empty(items, *model.input_shape(setting.height, setting.width))
            return cls(x, torch.empty(1), conditioning)

    def run(self, network: nn.Module) -> Tensor:
        """Return the network's prediction."""
        with torch.no_grad():
            return predict(network, self.x, self.timestep, self.conditioning)
