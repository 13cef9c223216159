"""Trajectories of the floating-point model for numbered prompts, each from its own noise and text."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from ...manifests import Setting
from ...models.conditioning import Conditioning
from ...models.denoise import Visit, denoise
from ...models.guidance import batch_conditioning
from ...models.load import Model

IntegerArray = NDArray[np.int64]


@dataclass(frozen=True)
class Trajectories:
    """Everything that decides a trajectory beside its prompt's number."""

    model: Model
    setting: Setting
    seed: int
    network: nn.Module
    texts: Conditioning  # distinct, the unconditional one at 0
    index: IntegerArray  # (N) index of each prompt in `texts`
    device: torch.device

    def follow(self, prompts: Sequence[int], visit: Visit) -> None:
        """Denoise these prompts together until `visit` returns False, or to the end."""
        setting, scale = self.setting, self.setting.guidance_scale
        path = self.model.trajectory(setting, self.seed, prompts, self.device)
        conditioning = batch_conditioning(self.texts, self.index[list(prompts)], scale)
        denoise(self.network, path, conditioning, scale, visit)
