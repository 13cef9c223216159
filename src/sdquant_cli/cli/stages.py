"""`sdquant sample`, `precalc-time`, `sensitivity`, `calibrate`, `generate`, `evaluate`, `leaderboard`."""

from typing import TYPE_CHECKING

from .command import Invocation

if TYPE_CHECKING:
    from ..options import requests


def sample(request: "requests.SampleRequest", call: Invocation) -> None:
    """Collect latents of the floating-point model for calibration.

    Example: sdquant sample --prompts coco.txt --per-prompt 1

    Example: sdquant sample --prompts coco.txt --model CompVis/stable-diffusion-v1-4 --dtype bf16

    Example: sdquant sample --prompts captions_val2017.json --shuffle 0 --limit 256
    """
    from ..stages import sample as stage
    from .execute import execute

    execute(stage, request, call)


def precalc_time(request: "requests.PrecalcTimeRequest", call: Invocation) -> None:
    """Tabulate the time embedding, so that it can leave the UNet.

    Example: sdquant precalc-time
    """
    from ..stages import precalc_time as stage
    from .execute import execute

    execute(stage, request, call)


def sensitivity(request: "requests.SensitivityRequest", call: Invocation) -> None:
    """Rank layers by their effect on the quantized output.

    Example: sdquant sensitivity --measure sqnr

    Example: sdquant sensitivity --ranking examples/paper/layers-sd14.txt
    """
    from ..stages import sensitivity as stage
    from .execute import execute

    execute(stage, request, call)


def calibrate(request: "requests.CalibrateRequest", call: Invocation) -> None:
    """Quantize the UNet, keeping its output close to the original.

    Example: sdquant calibrate --bits w4a8 --mixed

    Example: sdquant calibrate --bits w4a8 --preset paper-sd14
    """
    from ..stages import calibrate as stage
    from .execute import execute

    execute(stage, request, call)


def generate(request: "requests.GenerateRequest", call: Invocation) -> None:
    """Draw images with the quantized or the floating-point model.

    Each prompt has noise of its own, the same for both models.

    Example: sdquant generate --prompts prompts.txt --output pictures
    """
    from ..stages import generate as stage
    from .execute import execute

    execute(stage, request, call)


def evaluate(request: "requests.EvaluateRequest", call: Invocation) -> None:
    """Measure how close quantized images are to the original's.

    Two folders of images that other tools drew are compared without a store.

    Example: sdquant evaluate --against fp --gate "psnr>=25"

    Example: sdquant evaluate --images theirs --against original --output report.html
    """
    from ..stages import compare
    from ..stages import evaluate as stage
    from .execute import execute, execute_alone

    if stage.is_of_folders(request):
        execute_alone(compare, request, call)
    else:
        execute(stage, request, call)


def leaderboard(request: "requests.LeaderboardRequest", call: Invocation) -> None:
    """Compare calibration methods at the same bits.

    All methods share the model, prompts, noise and metrics. What is missing of each is computed, from sample
    to evaluate.

    Example: sdquant leaderboard --methods all --bits w8a8,w4a8 --prompts coco.txt
    """
    from ..stages import leaderboard as stage
    from .execute import execute

    execute(stage, request, call)
