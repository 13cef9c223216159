"""PTQ4DM (Shang et al. 2023, arXiv 2211.15736).

The timesteps of calibration latents are normally distributed, denser near the picture (NDTC); ranges by
squared error; the weights of each block are rounded by AdaRound, as PCR's authors compare with it, with the
settings of `pcr`. The published script rounds to nearest: that is `--iterations 0`. It labels a latent with
the mirror image of its timestep; here latent and label agree, as in the paper.
"""

from ..calibration.recipe import Data, Recipe
from ..types import Bits, Ranges, Select, Tables
from .pcr import RECIPE as PCR

RECIPE = Recipe(
    name="ptq4dm",
    cites="Shang et al. 2023, PTQ4DM, arXiv 2211.15736: NDTC; the published script",
    reconstruct=PCR.reconstruct,
    data=Data(Select.NORMAL, prompts=256, per_prompt=4),
    tables=Tables.SINGLE,
    ranges=Ranges.MSE,
    edges=Bits(8, 8),
    batch_size=16,
    iterations=1000,
)
