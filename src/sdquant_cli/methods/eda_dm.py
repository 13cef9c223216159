"""EDA-DM: enhanced distribution alignment (Liu et al. 2024, arXiv 2401.04585).

Temporal distribution alignment: calibration latents from the timesteps that the density and variety of
mid-block features ask for, one for each prompt. Fine-grained block reconstruction: the block's error plus
gamma times the errors of its layers, rounding and activation scales learned together, inputs dropped as in
QDrop. One activation quantizer per layer for all timesteps. Rates, gamma and the 8-bit edges are those of
the published SD script; its softmax quantizers are `--attention-bits`.
"""

from ..calibration.recipe import Data, Recipe
from ..manifests import ReconstructSpec
from ..types import Bits, Select, Tables

RECIPE = Recipe(
    name="eda-dm",
    cites="Liu et al. 2024, EDA-DM, arXiv 2401.04585: TDAC and FBR; the published script for SD",
    reconstruct=ReconstructSpec(
        layer_weight=0.8,  # gamma of the SD script
        drop=0.5,
        mixed_inputs=0.5,
        regulariser=0.0,  # the script has none
        joint=True,
        second=0.0,
        weight_rate=3e-2,
        step_rate=1e-4,
    ),
    rate_at_8_bits=5e-4,
    data=Data(Select.DENSITY, prompts=256, per_prompt=1),
    tables=Tables.SINGLE,
    edges=Bits(8, 8),
    batch_size=2,
    iterations=1000,
)
