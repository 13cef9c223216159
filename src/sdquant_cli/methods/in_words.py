"""A quantizer state's spec in words."""

from ..manifests import QuantStateSpec
from ..options.values import FLOAT
from ..types import Activations, Train


def choices_in_words(spec: QuantStateSpec) -> list[str]:
    """Return what decides a state's numbers and training, besides its bits, a phrase each."""
    per_token = spec.activations is Activations.TOKEN
    trained = spec.train.what if spec.train else Train.WEIGHTS_AND_STEPS
    choices = {
        "mixed precision": spec.mixed,
        f"budget {spec.budget}": spec.budget,
        "all codes": spec.full_range,
        "codes symmetric about zero": not spec.full_range,
        f"groups of {spec.group_size}": spec.group_size,
        f"branches of rank {spec.branch_rank}": spec.branch_rank,
        "scales per token": per_token,
        f"{spec.tables} tables, {spec.ranges}": not per_token,
        f"10 bits in the {spec.relax} timesteps": spec.relax,
        "channels scaled": spec.smoothing,
        "shortcuts split": spec.split_shortcuts,
        f"ends at least {spec.edges}": spec.edges and spec.edges != FLOAT,
        "ends in floating point": spec.edges == FLOAT,
        "output corrected": spec.correction,
        f"losses: {losses_in_words(spec)}": True,
        "zero-points trained": spec.train and spec.train.zero_points,
        f"trains {trained}": trained is not Train.WEIGHTS_AND_STEPS,
    }
    return [phrase for phrase, holds in choices.items() if holds]


def losses_in_words(spec: QuantStateSpec) -> str:
    """Return the names of the losses that have a weight."""
    if spec.reconstruct:
        return "blocks + layers" if spec.reconstruct.layer_weight else "blocks"
    if spec.loss is None:
        return "none"
    weights = {
        "L_out": 1.0 if spec.loss.output is None else spec.loss.output,
        "L_sen": spec.loss.sensitive,
        "blocks": spec.loss.blocks,
        "guided": spec.loss.guided,
    }
    return " + ".join(name for name, weight in weights.items() if weight)
