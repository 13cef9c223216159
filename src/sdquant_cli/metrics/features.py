"""Features of pictures and prompts: the only door to metric networks.

Every network takes pictures (N,H,W,3) uint8 and returns features (N,D) fp32. `weights` checks the sha256 of
weight files before they are opened here.
"""

import contextlib
import io
import os
import tempfile
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import CLIPConfig, CLIPModel, CLIPTokenizer
from transformers.initialization import no_init_weights

from ..errors import EnvironmentProblem, first_line
from . import catalog
from .weights import Weights

INCEPTION_SIDE = 299  # pixels of the pictures that Inception takes


class FeatureNetwork(Protocol):
    """A source of features."""

    def of_images(self, images: np.ndarray) -> np.ndarray:
        """Return features (N,D) fp32 of pictures (N,H,W,3) uint8."""


class TextFeatureNetwork(FeatureNetwork, Protocol):
    """A source of features in a space that pictures and prompts share, so that they have a cosine."""

    def of_texts(self, prompts: Sequence[str]) -> np.ndarray:
        """Return features (N,D) fp32 of prompts."""


class _Clip:
    """The projected features of a CLIPModel, not normalised."""

    def __init__(
        self,
        model: CLIPModel,
        to_pixels: Callable[[np.ndarray], Tensor],
        to_tokens: Callable[[Sequence[str]], Tensor],
        device: torch.device,
    ) -> None:
        self._model = model.eval().to(device)
        self._to_pixels, self._to_tokens, self._device = to_pixels, to_tokens, device

    @torch.no_grad()
    def of_images(self, images: np.ndarray) -> np.ndarray:
        output = self._model.get_image_features(pixel_values=self._to_pixels(images).to(self._device))
        return output.pooler_output.float().cpu().numpy()

    @torch.no_grad()
    def of_texts(self, prompts: Sequence[str]) -> np.ndarray:
        output = self._model.get_text_features(input_ids=self._to_tokens(prompts).to(self._device))
        return output.pooler_output.float().cpu().numpy()


def clip_of_folder(folder: Path, device: torch.device) -> TextFeatureNetwork:
    """Open the embedded model's CLIP, a folder in transformers layout; it takes pictures in -1..1."""
    model = CLIPModel.from_pretrained(folder, local_files_only=True, dtype=torch.float32)
    tokenizer = CLIPTokenizer.from_pretrained(folder, local_files_only=True)
    side = model.config.vision_config.image_size

    def to_pixels(images: np.ndarray) -> Tensor:
        pixels = torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255
        if pixels.shape[-2:] != (side, side):
            pixels = F.interpolate(pixels, (side, side), mode="bicubic", antialias=True).clamp(0, 1)
        return pixels * 2 - 1

    def to_tokens(prompts: Sequence[str]) -> Tensor:
        return tokenizer(list(prompts), padding="max_length", truncation=True, return_tensors="pt").input_ids

    return _Clip(model, to_pixels, to_tokens, device)


# Mean and standard deviation of CLIP's training pictures by channel (Radford et al. 2021, published code).
_CLIP_MEAN, _CLIP_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)

# Sizes of OpenAI's networks (Radford et al. 2021, hyperparameters of CLIP-ViT) where they are not those of
# transformers' defaults, which are ViT-B/32.
CLIP_SIZES: dict[str, dict[str, Any]] = {
    catalog.CLIP: {},
    catalog.CLIP_LARGE: {
        "projection_dim": 768,
        "text_config": {"hidden_size": 768, "intermediate_size": 3072, "num_attention_heads": 12},
        "vision_config": {
            "hidden_size": 1024,
            "intermediate_size": 4096,
            "num_hidden_layers": 24,
            "num_attention_heads": 16,
            "patch_size": 14,
        },
    },
}


def openai_clip(name: str, weights: Weights, device: torch.device) -> TextFeatureNetwork:
    """Open OpenAI's CLIP of a name in transformers' network; pictures are prepared as its processor does."""
    from tokenizers import Tokenizer

    weight_file, tokenizer_file = map(weights.path, catalog.NETWORK_FILES[name])
    with no_init_weights():  # random ones take seconds to draw
        model = CLIPModel(CLIPConfig(**CLIP_SIZES[name]))
    _load(model, weight_file, ignore="position_ids")
    tokenizer = Tokenizer.from_file(str(tokenizer_file))
    length, end = model.config.text_config.max_position_embeddings, "<|endoftext|>"
    tokenizer.enable_truncation(length)
    tokenizer.enable_padding(length=length, pad_id=tokenizer.token_to_id(end) or 0, pad_token=end)
    mean, std = (torch.tensor(x).view(3, 1, 1) for x in (_CLIP_MEAN, _CLIP_STD))
    side = model.config.vision_config.image_size

    def to_pixels(images: np.ndarray) -> Tensor:
        cropped = np.stack([_shortest_side(picture, side) for picture in images])
        return (torch.from_numpy(cropped).permute(0, 3, 1, 2).float() / 255 - mean) / std

    def to_tokens(prompts: Sequence[str]) -> Tensor:
        return torch.tensor([encoding.ids for encoding in tokenizer.encode_batch(list(prompts))])

    return _Clip(model, to_pixels, to_tokens, device)


def _shortest_side(picture: np.ndarray, side: int) -> np.ndarray:
    """Resize a picture (H,W,3) so that its shortest side is `side`, bicubic, and crop its centre."""
    height, width = picture.shape[:2]
    scale = side / min(height, width)
    size = (max(side, int(width * scale)), max(side, int(height * scale)))
    resized = np.asarray(Image.fromarray(picture).resize(size, Image.Resampling.BICUBIC))
    top, left = (size[1] - side) // 2, (size[0] - side) // 2
    return resized[top : top + side, left : left + side]


class _Inception:
    """A network on pixels (N,3,H,W) fp32 in 0..255."""

    def __init__(
        self,
        network: Callable[[Tensor], Tensor],
        to_pixels: Callable[[np.ndarray], Tensor],
        device: torch.device,
    ) -> None:
        self._network, self._to_pixels, self._device = network, to_pixels, device

    @torch.no_grad()
    def of_images(self, images: np.ndarray) -> np.ndarray:
        return self._network(self._to_pixels(images).to(self._device)).float().cpu().numpy()


def _pixels(images: np.ndarray) -> Tensor:
    """Return pictures (N,H,W,3) as pixels (N,3,H,W) fp32 in 0..255, of the same size."""
    return torch.from_numpy(images).permute(0, 3, 1, 2).float()


def _clean_pixels() -> Callable[[np.ndarray], Tensor]:
    """Return a function for pixels of clean-fid's resize: 299 x 299, bicubic in fp32 (Parmar et al. 2022)."""
    from cleanfid.resize import build_resizer

    resize = build_resizer("clean")

    def to_pixels(images: np.ndarray) -> Tensor:
        return _pixels(np.stack([resize(picture) for picture in images]))

    return to_pixels


def _open_inception(weights: Weights, device: torch.device) -> Any:
    """Open the TorchScript file of Inception in clean-fid's wrapper: `base` resizes, `layers` do not."""
    from cleanfid.inception_torchscript import InceptionV3W

    (name,) = catalog.NETWORK_FILES[catalog.INCEPTION]
    with _naming_the_file(weights.path(name)):
        return InceptionV3W(str(weights.folder), download=False).to(device)


def inception(weights: Weights, device: torch.device) -> FeatureNetwork:
    """Open Inception up to its last pooling (D = 2048), as clean-fid does."""
    return _Inception(_open_inception(weights, device), _clean_pixels(), device)


def legacy_inception(weights: Weights, device: torch.device) -> FeatureNetwork:
    """Open Inception up to its last pooling (D = 2048) behind its own resize, as torch-fidelity does."""
    base = _open_inception(weights, device).base

    def features(pixels: Tensor) -> Tensor:
        pooled: Tensor = base(pixels, return_features=True)
        return pooled.flatten(1)

    return _Inception(features, _pixels, device)


# The layers of the TorchScript file that lead to mixed_6, one behind another.
_BEFORE_MIXED_6 = (
    *("conv", "conv_1", "conv_2", "pool0", "conv_3", "conv_4", "pool1"),
    *("mixed", "mixed_1", "mixed_2", "mixed_3", "mixed_4", "mixed_5"),
)


def legacy_spatial_inception(weights: Weights, device: torch.device) -> FeatureNetwork:
    """Open Inception up to 7 channels of mixed_6/conv (D = 2023), for sFID (Nash et al. 2021).

    A TorchScript module takes no hook, so its layers are called one by one, behind the resize that it does.
    """
    (name,) = catalog.NETWORK_FILES[catalog.LEGACY_SPATIAL]
    published = _open_inception(weights, device).layers
    with _naming_the_file(weights.path(name)):
        layers = [getattr(published, layer) for layer in _BEFORE_MIXED_6]
        layers.append(published.mixed_6.conv)

    def features(pixels: Tensor) -> Tensor:
        x = (legacy_resize(pixels, INCEPTION_SIDE) - 128) / 128
        for layer in layers:
            x = layer(x)
        return x[:, :7].flatten(1)

    return _Inception(features, _pixels, device)


def legacy_resize(pixels: Tensor, side: int) -> Tensor:
    """Return pixels (N,3,H,W) in `side` x `side` by TensorFlow 1's resize: bilinear, without antialiasing."""
    return _stretched(_stretched(pixels, side).mT, side).mT


def _stretched(x: Tensor, side: int) -> Tensor:
    """Return x (...,n) as (...,side), interpolated linearly at i n / side; past its end it stays."""
    n = x.shape[-1]
    at = torch.arange(side, device=x.device) * n
    low, share = at // side, at % side / side
    high = (low + 1).clamp(max=n - 1)
    return torch.lerp(x[..., low], x[..., high], share)


def spatial_inception(weights: Weights, device: torch.device) -> FeatureNetwork:
    """Open Inception up to 7 channels of mixed_6a (D = 2023), as pyiqa does for its sFID."""
    import pyiqa.archs.inception as pyiqa_inception

    (name,) = catalog.NETWORK_FILES[catalog.SPATIAL]
    published = pyiqa_inception.FID_WEIGHTS_URL
    try:
        pyiqa_inception.FID_WEIGHTS_URL = str(weights.path(name))  # a path is read, an address is fetched
        with _naming_the_file(weights.path(name)), _silent():
            network = pyiqa_inception.InceptionV3(output_blocks="mixed_6a").eval().to(device)
    finally:
        pyiqa_inception.FID_WEIGHTS_URL = published

    def features(pixels: Tensor) -> Tensor:
        return network((pixels - 128) / 128)[0][:, :7].flatten(1)

    return _Inception(features, _clean_pixels(), device)


def lpips_network(weights: Weights, device: torch.device) -> nn.Module:
    """Open pyiqa's LPIPS v0.1 on AlexNet (Zhang et al. 2018)."""
    import pyiqa

    backbone, heads = map(weights.path, catalog.LPIPS_FILES)
    with tempfile.TemporaryDirectory() as hub:
        linked = Path(hub) / "hub" / "checkpoints" / backbone.name  # torchvision finds it here
        linked.parent.mkdir(parents=True)
        linked.symlink_to(backbone.absolute())
        with _environment("TORCH_HOME", hub), _naming_the_file(backbone), _silent():
            network: nn.Module = pyiqa.create_metric("lpips", device=device, pretrained_model_path=str(heads))
    return network


def open_network(name: str, weights: Weights, device: torch.device, embedded_clip: Path) -> FeatureNetwork:
    """Open the feature network of a name in the catalog."""
    makers: dict[str, Callable[[], FeatureNetwork]] = {
        catalog.EMBEDDED_CLIP: lambda: clip_of_folder(embedded_clip, device),
        catalog.CLIP: lambda: openai_clip(name, weights, device),
        catalog.CLIP_LARGE: lambda: openai_clip(name, weights, device),
        catalog.INCEPTION: lambda: inception(weights, device),
        catalog.SPATIAL: lambda: spatial_inception(weights, device),
        catalog.LEGACY_INCEPTION: lambda: legacy_inception(weights, device),
        catalog.LEGACY_SPATIAL: lambda: legacy_spatial_inception(weights, device),
    }
    return makers[name]()


def _load(model: nn.Module, path: Path, ignore: str) -> None:
    """Load exactly the weights of a file into a model, except buffers whose names contain `ignore`."""
    with _naming_the_file(path):
        state = torch.load(path, map_location="cpu", weights_only=True)
        model.load_state_dict({k: v for k, v in state.items() if ignore not in k})


@contextlib.contextmanager
def _naming_the_file(path: Path) -> Iterator[None]:
    try:
        yield
    except (RuntimeError, OSError, ValueError, KeyError, AttributeError) as error:
        reason = first_line(error)
        raise EnvironmentProblem(f"{path}: not weights of the expected network ({reason})") from None


@contextlib.contextmanager
def _silent() -> Iterator[None]:
    """Hide what the libraries print and warn about while they load."""
    with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


@contextlib.contextmanager
def _environment(name: str, value: str) -> Iterator[None]:
    before = os.environ.get(name)
    os.environ[name] = value
    try:
        yield
    finally:
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before
