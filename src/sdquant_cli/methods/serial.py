"""The serial pipeline (EfficientDM, He et al. 2023; "Base" in Efficiency Meets Fidelity, table 7).

New prompts and noise in every round; the floating-point model follows its trajectory from the first
timestep to the last, and each call is one update. So a batch holds one timestep, and updates follow
the order of sampling: the oscillation that section 4.1 of the paper describes.

As in EfficientDM, the loss is on the guided prediction alone, what is trained is a low-rank update of each
weight with scales and zero-points, and the first and the last layer have 8 bits.

EfficientDM's batch is 2 pictures; here it is the batch of the other methods, for an equal budget. The
rates are slower than theirs, which suit batches of mixed timesteps and draw far worse pictures here. The
rate of low-rank updates lets a weight move about as far as the rate of weights does: with rank 32 and 576
inputs, an update moves it by sqrt(32 / 576) of the rate.
"""

from ..calibration.recipe import Recipe
from ..calibration.sources import TrajectoryBatches
from ..types import Bits, Train

RECIPE = Recipe(
    name="serial",
    cites="He et al. 2023, EfficientDM; Li, Deng et al. 2024, section 4.1 and table 7 (Base)",
    source=TrajectoryBatches,
    edges=Bits(8, 8),
    output_weight=0.0,
    sensitive_weight=0.0,
    guided_weight=1.0,
    train=Train.LOW_RANK,
    zero_points=True,
    weight_rate=1e-5,
    low_rank_rate=4e-5,
    step_rate=1e-4,
)
