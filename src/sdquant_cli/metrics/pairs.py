"""Closeness of picture pairs, by pyiqa. Pictures are (N,H,W,3) uint8, results (N) float64."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from .features import lpips_network
from .weights import Weights

Pairwise = Callable[[np.ndarray, np.ndarray], np.ndarray]


def psnr(device: torch.device) -> Pairwise:
    """PSNR in dB over all RGB values, peak 255; infinite for identical pictures.

    Without pyiqa's 1e-8 in the denominator, which makes 80 dB of identical pictures and takes 7e-4 dB
    off at 42 dB.
    """
    import pyiqa

    return _pairwise(pyiqa.create_metric("psnr", device=device, eps=0.0), torch.float64)


def ssim(device: torch.device) -> Pairwise:
    """SSIM on luma, 11x11 Gaussian window of deviation 1.5 (Wang et al. 2004)."""
    import pyiqa

    return _pairwise(pyiqa.create_metric("ssim", device=device), torch.float32)


def lpips(weights: Weights, device: torch.device) -> Pairwise:
    """LPIPS v0.1, AlexNet (Zhang et al. 2018)."""
    return _pairwise(lpips_network(weights, device), torch.float32)


def _pairwise(metric: Any, dtype: torch.dtype) -> Pairwise:
    device = metric.device

    @torch.no_grad()
    def compare(images: np.ndarray, reference: np.ndarray) -> np.ndarray:
        first, second = (
            torch.from_numpy(x).to(device).permute(0, 3, 1, 2).to(dtype) / 255 for x in (images, reference)
        )
        return metric(first, second).reshape(-1).double().cpu().numpy()

    return compare
