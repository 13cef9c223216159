"""Weight files of the right format with random contents, taken for the published ones."""

import hashlib
import json
import warnings
from dataclasses import replace

import pytest
import torch
from torch import nn

from sdquant_cli.metrics.weights import WEIGHT_FILES, Weights
from sdquant_cli.models.load import EMBEDDED_FOLDER


class Layers(nn.Module):
    """Answers (N,2048,1,1) to normalised pictures of 299 x 299, as the published file does."""

    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.AvgPool2d(23), nn.Flatten(), nn.Linear(3 * 13 * 13, 2048), nn.Tanh())

    def forward(self, x):
        return self.net(x)


class Base(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = Layers()

    def forward(self, x):
        return self.layers(x)


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
    for name, digest in digests.items():
        monkeypatch.setitem(WEIGHT_FILES, name, replace(WEIGHT_FILES[name], sha256=digest))
    return Weights(folder)
