"""Q-Diffusion (Li et al. 2023, arXiv 2302.04304).

Calibration latents at equal distances in time, each with and without its prompt. Blocks are reconstructed
by AdaRound with unquantized activations, then the activation scales are learned with an error of power
2.4 (the published script). The convolution of a skip connection's concatenated inputs is quantized in two
parts (shortcut splitting). Ranges by the same power.
"""

from ..calibration.recipe import Data, Recipe
from ..manifests import ReconstructSpec
from ..types import Ranges, Select, Tables

RECIPE = Recipe(
    name="q-diffusion",
    cites="Li et al. 2023, Q-Diffusion, arXiv 2302.04304: time step-aware calibration, shortcut splitting",
    reconstruct=ReconstructSpec(
        layer_weight=0.0,
        drop=1.0,
        mixed_inputs=0.0,
        regulariser=0.01,
        joint=False,
        second=0.25,  # 5,000 after 20,000
        weight_rate=1e-2,  # 1e-3 for 20,000 iterations
        step_rate=4e-4,
    ),
    data=Data(Select.STRIDE, prompts=128, per_prompt=25),
    tables=Tables.SINGLE,
    ranges=Ranges.L24,
    split_shortcuts=True,
    batch_size=4,  # eight items
    iterations=1000,
)
