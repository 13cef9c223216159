"""Metrics of picture pairs, computed by pyiqa. Pictures are (N,H,W,3) uint8, results (N) float64."""

import math
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn

from .features import lpips_network
from .weights import Weights

Pairwise = Callable[[np.ndarray, np.ndarray], np.ndarray]

# What each gives for a picture and itself, to the last bit.
OF_ITSELF = {"psnr": math.inf, "ssim": 1.0, "lpips": 0.0}


def psnr(device: torch.device) -> Pairwise:
    """Return a function for PSNR in dB over all RGB values, peak 255; infinite for identical pictures.

    pyiqa's 1e-8 in the denominator is left out: with it identical pictures have 80 dB, and 42 dB lose 7e-4.
    """
    import pyiqa

    return _pairwise(pyiqa.create_metric("psnr", device=device, eps=0.0), device, torch.float64)


def ssim(device: torch.device) -> Pairwise:
    """Return a function for SSIM on luma, 11x11 Gaussian window of deviation 1.5 (Wang et al. 2004)."""
    import pyiqa

    return _pairwise(pyiqa.create_metric("ssim", device=device), device, torch.float32)


def lpips(weights: Weights, device: torch.device) -> Pairwise:
    """Return a function for LPIPS v0.1, AlexNet (Zhang et al. 2018)."""
    return _pairwise(lpips_network(weights, device), device, torch.float32)


def _pairwise(metric: nn.Module, device: torch.device, dtype: torch.dtype) -> Pairwise:

    @torch.no_grad()
    def compare(images: np.ndarray, reference: np.ndarray) -> np.ndarray:
        first, second = (
            torch.from_numpy(x).to(device).permute(0, 3, 1, 2).to(dtype) / 255 for x in (images, reference)
        )
        values: Tensor = metric(first, second)
        return values.reshape(-1).double().cpu().numpy()

    return compare
