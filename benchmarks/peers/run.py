"""Other tools on the ground of sdquant: docs/benchmarks/peers.{json,md}.

    uv run python -m benchmarks.peers.run                     # all tools; hours on two cores, 12 GB of disk
    uv run python -m benchmarks.peers.run sdnq-int8 --count 4 # draw with one, and no page
    uv run python -m benchmarks.peers.run --own w8a8=DIR      # a row for a folder that `sdquant export` wrote
    uv run python -m benchmarks.peers.run --page              # the page of what is drawn already

README.md beside this file says what each tool is asked for. What is drawn already is not drawn again.
"""

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from sdquant_cli.models.load import EMBEDDED_FOLDER
from sdquant_cli.models.noise import initial_noise

ROOT = Path(__file__).parents[2]
PAGES, WORK = ROOT / "docs" / "benchmarks", ROOT / "runs" / "peers"
DRAW = Path(__file__).parent / "draw.py"
# Nothing was ever chosen on the pictures of these captions, by sdquant or here. Settings were chosen on
# shapes-validation.txt, and some on shapes-heldout.txt (docs/benchmarks/defaults.md).
PROMPTS = ROOT / "examples" / "prompts" / "shapes-unseen.txt"
SEED = 2000  # of the noise: no other page draws with it
COUNT = 128
CALIBRATION = (ROOT / "examples" / "prompts" / "shapes-train.txt", SEED + 1, 8)  # prompts, seed, pictures
LATENT = (4, 16, 16)

COMMON = (
    "torch==2.15.0",
    "diffusers==0.42.1",
    "transformers==5.23.0",
    "accelerate==1.15.0",
    "numpy==2.4.6",
    "pillow==13.0.0",
    "safetensors==0.8.0",
)
ENVIRONMENTS = {  # the first word of a peer's name: what is installed beside the common packages
    "sdnq": ("sdnq==0.2.8",),
    "quanto": ("optimum-quanto==0.2.7", "ninja"),  # it compiles its unpacking of 4-bit weights
    "torchao": ("torchao==0.18.0",),
    "modelopt": ("nvidia-modelopt==0.47.0",),
}
NAMES = (
    "sdnq-int8-matmul",
    "sdnq-int8",
    "sdnq-uint4-svd",
    "quanto-qint8",
    "sdnq-uint4",
    "quanto-qint4",
    "torchao-int8-weights",
    "torchao-int8-dynamic",
    "modelopt-int8",
    "modelopt-int8-smoothquant",
)
VARIABLES = {
    "OMP_NUM_THREADS": "1",
    "SDNQ_USE_TORCH_COMPILE": "0",  # the same numbers, without a compiler
    "SDNQ_USE_OPENVINO_MM": "0",  # OpenVINO's int8 products saturate at 16 bits on a CPU without VNNI
}


@dataclass(frozen=True)
class Ground:
    """What all pictures are drawn from, as files: prompts, and the noise that sdquant starts them from."""

    work: Path
    prompts: Path
    batch_size: int

    def write(self, count: int, seed: int) -> None:
        """Write the noise of the pictures and of the calibration's."""
        self.work.mkdir(parents=True, exist_ok=True)
        _, other_seed, few = CALIBRATION
        for name, s, n in (("noise", seed, count), ("calibration", other_seed, few)):
            np.save(self.work / f"{name}.npy", initial_noise(LATENT, s, range(n)).numpy())

    def words(self, peer: str, pipeline: Path, output: Path) -> list[str]:
        """The arguments of draw.py."""
        told = {
            "peer": peer,
            "pipeline": pipeline,
            "prompts": self.prompts,
            "noise": self.work / "noise.npy",
            "output": output,
            "calibration-prompts": CALIBRATION[0],
            "calibration-noise": self.work / "calibration.npy",
            "batch-size": self.batch_size,
        }
        return [word for name, value in told.items() for word in (f"--{name}", str(value))]


def environment(peer: str) -> Path:
    """The Python of a peer's environment, which is made where it is absent."""
    name = peer.partition("-")[0]
    if name not in ENVIRONMENTS:
        return Path(sys.executable)
    folder = WORK / "environments" / name
    python = folder / "bin" / "python"
    packages = [*COMMON, *ENVIRONMENTS[name]]
    made = folder / "packages.json"
    if not made.is_file() or json.loads(made.read_text()) != packages:
        subprocess.run(["uv", "venv", "--clear", "--python", "3.11", folder], check=True)
        subprocess.run(["uv", "pip", "install", "--python", python, *packages], check=True)
        made.write_text(json.dumps(packages))
    return python


def drawn(folder: Path) -> dict[str, Any]:
    """What draw.py wrote beside a folder's pictures; of none where there is nothing yet."""
    record = folder / "drawn.json"
    return json.loads(record.read_text()) if record.is_file() else {"pictures": 0}


def draw(ground: Ground, peer: str, pipeline: Path, output: Path) -> None:
    """Draw with a peer in its own environment what is missing of its pictures."""
    if drawn(output)["pictures"] >= len(np.load(ground.work / "noise.npy", mmap_mode="r")):
        return
    python = environment(peer)
    command = [str(python), str(DRAW), *ground.words(peer, pipeline, output)]
    # the folder of the tool comes first, so that what it compiles finds the environment's programs
    variables = os.environ | VARIABLES | {"PATH": f"{python.parent}{os.pathsep}{os.environ['PATH']}"}
    subprocess.run(command, check=True, env=variables)


def evaluate(images: Path, against: Path, count: int) -> dict[str, Any]:
    """The summary of each metric over the first pictures of two folders, by `sdquant evaluate`."""
    with tempfile.TemporaryDirectory() as temporary:
        sides = [Path(temporary) / name for name in ("images", "against")]
        for folder, side in zip((images, against), sides, strict=True):
            side.mkdir()
            for index in range(count):
                shutil.copy(folder / f"{index:05d}.png", side)
        words = ["--images", sides[0], "--against", sides[1], "--json"]
        command = [sys.executable, "-m", "sdquant_cli", "evaluate", *words]
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return json.loads(done.stdout)["metrics"]


def row(folder: Path, against: Path, count: int) -> dict[str, Any]:
    """What draw.py wrote of a folder's pictures, and the distance of the first ones to floating point."""
    record = drawn(folder) | {"name": folder.name}
    record["pictures"] = count = min(count, record["pictures"])
    kept = folder / f"compared-{count}.json"
    if not kept.is_file():
        kept.write_text(json.dumps(evaluate(folder, against, count)) + "\n")
    return record | {"metrics": json.loads(kept.read_text())}


# ---------------------------------------------------------------------------------- the page


def number(summary: dict[str, Any], digits: int) -> str:
    """Mean, 95% interval and median of a metric."""
    mean, median = summary["mean"], summary["median"]
    if mean is None:
        return "identical" if summary["identical"] else ""
    low, high = summary["ci95"] or (mean, mean)
    return f"{mean:.{digits}f} [{low:.{digits}f}, {high:.{digits}f}] | {median:.{digits}f}"


def line(made: dict[str, Any]) -> str:
    """A row of the table."""
    psnr, distance = (made["metrics"][name] for name in ("psnr", "feature_distance[shapes-clip]"))
    tool = " ".join(list(made["versions"].items())[-1])  # after torch and diffusers
    cells = [
        f"{tool}: {made['name'] if made['peer'] == 'sdquant' else made['what']}",
        made["bits"] or "".join(re.findall(r"w\d+a\d+", made["name"])[:1]).upper(),
        made["pictures"],
        number(psnr, 1),
        number(distance, 5),
        "" if made["bytes"] is None else f"{made['bytes'] / 1e6:.1f} MB",
        round(made["seconds_to_quantize"]),
        round(made["seconds_a_picture"]),
        f"{made['peak_memory'] / 2**30:.2f} GiB",
    ]
    return f"| {' | '.join(map(str, cells))} |"


HEAD = """# Other tools on the same ground

`uv run python -m benchmarks.peers.run` writes this page; `benchmarks/peers/README.md` says what each tool is
asked for and what it cannot do.

The [embedded model](../reference/embedded-model.md), 50 PNDM steps, guidance scale 3, fp32 on the CPU:
pictures of captions of `{prompts}`, on which nothing was ever chosen, each from the
noise that `sdquant generate --seed {seed}` starts it from. Each tool quantized the UNet in an environment of
its own and drew with plain diffusers; `sdquant evaluate --images FOLDER --against FOLDER` compared the PNG
files with the floating-point ones. Mean, 95% interval over pictures, median.

"""
COLUMNS = (
    "tool",
    "bits",
    "pictures",
    "PSNR, dB",
    "median",
    "feature distance",
    "median",
    "weights on disk",
    "quantized in, s",
    "drawn, s a picture",
    "peak memory",
)
FOOT = """
- Weights on disk are those of the denoiser (floating point: {bytes:.1f} MB), as the tool saves them; what it
  leaves alone counts 16 bits, as in the original.
- Seconds are of one thread of a machine that others used too, without a compiler and with the CPU kernels
  that come with each package; products of int8 matrices are computed in fp64, with the same integers. They
  tell minutes from hours and nothing else. Peak memory is that of the whole process, torch included.
- sdquant's rows were drawn with its `dequantized` engine, whose pictures differ from those of `integer` by
  [no more than two micro-batches do](../explanation/quantization.md#how-close-the-engines-are).
- ModelOpt simulates: its weights stay floating point until TensorRT builds an engine, so no size is given.
- torchao quantizes linear layers only; convolutions stay floating point.
- Rows differ in more than the tool. `sdquant quantize` gives the inputs of the 14 shortcut convolutions 16
  bits instead of 8; the row with "w8a8 in all layers between" has 8 there too. sdquant and SDNQ keep the
  first and the last convolution in floating point. sdquant keeps the whole time path as well; SDNQ keeps the
  embedding of the timestep and quantizes its 22 projections.
"""


def page(document: dict[str, Any]) -> str:
    """The Markdown page of a JSON document."""
    head = HEAD.format(**document)
    table = [f"| {' | '.join(COLUMNS)} |", "|---" * len(COLUMNS) + "|", *map(line, document["rows"])]
    return head + "\n".join(table) + "\n" + FOOT.format(bytes=document["fp"]["bytes"] / 1e6)


def write_page(ground: Ground, args: argparse.Namespace) -> None:
    """Compare what is drawn, and write the page and its JSON."""
    fp = ground.work / "fp"
    folders = sorted(record.parent for record in ground.work.glob("*/drawn.json"))
    own = [folder for folder in folders if drawn(folder)["peer"] == "sdquant"]
    started = [*own, *(ground.work / name for name in NAMES if ground.work / name in folders)]
    document = {
        "prompts": str(args.prompts.relative_to(ROOT)),
        "seed": args.seed,
        "fp": drawn(fp),
        "rows": [row(folder, fp, args.count) for folder in started],
    }
    (PAGES / "peers.json").write_text(json.dumps(document, indent=1) + "\n")
    (PAGES / "peers.md").write_text(page(document))


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("peers", nargs="*", metavar="PEER", help=f"of {', '.join(NAMES)}; default: all")
    parser.add_argument(
        "--own",
        action="append",
        default=[],
        metavar="NAME=FOLDER",
        help="a row for an exported folder; its name says the bits, as in 'quantize --bits w8a8'",
    )
    parser.add_argument("--prompts", type=Path, default=PROMPTS)
    parser.add_argument("--count", type=int, default=COUNT)
    parser.add_argument("--seed", type=int, default=SEED)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--page", action="store_true", help="draw nothing")
    args = parser.parse_args()
    for name in args.peers:
        if name not in NAMES:
            parser.error(f"{name}: no such peer; one of {', '.join(NAMES)}")
    return args


def main() -> None:
    args = parse()
    ground = Ground(WORK / f"{args.prompts.stem}-{args.seed}", args.prompts, args.batch_size)
    own = dict(text.split("=", 1) for text in args.own)
    if not args.page:
        ground.write(args.count, args.seed)
        draw(ground, "fp", EMBEDDED_FOLDER, ground.work / "fp")
        for name, folder in own.items():
            draw(ground, "sdquant", Path(folder), ground.work / name)
        for name in args.peers or (() if own else NAMES):
            draw(ground, name, EMBEDDED_FOLDER, ground.work / name)
    if not args.peers:
        write_page(ground, args)


if __name__ == "__main__":
    main()
