"""Quantization of Stable Diffusion models that keeps their images the same.

After `import sdquant_cli`, diffusers loads the folders that `sdquant export` and `sdquant quantize` write,
and takes `quantization_config=sdquant_cli.SdquantConfig(bits="w8a8")`.
"""

from typing import TYPE_CHECKING

from .runtime.hook import register_with_diffusers, register_with_transformers
from .version import __version__

__all__ = ["SdquantConfig", "__version__", "generator", "load"]

if TYPE_CHECKING:
    import torch
    from diffusers import DiffusionPipeline

    from .runtime.plugin import SdquantConfig

register_with_diffusers()
register_with_transformers()


def __getattr__(name: str) -> object:
    """Import what needs diffusers when it is first asked for."""
    if name != "SdquantConfig":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from .runtime.plugin import SdquantConfig

    return SdquantConfig


def load(folder: str, **options: object) -> "DiffusionPipeline":
    """Load the pipeline of an exported folder; `options` are those of diffusers' `from_pretrained`.

    Layers that are not quantized compute in fp32 unless `dtype` is given. A denoiser that was exported as a
    graph runs in ONNX Runtime or OpenVINO.
    """
    from pathlib import Path

    import torch
    from diffusers import DiffusionPipeline

    from .formats.graph import graphs_in

    defaults = {"dtype": torch.float32, **graphs_in(Path(folder))}
    return DiffusionPipeline.from_pretrained(folder, **{**defaults, **options})


def generator(seed: int = 0, picture: int = 0) -> "torch.Generator":
    """Return the generator of an image's noise in `sdquant generate --seed`, to pass to a pipeline."""
    from .models.noise import generator as stream

    return stream("noise", seed, picture)
