"""Ratios that compare tensors: cosine, SNR, PSNR, noise to signal, decibels.

Pure formulas, free of networks and files. N items lie along the first axis. "Noise" is the
difference of two tensors, "signal" the one that is taken as right.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

SMALLEST_SIGNAL = 1e-8  # keeps the ratio to an all-zero output finite


def energy(x: Tensor) -> Tensor:
    """Return the sum of squares (N) of items (N,...)."""
    return x.double().square().flatten(1).sum(dim=1)


def noise_to_signal(noise: Tensor, signal: Tensor) -> Tensor:
    """Return sum |y - y_q|^2 / sum |y|^2 (layers) from energies: noise (layers, N) and signal (N)."""
    return noise.sum(dim=1) / signal.sum()


def relative_error(outputs: Sequence[Tensor], references: Sequence[Tensor]) -> float:
    """Return sum |y - r|^2 / sum |r|^2 over the tensors of a module's output, as many in both."""
    pairs = list(zip(outputs, references, strict=True))
    noise = sum(float((y - r).square().sum()) for y, r in pairs)
    return noise / max(sum(float(r.square().sum()) for _, r in pairs), SMALLEST_SIGNAL)


def decibels(ratio: float) -> float | None:
    """Return the SQNR in dB of a noise-to-signal ratio, -10 log10(ratio); None where there is no noise."""
    return -10 * float(torch.tensor(ratio, dtype=torch.float64).log10()) if ratio > 0 else None


def snr(signal: Tensor, changed: Tensor) -> Tensor:
    """Return 10 log10(|s|^2 / |s - c|^2) (N), in dB, of items (N,...); infinite for equal items."""
    return 10 * torch.log10(energy(signal) / energy(signal.double() - changed.double()))


def psnr(images: Tensor, reference: Tensor, peak: float = 255.0) -> Tensor:
    """Return 10 log10(peak^2 / mean squared error) (N), in dB, of items (N,...); infinite for equal items."""
    error = (images.double() - reference.double()).square().flatten(1).mean(1)
    return 10 * torch.log10(peak**2 / error)


def cosine(first: Tensor, second: Tensor) -> Tensor:
    """Return the cosine (N) between items (N,...)."""
    return torch.nn.functional.cosine_similarity(first.flatten(1).double(), second.flatten(1).double())


def feature_cosine(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Return the cosine (N) between features (N,D).

    Like `cosine`, but numpy adds in another order: stored scores keep their last digits.
    """
    first, second = first.astype(np.float64), second.astype(np.float64)
    return (first * second).sum(1) / np.linalg.norm(first, axis=1) / np.linalg.norm(second, axis=1)
