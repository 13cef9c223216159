"""Serial-to-parallel calibration (Efficiency Meets Fidelity, section 4.1 and 4.3).

Latents of the floating-point model's own trajectories (the serial half, Algorithm 1) are drawn at mixed
timesteps in every batch (the parallel half); weights and scales of all layers are trained together
so that the quantized UNet's output, its sensitive layers' features and its blocks' outputs match: L_out +
L_sen + the inter-layer distillation of the paper's later revision.

The paper leaves open the optimizer, the rates, the form of L_sen over layers and whether the
unconditional branch is trained. Chosen here: Adam with a cosine to zero; one rate for weights and a
relative one for scales; the mean over layers, each over its floating-point energy; both branches; where no
ranking decides, 8-bit weights for the first and the last layer, as in QDrop, EfficientDM and EDA-DM, and
16-bit inputs, which are few: 4 channels and those of the widest resolution.

Adopted from PCR, since measurements favour it: activation relaxing, 10-bit activations in the last
fifth of the timesteps (of SDXL the first). `--relax none` is the paper's own.
"""

from ..calibration.recipe import Recipe
from ..calibration.sources import MixedLatents
from ..types import Activations, Bits, Relax

RECIPE = Recipe(
    name="serial-to-parallel",
    cites="Li, Deng et al. 2024, Efficiency Meets Fidelity, section 4.1",
    source=MixedLatents,
    stored_items=True,
    mixed=True,
    activations=Activations.TOKEN,
    smoothing=True,
    relax=Relax.LAST,
    edges=Bits(8, 16),
    block_weight=1.0,
)
