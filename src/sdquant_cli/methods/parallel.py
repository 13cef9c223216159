"""The parallel pipeline (BK-SDM, Kim et al. 2023; Efficiency Meets Fidelity, section 4.1, fig. 2b).

Clean latents of pictures with their captions, noised to a random timestep of the schedule in every
batch. The floating-point model draws the pictures itself, so that no data is needed, or a folder has them.
BK-SDM's losses are on the true noise, the teacher's prediction and its blocks' outputs; here the first is
absent.
"""

from ..calibration.recipe import Recipe
from ..calibration.sources import NoisedPictures

RECIPE = Recipe(
    name="parallel",
    cites="Kim et al. 2023, BK-SDM; Li, Deng et al. 2024, section 4.1",
    source=NoisedPictures,
    needs_pictures=True,
    block_weight=1.0,
)
