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
from typing import Protocol

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import CLIPConfig, CLIPModel, CLIPTokenizer

from ..errors import EnvironmentProblem, first_line
from . import catalog
from .weights import Weights


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


def clip_vit_b_32(weights: Weights, device: torch.device) -> TextFeatureNetwork:
    """Open OpenAI's CLIP ViT-B/32 in transformers' network; pictures are prepared as its processor does."""
    from tokenizers import Tokenizer

    weight_file, tokenizer_file = map(weights.path, catalog.NETWORK_FILES[catalog.CLIP])
    model = CLIPModel(CLIPConfig())  # transformers' defaults are ViT-B/32
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


class _CleanInception:
    """A network on pictures resized as clean-fid does: 299 x 299, bicubic in fp32 (Parmar et al. 2022)."""

    def __init__(self, network: Callable[[Tensor], Tensor], device: torch.device) -> None:
        from cleanfid.resize import build_resizer

        self._network, self._device = network, device
        self._resize = build_resizer("clean")

    @torch.no_grad()
    def of_images(self, images: np.ndarray) -> np.ndarray:
        resized = np.stack([self._resize(picture) for picture in images])
        pixels = torch.from_numpy(resized).permute(0, 3, 1, 2).to(self._device)
        return self._network(pixels).float().cpu().numpy()


def inception(weights: Weights, device: torch.device) -> FeatureNetwork:
    """Open Inception up to its last pooling (D = 2048), as clean-fid does."""
    from cleanfid.inception_torchscript import InceptionV3W

    (name,) = catalog.NETWORK_FILES[catalog.INCEPTION]
    with _naming_the_file(weights.path(name)):
        network = InceptionV3W(str(weights.folder), download=False).to(device)
    return _CleanInception(network, device)


def spatial_inception(weights: Weights, device: torch.device) -> FeatureNetwork:
    """Open Inception up to 7 channels of mixed_6a (D = 2023), by pyiqa, for sFID (Nash et al. 2021)."""
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

    return _CleanInception(features, device)


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
        catalog.CLIP: lambda: clip_vit_b_32(weights, device),
        catalog.INCEPTION: lambda: inception(weights, device),
        catalog.SPATIAL: lambda: spatial_inception(weights, device),
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
