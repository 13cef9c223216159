"""The networks of a pipeline beside its denoiser, packed: text encoders and the autoencoder.

They are written by the library that they are of, which loads them again by the quantizer of this package.
"""

import copy
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from ..errors import UsageProblem
from ..metrics.ratios import snr
from ..models.description import ModelDescription
from ..models.folder import class_in
from ..models.layers import quantizable_layers
from ..models.pretrained import load_network
from ..models.weights import dtype_in
from ..quant.allocate import ends
from . import digests
from .engines import dequantized
from .layers import Packed
from .network import pack_network, use_engine
from .plugin import SdquantConfig
from .proof import refusing_other_calls

if TYPE_CHECKING:
    from ..models.pretrained import Network

AUTOENCODER = "vae"
AUTOENCODER_BITS = "w8a16"  # whatever the others have: it is small, and what it adds is in the picture
SELF_TESTS = "selftest-*.safetensors"  # of components, by their names
SHARD = "100MB"
TOKENS = 32  # of a text encoder's self-test


# ---------------------------------------------------------------- what is packed


def component_config(model: ModelDescription, part: str, config: SdquantConfig) -> SdquantConfig:
    """Return the config of a component with nothing left open.

    The layers at its ends stay in floating point. Raises UsageProblem for bits that cannot be, and for a
    component without other layers.
    """
    names = list(quantizable_layers(model.meta_network(part)))
    config = copy.copy(config)
    config.floating = _ends_of_autoencoder(names) if part == AUTOENCODER else names[:1] + names[-1:]
    if not set(names) - set(config.floating):
        raise UsageProblem(f"--components {part}: has no layers to quantize besides the first and the last")
    return config.for_floating_point(names)


def _ends_of_autoencoder(names: list[str]) -> list[str]:
    """Return the first and the last layer of encoder and decoder, and those outside both."""
    halves = ("encoder.", "decoder.")
    kept = {name for name in names if not name.startswith(halves)}
    for half in halves:
        if layers := [name for name in names if name.startswith(half)]:
            kept.update(ends(layers))
    return [name for name in names if name in kept]


def sizes(model: ModelDescription, configs: Mapping[str, SdquantConfig]) -> dict[str, int]:
    """Return the bytes of each network's tensors, those in `configs` packed, from shapes alone.

    What is not packed has the dtype of the model's files.
    """
    total: dict[str, int] = {}
    for part in model.networks:
        network, width = model.meta_network(part), dtype_in(model.folder / part, model.name.variant).itemsize
        if config := configs.get(part):
            pack_network(network, config.layout(list(quantizable_layers(network))))
        total[part] = _bytes(network, width)
    return total


def _bytes(network: nn.Module, width: int) -> int:
    """Return the bytes of a network's stored tensors, each once; `width` is that of an unpacked number."""
    stored, total = network.state_dict().keys(), 0
    for name, tensor in (*network.named_parameters(), *network.named_buffers()):
        if name in stored:
            of_packed = isinstance(network.get_submodule(name.rpartition(".")[0]), Packed)
            is_bias = name.endswith(".bias")
            total += tensor.numel() * (tensor.itemsize if of_packed and not is_bias else width)
    return total


# ---------------------------------------------------------------- files


def write(
    source: Path, variant: str | None, cls: "type[Network]", config: SdquantConfig, folder: Path
) -> None:
    """Write a component whose floating-point weights are in `source`, rounded to nearest one by one.

    Embeddings, norms, biases and the layers at the ends keep the dtype of their files, or have 16 bits where
    those hold their numbers exactly. Raises UsageProblem for weights that do not fit.
    """
    network = load_network(cls, source, variant, dtype_in(source, variant), quantization_config=config)
    halve(network)
    if hasattr(network, "register_to_config"):
        network.register_to_config(_name_or_path="")
    network.save_pretrained(folder, max_shard_size=SHARD)
    digests.record(folder)


def halve(network: nn.Module) -> None:
    """Hold those fp32 tensors in 16 bits, in place, that have only numbers of fp16 or of bf16."""
    for parameter in network.parameters():
        for dtype in (torch.float16, torch.bfloat16):
            if parameter.dtype is torch.float32:
                half = parameter.data.to(dtype)
                if torch.equal(half.float(), parameter.data):
                    parameter.data = half


def facts(folder: Path) -> dict[str, object]:
    """Return what a recipe says of a packed component: its bits, groups, and bytes of weight files."""
    config = json.loads((folder / "config.json").read_text())["quantization_config"]
    size = sum(file.stat().st_size for file in folder.glob("*.safetensors"))
    return {"bits": config["bits"], "group_size": config["group_size"], "bytes": size}


def load(folder: Path, part: str) -> "Network":
    """Return a component of an exported folder in fp32; raise UsageProblem for files that do not fit."""
    return load_network(class_in(folder, part), folder / part, None, torch.float32)


# ---------------------------------------------------------------- self-tests


def write_self_test(folder: Path, part: str) -> None:
    """Store the inputs and the output of one call of a component that is in the folder."""
    network = load(folder, part)
    use_engine(network, dequantized)
    given = _example(network)
    tensors = {"input": given, "output": _answer(network, given).contiguous()}
    save_file(tensors, folder / SELF_TESTS.replace("*", part))


def tested_parts(folder: Path) -> list[str]:
    """Return the components of a folder that have a self-test."""
    begin, end = SELF_TESTS.split("*")
    return [file.name.removeprefix(begin).removesuffix(end) for file in sorted(folder.glob(SELF_TESTS))]


def replay(network: "Network", folder: Path, part: str) -> float:
    """Return the SNR, in dB, of a component's output for its stored call; infinite if it is identical.

    Raises DamagedArtifact for a file without a call of this network.
    """
    file = folder / SELF_TESTS.replace("*", part)
    with refusing_other_calls(file):
        stored = load_file(file)
        ratio = snr(stored["output"][None], _answer(network, stored["input"])[None])
    return float(ratio)


def _example(network: "Network") -> Tensor:
    """Return token ids (1,L) for a text encoder, an image (1,C,h,w) for an autoencoder."""
    generator, config = torch.Generator().manual_seed(0), network.config
    if hasattr(config, "vocab_size"):
        length = min(TOKENS, getattr(config, "max_position_embeddings", TOKENS))
        return torch.randint(config.vocab_size, (1, length), generator=generator)
    side = 8 * 2 ** (len(config.block_out_channels) - 1)
    return torch.rand(1, config.in_channels, side, side, generator=generator) * 2 - 1


@torch.no_grad()
def _answer(network: "Network", given: Tensor) -> Tensor:
    """Return a text encoder's last hidden states (1,L,C), or an image encoded and decoded again."""
    output = network(given)
    answer: Tensor = output.sample if "sample" in output else output.last_hidden_state
    return answer
