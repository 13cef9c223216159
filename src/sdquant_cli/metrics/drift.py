"""How far one trajectory has left another."""

import torch
from torch import Tensor


def cosine(first: Tensor, second: Tensor) -> Tensor:
    """Cosine (N) between items (N,...)."""
    return torch.nn.functional.cosine_similarity(first.flatten(1).double(), second.flatten(1).double())


def snr(signal: Tensor, changed: Tensor) -> Tensor:
    """Signal-to-noise ratio (N) in dB of items (N,...): 10 log10(|s|^2 / |s - c|^2); infinite if equal."""
    signal, changed = signal.flatten(1).double(), changed.flatten(1).double()
    return 10 * torch.log10(signal.square().sum(1) / (signal - changed).square().sum(1))
