"""PTQ4DM (Shang et al. 2023, arXiv 2211.15736).

The timesteps of calibration latents are normally distributed, denser near the picture (NDTC); ranges by
squared error; no reconstruction, as in the published script. There a latent is labelled with the mirror image
of its timestep; here latent and label agree, as in the paper.
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
