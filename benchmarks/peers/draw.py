"""Pictures of a Stable Diffusion pipeline whose UNet another tool has quantized, as that tool's guide says.

    python draw.py --peer sdnq-int8 --pipeline FOLDER --prompts FILE --noise noise.npy --output FOLDER

Runs in the tool's own environment, which `run.py` makes: it needs the tool, torch, diffusers and Pillow, and
nothing of sdquant. Writes `00000.png` and so on, and `drawn.json` with what it took; pictures that are there
are not drawn again. A tool that is not installed is named in one line, with exit code 2.
"""

import argparse
import copy
import importlib.metadata
import json
import resource
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from diffusers import StableDiffusionPipeline
from torch import Tensor, nn

RECORD = "drawn.json"
Calibrate = Callable[[], None]  # draws the calibration pictures with the pipeline as it is
Quantize = Callable[[nn.Module, Calibrate], None]  # in place
Save = Callable[[nn.Module, Path], None]  # into a folder


# ---------------------------------------------------------------------------------- the tools


def leave(network: nn.Module, calibrate: Calibrate) -> None:
    """Quantize nothing: the pipeline is floating point, or quantized already."""


def sdnq(**settings: object) -> Quantize:
    """SDNQ's README: `sdnq_post_load_quant(model, ...)`, with convolutions as it says for UNets.

    By default it leaves layers of fewer than 16,384 weights in floating point: of SD v1-4 the first and
    the last convolution, but of the embedded model 211 of 282 layers. So the two are named in place of
    the bound, and the same layers are quantized as at full size.
    """

    def quantize(network: nn.Module, _: Calibrate) -> None:
        from sdnq import sdnq_post_load_quant

        kept = {"minimum_allowed_numel": 0, "modules_to_not_convert": ["conv_in", "conv_out"]}
        sdnq_post_load_quant(network, quant_conv=True, **kept, **settings)

    return quantize


def quanto(weights: str) -> Quantize:
    """Quanto's README: `quantize(model, weights=...)`, then `freeze(model)`."""

    def quantize_and_freeze(network: nn.Module, _: Calibrate) -> None:
        import optimum.quanto
        from optimum.quanto import freeze, quantize

        quantize(network, weights=getattr(optimum.quanto, weights))
        freeze(network)

    return quantize_and_freeze


def torchao(config: str) -> Quantize:
    """torchao's quick start: `quantize_(model, config)`; linear layers only, the others stay as they are."""

    def quantize(network: nn.Module, _: Calibrate) -> None:
        import torchao.quantization

        torchao.quantization.quantize_(network, getattr(torchao.quantization, config)())

    return quantize


# the layers that ModelOpt's example for diffusers leaves in floating point
_MODELOPT_KEEPS = ("time_emb_proj", "time_embedding", "conv_in", "conv_out", "conv_shortcut", "add_embedding")


def modelopt(config: str, algorithm: object) -> Quantize:
    """ModelOpt's guide: `mtq.quantize(model, config, forward_loop)`, less what its example leaves."""

    def quantize(network: nn.Module, calibrate: Calibrate) -> None:
        import modelopt.torch.quantization as mtq

        chosen = copy.deepcopy(getattr(mtq, config)) | {"algorithm": algorithm}
        chosen["quant_cfg"] += [{"quantizer_name": f"*{name}*", "enable": False} for name in _MODELOPT_KEEPS]
        mtq.quantize(network, chosen, forward_loop=lambda _: calibrate())

    return quantize


def exact_int_mm(a: Tensor, b: Tensor) -> Tensor:
    """The product of int8 matrices in int32, by way of fp64, which holds its sums exactly.

    Takes the place of `torch._int_mm`, whose result is the same: on a CPU without VNNI that one computes at
    two billion operations a second, and a UNet takes four times as long.
    """
    return (a.double() @ b.double()).to(torch.int32)


# ---------------------------------------------------------------------------------- what is saved


def save_as_diffusers(network: nn.Module, folder: Path) -> None:
    network.save_pretrained(folder)


def save_safetensors(network: nn.Module, folder: Path) -> None:
    from safetensors.torch import save_file

    save_file(network.state_dict(), folder / "model.safetensors")


def save_pickle(network: nn.Module, folder: Path) -> None:
    torch.save(network.state_dict(), folder / "model.pt")


@dataclass(frozen=True)
class Peer:
    """One way to quantize: the package that does it, bits of weights and activations, how it saves."""

    package: str | None
    bits: str
    what: str
    quantize: Quantize
    save: Save | None = save_as_diffusers  # None: the weights are kept in floating point
    calibrated: bool = False


def _peers() -> dict[str, Peer]:
    int8, uint4 = {"weights_dtype": "int8"}, {"weights_dtype": "uint4"}
    matmul = {"use_quantized_matmul": True, "use_quantized_matmul_conv": True}
    smooth = {"method": "smoothquant", "alpha": 0.8}  # the example's --quant-algo smoothquant --alpha 0.8
    ao, opt = "torchao", "nvidia-modelopt"
    return {
        "fp": Peer(None, "", "floating point", leave),
        "sdquant": Peer("sdquant", "", "exported by sdquant", leave, None),
        "sdnq-int8-matmul": Peer("sdnq", "W8A8", "int8 matmul, convolutions too", sdnq(**int8, **matmul)),
        "sdnq-int8": Peer("sdnq", "W8A16", "int8, convolutions too", sdnq(**int8)),
        "sdnq-uint4-svd": Peer(
            "sdnq", "W4A16", "uint4, its own groups, SVD of rank 32", sdnq(**uint4, use_svd=True, svd_rank=32)
        ),
        "sdnq-uint4": Peer("sdnq", "W4A16", "uint4, its own groups", sdnq(**uint4)),
        "quanto-qint8": Peer("optimum-quanto", "W8A16", "qint8 weights", quanto("qint8"), save_safetensors),
        "quanto-qint4": Peer("optimum-quanto", "W4A16", "qint4 weights", quanto("qint4"), save_safetensors),
        "torchao-int8-weights": Peer(
            ao, "W8A16, linear layers", "Int8WeightOnlyConfig", torchao("Int8WeightOnlyConfig"), save_pickle
        ),
        "torchao-int8-dynamic": Peer(
            ao,
            "W8A8, linear layers",
            "Int8DynamicActivationInt8WeightConfig",
            torchao("Int8DynamicActivationInt8WeightConfig"),
            save_pickle,
        ),
        "modelopt-int8": Peer(
            opt, "W8A8", "INT8_DEFAULT_CFG", modelopt("INT8_DEFAULT_CFG", "max"), None, calibrated=True
        ),
        "modelopt-int8-smoothquant": Peer(
            opt,
            "W8A8",
            "INT8_SMOOTHQUANT_CFG, alpha 0.8",
            modelopt("INT8_SMOOTHQUANT_CFG", smooth),
            None,
            calibrated=True,
        ),
    }


PEERS = _peers()


# ---------------------------------------------------------------------------------- drawing


def bytes_on_disk(network: nn.Module, save: Save, original: dict[str, torch.Size], folder: Path) -> int:
    """Bytes of the files of weights; what kept its name and fp32 counts as the 16 bits that it came in."""
    folder.mkdir(parents=True, exist_ok=True)
    save(network, folder)
    kept = sum(
        tensor.numel()
        for name, tensor in network.state_dict().items()
        if type(tensor.detach()) is Tensor
        and tensor.dtype == torch.float32
        and original.get(name) == tensor.shape
    )
    return file_bytes(folder) - 2 * kept


def file_bytes(folder: Path) -> int:
    """Bytes of a folder's files, descriptions in JSON left out."""
    return sum(path.stat().st_size for path in folder.iterdir() if path.suffix != ".json")


class Drawing:
    """A pipeline with the settings of all its pictures."""

    def __init__(self, pipeline: StableDiffusionPipeline, args: argparse.Namespace) -> None:
        self.pipeline, self.args = pipeline, args
        self.network: nn.Module = pipeline.unet

    def draw(self, prompts: Path, noise: Path, start: int = 0) -> Iterator[list]:
        """Batches of the pictures from `start` on of a file's prompts, one a line, from latents (N,C,h,w)."""
        latents = torch.from_numpy(np.load(noise))
        texts = prompts.read_text(encoding="utf-8").splitlines()[: len(latents)]
        for first in range(start, len(texts), self.args.batch_size):
            batch = slice(first, first + self.args.batch_size)
            yield self.pipeline(
                texts[batch],
                num_inference_steps=self.args.steps,
                guidance_scale=self.args.guidance_scale,
                latents=latents[batch],
            ).images
            print(
                f"{self.args.peer}: {min(batch.stop, len(texts))} of {len(texts)}",
                file=sys.stderr,
                flush=True,
            )

    def calibrate(self) -> None:
        """Draw the calibration's pictures with the network as it is."""
        for _ in self.draw(self.args.calibration_prompts, self.args.calibration_noise):
            pass


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--peer", choices=PEERS, metavar="NAME", required=True)
    for name in ("pipeline", "prompts", "noise", "output"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    parser.add_argument("--calibration-prompts", type=Path)
    parser.add_argument("--calibration-noise", type=Path)
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--guidance-scale", type=float, default=3.0)
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--seed", type=int, default=0, help="of the tool's own random numbers")
    return parser.parse_args()


def latents(path: Path) -> Tensor:
    return torch.from_numpy(np.load(path))


def versions(name: str, peer: Peer) -> dict[str, str]:
    """The versions of what draws; exits with 2 and one line where the tool is not installed."""
    packages = ["torch", "diffusers"] + ([peer.package] if peer.package else [])
    try:
        return {package: importlib.metadata.version(package) for package in packages}
    except importlib.metadata.PackageNotFoundError as missing:
        print(
            f"--peer {name}: {missing.name} is not installed here; run.py makes its environment",
            file=sys.stderr,
        )
        raise SystemExit(2) from None


def main() -> None:
    args = parse()
    peer = PEERS[args.peer]
    record: dict = {"peer": args.peer, "bits": peer.bits, "what": peer.what}
    record["versions"] = versions(args.peer, peer)
    if args.peer == "sdquant":
        import sdquant_cli  # noqa: F401  registers the class of the folder's denoiser
    pipeline = StableDiffusionPipeline.from_pretrained(args.pipeline, dtype=torch.float32)
    pipeline.set_progress_bar_config(disable=True)
    drawing = Drawing(pipeline, args)
    original = {name: tensor.shape for name, tensor in drawing.network.state_dict().items()}
    torch._int_mm = exact_int_mm
    torch.manual_seed(args.seed)
    began = time.perf_counter()
    with torch.no_grad():
        peer.quantize(drawing.network, drawing.calibrate)
    record["seconds_to_quantize"] = round(time.perf_counter() - began, 2)
    record["bytes"] = None
    if peer.save is not None:
        weights = args.output.with_suffix(".weights")
        record["bytes"] = bytes_on_disk(drawing.network, peer.save, original, weights)
    elif args.peer == "sdquant":
        record["bytes"] = file_bytes(args.pipeline / "unet")
    args.output.mkdir(parents=True, exist_ok=True)
    index = drawn = len(list(args.output.glob("*.png")))
    began = time.perf_counter()
    for batch in drawing.draw(args.prompts, args.noise, drawn):
        for picture in batch:
            picture.save(args.output / f"{index:05d}.png")
            index += 1
        record["pictures"] = index
        record["seconds_a_picture"] = round((time.perf_counter() - began) / (index - drawn), 2)
        record["peak_memory"] = 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        (args.output / RECORD).write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
