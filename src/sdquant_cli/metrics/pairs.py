"""Closeness of picture pairs, by pyiqa."""

from functools import cache
from typing import Any

import numpy as np
import torch


@cache
def _metric(name: str) -> Any:
    import pyiqa

    return pyiqa.create_metric(name, device="cpu")


def _run(name: str, images: np.ndarray, reference: np.ndarray) -> np.ndarray:
    first, second = (torch.from_numpy(x).permute(0, 3, 1, 2).float() / 255 for x in (images, reference))
    return _metric(name)(first, second).reshape(-1).double().numpy()


def psnr(images: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """PSNR in dB (N) over all RGB values of pictures (N,H,W,3) uint8; identical pictures give 80."""
    return _run("psnr", images, reference)


def ssim(images: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """SSIM (N) on luma, 11x11 Gaussian window (Wang et al. 2004), of pictures (N,H,W,3) uint8."""
    return _run("ssim", images, reference)
