"""sdquant: a Stable Diffusion model made small and fast while its pictures stay the same pictures.

After `import sdquant_cli`, diffusers loads what `sdquant export` wrote.
"""

from typing import Any

from .runtime.hook import register_with_diffusers
from .version import __version__

__all__ = ["__version__", "generator", "load"]

register_with_diffusers()


def load(folder: str, **options: Any) -> Any:
    """The pipeline of an exported directory; `options` are those of diffusers' `from_pretrained`.

    What is not quantized computes in fp32 unless `dtype` says otherwise.
    """
    import torch
    from diffusers import DiffusionPipeline

    return DiffusionPipeline.from_pretrained(folder, **{"dtype": torch.float32, **options})


def generator(seed: int = 0, picture: int = 0) -> Any:
    """The noise that `sdquant generate --seed` draws a picture from, for a pipeline's `generator`."""
    from .models.noise import generator as stream

    return stream("noise", seed, picture)
