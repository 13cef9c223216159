"""PQD: post-training quantization of diffusion models (Ye et al. 2025, arXiv 2501.00124).

The timesteps of calibration latents are normally distributed; blocks are reconstructed as in QDrop, in latent
space with text. The paper gives neither mean, deviation, number of latents nor rates: timesteps are chosen as
in PTQ4DM, rates and drop as in QDrop; all are options.
"""

from ..calibration.recipe import Data, Recipe
from ..manifests import ReconstructSpec
from ..types import Bits, Select, Tables

RECIPE = Recipe(
    name="pqd",
    cites="Ye et al. 2025, PQD, arXiv 2501.00124; Wei et al. 2022, QDrop",
    reconstruct=ReconstructSpec(
        layer_weight=0.0,
        drop=0.5,
        mixed_inputs=0.5,
        regulariser=0.01,
        joint=True,
        second=0.0,
        weight_rate=1e-2,  # 1e-3 for 20,000 iterations
        step_rate=4e-5,
    ),
    data=Data(Select.NORMAL, prompts=256, per_prompt=4),
    tables=Tables.SINGLE,
    edges=Bits(8, 8),
    batch_size=16,
    iterations=1000,
)
