"""PTQ4DM (Shang et al. 2023, arXiv 2211.15736).

Steps of calibration latents are normal over time, denser near the picture (NDTC); ranges by squared error;
no reconstruction, as the published script runs. There the latent of a step is labelled with its mirror
image in time; here latent and label agree, as the paper has it.
"""

from ...types import Bits, Ranges, Select, Tables
from ..recipe import Data, Recipe

RECIPE = Recipe(
    name="ptq4dm",
    cites="Shang et al. 2023, PTQ4DM, arXiv 2211.15736: NDTC; the published script",
    data=Data(Select.NORMAL, prompts=256, per_prompt=4),
    tables=Tables.SINGLE,
    ranges=Ranges.MSE,
    edges=Bits(8, 8),
    iterations=0,
    sensitive_weight=0.0,
)
