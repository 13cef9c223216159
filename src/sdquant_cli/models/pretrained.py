"""Load a network of diffusers or transformers from its folder; every refusal is one line."""

from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import torch

from ..errors import DamagedArtifact, UsageProblem, first_line
from .weights import check_finite, check_headers, need_weights

if TYPE_CHECKING:
    from diffusers import ModelMixin
    from transformers import PreTrainedModel


Network: TypeAlias = "ModelMixin | PreTrainedModel"


def load_network(
    cls: "type[Network]", folder: Path, variant: str | None, dtype: torch.dtype, **options: Any
) -> "Network":
    """Return a network in eval mode, without gradients; raise UsageProblem for weights that do not fit.

    `options` are further ones of `from_pretrained`.
    """
    weights = need_weights(folder, variant)
    check_headers(weights)
    try:
        network, info = cls.from_pretrained(
            folder,
            dtype=dtype,
            variant=weights.variant,
            use_safetensors=True,
            local_files_only=True,
            output_loading_info=True,
            **options,
        )
    except Exception as error:
        if _is_out_of_memory(error) or isinstance(error, DamagedArtifact):
            raise
        raise UsageProblem(f"{folder}: {reason_of(error)}") from None
    for kind in ("missing", "unexpected"):
        # older CLIP checkpoints hold the numbers 0..76 as a tensor
        names = sorted(n for n in info.get(f"{kind}_keys", ()) if not n.endswith("position_ids"))
        if names:
            raise UsageProblem(
                f"{folder}: {len(names)} {kind} tensors, the first {names[0]}; "
                f"the weights are not those of its config.json"
            )
    check_finite(network, folder, variant)
    return network.eval().requires_grad_(False)


def reason_of(error: Exception) -> str:
    """Return why a library refuses: its first line, with the next where that one only announces it."""
    if "ignore_mismatched_sizes" in str(error):
        return "tensors have other shapes than its config.json says"
    lines = str(error).split("\n")
    return " ".join(lines[:2]) if lines[0].endswith(":") else first_line(error)


def _is_out_of_memory(error: Exception) -> bool:
    is_of_torch = isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error)
    return is_of_torch or isinstance(error, MemoryError)
