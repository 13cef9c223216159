"""PCR: progressive calibration and activation relaxing (Tang et al. 2024, arXiv 2311.06322).

Weights are rounded by AdaRound on the floating-point network's inputs. Then each timestep's activation
quantizers are found on the latents that the quantized steps before it give. All prompts advance together, so
the cost is linear in the steps. The last fifth of the timesteps, near the picture, has 10 bits (activation
relaxing; of SDXL the first). The first and the last layer stay in floating point, as in the published code.
"""

from ..calibration.recipe import Data, Recipe
from ..manifests import ReconstructSpec
from ..types import FLOATING, Ranges, Relax, Select, Tables

RECIPE = Recipe(
    name="pcr",
    cites="Tang et al. 2024, PCR, arXiv 2311.06322: progressive calibration, activation relaxing",
    reconstruct=ReconstructSpec(
        layer_weight=0.0,
        drop=1.0,
        mixed_inputs=1.0,
        regulariser=0.01,
        joint=False,
        second=0.0,
        weight_rate=5e-3,  # 1e-3 for 2,000 iterations without warm-up
        step_rate=None,
    ),
    data=Data(Select.STRIDE, prompts=200, per_prompt=5),
    tables=Tables.PROGRESSIVE,
    ranges=Ranges.MIN_MAX,
    relax=Relax.LAST,
    edges=FLOATING,
    batch_size=16,
    iterations=1000,
)
