"""Weight files of the right format with random contents, taken for the published ones."""

import hashlib
import json
import warnings
from collections import OrderedDict
from dataclasses import replace

import pytest
import torch
from torch import nn

from sdquant_cli.metrics import catalog, features
from sdquant_cli.metrics.weights import WEIGHT_FILES, Weights
from sdquant_cli.models.load import EMBEDDED_FOLDER


class Branches(nn.Module):
    """mixed_6: `conv` is its first branch, on the map that its other branches read too."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Sequential(nn.Conv2d(8, 9, 1), nn.ReLU())
        self.conv_1 = nn.Sequential(nn.Conv2d(8, 4, 3, padding=1), nn.ReLU())

    def forward(self, x):
        return torch.cat((self.conv(x), self.conv_1(x)), 1)


class Layers(nn.Sequential):
    """Answers (N,2048) to normalised pictures of 299 x 299; names and sizes are the published file's."""

    def __init__(self):
        layers = {
            "conv": nn.Conv2d(3, 8, 3, stride=2),
            "conv_1": nn.Conv2d(8, 8, 3),
            "conv_2": nn.Conv2d(8, 8, 3, padding=1),
            "pool0": nn.MaxPool2d(3, 2),
            "conv_3": nn.Conv2d(8, 8, 1),
            "conv_4": nn.Conv2d(8, 8, 3),
            "pool1": nn.MaxPool2d(3, 2),
            "mixed": nn.Conv2d(8, 8, 1),
            "mixed_1": nn.Conv2d(8, 8, 1),
            "mixed_2": nn.Conv2d(8, 8, 1),
            "mixed_3": nn.Conv2d(8, 8, 3, stride=2),
            "mixed_4": nn.Conv2d(8, 8, 1),
            "mixed_5": nn.Conv2d(8, 8, 1),
            "mixed_6": Branches(),
            "last": nn.Sequential(nn.AvgPool2d(2), nn.Flatten(), nn.Linear(13 * 8 * 8, 2048), nn.Tanh()),
        }
        super().__init__(OrderedDict(layers))


class Base(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = Layers()

    def forward(self, x, return_features: bool = False):
        """Answer to pictures (N,3,H,W), 0..255: output pixel i of 299 lies at i W / 299 of W pixels."""
        batch, channels, height, width = x.shape
        theta = torch.eye(2, 3)
        theta[0, 2] += 1 / width - 1 / 299
        theta[1, 2] += 1 / height - 1 / 299
        size = [batch, channels, 299, 299]
        grid = nn.functional.affine_grid(theta.repeat(batch, 1, 1), size, align_corners=False)
        resized = nn.functional.grid_sample(
            x.float(), grid, mode="bilinear", padding_mode="border", align_corners=False
        )
        found = self.layers((resized - 128) / 128)
        return found if return_features else found.softmax(1)


# A network of the interface of CLIP ViT-L/14, small enough to be written and hashed.
SMALL = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
SMALL_VIT_L_14 = {
    "projection_dim": 768,
    "text_config": SMALL,
    "vision_config": {**SMALL, "patch_size": 14},
}


def write_all(folder):
    from pyiqa.archs import inception as pyiqa_inception
    from pyiqa.archs.lpips_arch import NetLinLayer
    from torchvision.models import alexnet
    from transformers import CLIPConfig, CLIPModel

    torch.manual_seed(0)
    torch.jit.script(Base().eval()).save(folder / "inception-2015-12-05.pt")
    torch.save(alexnet().state_dict(), folder / "alexnet-owt-7be5be79.pth")
    heads = {f"lin{i}.model.1.weight": NetLinLayer(c, use_dropout=True).model[1].weight.data.abs()
             for i, c in enumerate((64, 192, 384, 256, 256))}  # fmt: skip
    torch.save(heads, folder / "LPIPS_v0.1_alex-df73285e.pth")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pyiqa_inception, "load_pretrained_network", lambda *_: None)
        torch.save(
            pyiqa_inception.fid_inception_v3().state_dict(), folder / "pt_inception-2015-12-05-6726825d.pth"
        )
    torch.save(CLIPModel(CLIPConfig()).state_dict(), folder / "clip-vit-base-patch32.bin")
    torch.save(CLIPModel(CLIPConfig(**SMALL_VIT_L_14)).state_dict(), folder / "clip-vit-large-patch14.bin")
    tokenizer = json.loads((EMBEDDED_FOLDER / "clip" / "tokenizer.json").read_text())
    (folder / "clip-vit-base-patch32-tokenizer.json").write_text(json.dumps(tokenizer))


@pytest.fixture(scope="session")
def random_weights(tmp_path_factory):
    folder = tmp_path_factory.mktemp("weights")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch.jit is deprecated, and it is what the published file is
        write_all(folder)
    digests = {name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in WEIGHT_FILES}
    return folder, digests


@pytest.fixture
def weights(random_weights, monkeypatch) -> Weights:
    folder, digests = random_weights
    monkeypatch.setitem(features.CLIP_SIZES, catalog.CLIP_LARGE, SMALL_VIT_L_14)
    for name, digest in digests.items():
        monkeypatch.setitem(WEIGHT_FILES, name, replace(WEIGHT_FILES[name], sha256=digest))
    return Weights(folder)
