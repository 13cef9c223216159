"""Find a model and load its parts, one at a time, so that only what is needed is in memory.

A model is a pipeline directory in diffusers layout, a Hub id, or `shapes`, the embedded model.
"""

import hashlib
import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..errors import EnvironmentProblem, UsageProblem
from ..manifests import ModelRef
from ..types import Dtype, Scheduler
from .layers import PROJECTION, quantizable_layers, time_layers

EMBEDDED = "shapes"
EMBEDDED_FOLDER = Path(__file__).parent / EMBEDDED
COMPONENTS = ("scheduler", "text_encoder", "tokenizer", "unet", "vae")
DEFAULTS_FILE = "sdquant.json"  # beside model_index.json: what a diffusers directory has no place for

TORCH_DTYPES = {Dtype.FP32: torch.float32, Dtype.BF16: torch.bfloat16, Dtype.FP16: torch.float16}

_SCHEDULER_CLASSES = {
    Scheduler.PNDM: "PNDMScheduler",
    Scheduler.DDIM: "DDIMScheduler",
    Scheduler.EULER: "EulerDiscreteScheduler",
    Scheduler.UNIPC: "UniPCMultistepScheduler",
}


@dataclass(frozen=True)
class Defaults:
    """What a model draws with unless told otherwise."""

    guidance_scale: float = 7.5
    steps: int = 50
    prompts: str | None = None  # a file of held-out prompts, relative to the model


class Model:
    """A pipeline directory; components are read when asked for and belong to the caller."""

    def __init__(self, source: str, folder: Path) -> None:
        self.source = source
        self.folder = folder
        for part in COMPONENTS:
            if not (folder / part).is_dir():
                raise UsageProblem(
                    f"--model {source}: {folder} has no {part}/; expected a Stable Diffusion pipeline "
                    f"in diffusers layout with {', '.join(COMPONENTS)}"
                )

    @cached_property
    def ref(self) -> ModelRef:
        """Source and digest: sha256 over the paths and contents of all component files."""
        total = hashlib.sha256()
        for path in sorted(p for part in COMPONENTS for p in (self.folder / part).rglob("*") if p.is_file()):
            with path.open("rb") as file:
                total.update(f"{path.relative_to(self.folder)} ".encode())
                total.update(hashlib.file_digest(file, "sha256").digest())
        return ModelRef(source=self.source, digest=total.hexdigest())

    @cached_property
    def defaults(self) -> Defaults:
        path = self.folder / DEFAULTS_FILE
        if not path.exists():
            return Defaults()
        try:
            return Defaults(**json.loads(path.read_text()))
        except (TypeError, ValueError) as error:
            raise UsageProblem(f"{path}: {error}") from None

    @property
    def prompts_file(self) -> Path | None:
        """The model's own held-out prompts, if it brings any."""
        return self.folder / self.defaults.prompts if self.defaults.prompts else None

    @property
    def text_config(self) -> dict[str, Any]:
        return self._config("text_encoder")

    @cached_property
    def resolution(self) -> int:
        """Side of the pictures the model was trained on, in pixels."""
        return int(self._config("unet")["sample_size"]) * self.latent_factor

    @cached_property
    def latent_factor(self) -> int:
        """Pixels per latent cell along one side."""
        return 2 ** (len(self._config("vae")["block_out_channels"]) - 1)

    @cached_property
    def time_widths(self) -> list[int]:
        """Output channels of each resnet's time projection, in module order (no weights are read)."""
        return [
            layer.out_features
            for name, layer in time_layers(self._skeleton).items()
            if name.endswith(PROJECTION)
        ]

    @cached_property
    def layer_shapes(self) -> dict[str, torch.Size]:
        """Weight shapes of the quantizable layers, in module order (no weights are read)."""
        return {name: layer.weight.shape for name, layer in quantizable_layers(self._skeleton).items()}

    @cached_property
    def _skeleton(self) -> nn.Module:
        from diffusers import UNet2DConditionModel

        with torch.device("meta"):
            return UNet2DConditionModel.from_config(self._config("unet"))

    def latent_shape(self, height: int, width: int) -> tuple[int, int, int]:
        """Shape (C,h,w) of one latent of a picture of height x width pixels."""
        factor = self.latent_factor
        return int(self._config("unet")["in_channels"]), height // factor, width // factor

    def unet(self, dtype: Dtype = Dtype.FP32, device: str = "cpu") -> nn.Module:
        """The denoiser in eval mode, without gradients."""
        from diffusers import UNet2DConditionModel

        unet = self._load(UNet2DConditionModel, "unet", dtype=TORCH_DTYPES[dtype])
        return unet.to(device)

    def vae(self, device: str = "cpu") -> nn.Module:
        """The autoencoder, always fp32: its decoder overflows in fp16 on some models."""
        from diffusers import AutoencoderKL

        return self._load(AutoencoderKL, "vae", dtype=torch.float32).to(device)

    def text_encoder(self, device: str = "cpu") -> nn.Module:
        from transformers import CLIPTextModel

        return self._load(CLIPTextModel, "text_encoder", dtype=torch.float32).to(device)

    def tokenizer(self) -> Any:
        from transformers import CLIPTokenizer

        return CLIPTokenizer.from_pretrained(self.folder / "tokenizer", local_files_only=True)

    def scheduler(self, name: Scheduler) -> Any:
        """A sampler of this model's noise schedule."""
        import diffusers

        # DDIM clips x_0 to -1..1 unless told otherwise: right for pictures, wrong for latents
        config = {"clip_sample": False, **self._config("scheduler", "scheduler_config.json")}
        return getattr(diffusers, _SCHEDULER_CLASSES[name]).from_config(config)

    @property
    def default_scheduler(self) -> Scheduler:
        """The sampler the model was published with, if known here; PNDM otherwise."""
        name = self._config("scheduler", "scheduler_config.json")["_class_name"]
        known = {cls: short for short, cls in _SCHEDULER_CLASSES.items()}
        return known.get(name, Scheduler.PNDM)

    def _config(self, part: str, name: str = "config.json") -> dict[str, Any]:
        path = self.folder / part / name
        try:
            return json.loads(path.read_text())
        except (OSError, ValueError) as error:
            raise UsageProblem(f"{path}: {str(error).splitlines()[0]}") from None

    def _load(self, cls: Any, part: str, **options: Any) -> nn.Module:
        folder = self.folder / part
        try:
            module = cls.from_pretrained(folder, use_safetensors=True, local_files_only=True, **options)
        except (OSError, ValueError, RuntimeError) as error:
            raise UsageProblem(f"{folder}: {str(error).splitlines()[0]}") from None
        return module.eval().requires_grad_(False)


def find_model(source: str) -> Model:
    """The model of a directory, a Hub id (from the local cache or the network) or `shapes`."""
    if source == EMBEDDED:
        return Model(source, EMBEDDED_FOLDER)
    if Path(source).exists():
        if not (Path(source) / "model_index.json").is_file():
            raise UsageProblem(
                f"--model {source}: no model_index.json; expected a pipeline in diffusers layout"
            )
        return Model(source, Path(source))
    if source.count("/") != 1 or source.startswith((".", "/")):
        raise UsageProblem(f"--model {source}: no such directory")
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    patterns = [f"{part}/*" for part in COMPONENTS] + ["model_index.json", DEFAULTS_FILE]
    try:
        return Model(
            source,
            Path(snapshot_download(source, allow_patterns=patterns, ignore_patterns=["*.bin", "*.ckpt"])),
        )
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        raise EnvironmentProblem(
            f"--model {source}: not in the local Hub cache and cannot be fetched "
            f"({str(error).splitlines()[0]}); try `hf download {source}`"
        ) from None
