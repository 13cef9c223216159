"""sdquant's quantization method for transformers: a quantizer that loads and saves text encoders.

It does for them what plugin.py does for the networks of diffusers, with the same config and layers.
"""

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from transformers.core_model_loading import ConversionOps
from transformers.models.t5 import modeling_t5
from transformers.quantizers.base import HfQuantizer

from ..errors import UsageProblem
from .layers import Packed
from .plugin import SdquantConfig, check_digests, fill_from_floating_point, make_ready, pack_in_place

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class EncoderQuantizer(HfQuantizer):
    """A quantizer that loads text encoders whose weights sdquant has packed, and saves them.

    Floating-point weights are packed while they are loaded, each rounded to nearest, one after the other.
    """

    quantization_config: SdquantConfig

    def __init__(self, quantization_config: SdquantConfig, **options: object) -> None:
        super().__init__(quantization_config, **options)
        self._refused: list[UsageProblem] = []  # weights that are not finite

    def param_needs_quantization(self, model: nn.Module, param_name: str, **_: object) -> bool:
        """Tell if a tensor is a floating-point weight to be packed."""
        path, _dot, field = param_name.rpartition(".")
        return field == "weight" and not self.pre_quantized and isinstance(model.get_submodule(path), Packed)

    def get_quantize_ops(self) -> ConversionOps:
        """Return what packs a weight."""
        return _RoundToNearest(self._refused)

    def _process_model_before_weight_loading(
        self, model: "PreTrainedModel", checkpoint_files: list[str] | None = None, **_: object
    ) -> None:
        if self.pre_quantized:
            check_digests(self.quantization_config, checkpoint_files or [])
        with torch.device("cpu"):  # transformers makes networks where the default device has no data
            self.quantization_config = pack_in_place(model, self.quantization_config, self.pre_quantized)
        for module in model.modules():
            if type(module) is modeling_t5.T5DenseGatedActDense:
                module.__class__ = T5DenseGatedActDense

    def _process_model_after_weight_loading(self, model: "PreTrainedModel", **_: object) -> None:
        if self._refused:
            raise self._refused[0]
        make_ready(model)

    def is_serializable(self) -> bool:
        """Whether networks can be saved."""
        return True

    @property
    def is_trainable(self) -> bool:
        """Whether networks can be trained."""
        return False


class _RoundToNearest(ConversionOps):
    """The packing of one weight, in its layer."""

    def __init__(self, refused: list[UsageProblem]) -> None:
        self._refused = refused  # transformers would say that it failed, and not why

    def convert(
        self,
        input_dict: dict[str, Any],
        source_patterns: list[str],  # noqa: ARG002
        target_patterns: list[str],  # noqa: ARG002
        *,
        model: nn.Module,
        full_layer_name: str,
        missing_keys: set[str],
        **_: object,
    ) -> dict[str, list[Tensor]]:
        """Fill a layer; return no tensors, since it has all of them."""
        (weight,) = input_dict.values()
        path = full_layer_name.rpartition(".")[0]
        layer = model.get_submodule(path)
        assert isinstance(layer, Packed)
        try:
            weight = weight[0] if isinstance(weight, list) else weight
            fill_from_floating_point(layer, weight, full_layer_name)
        except UsageProblem as problem:
            self._refused.append(problem)
        layer.weight._is_hf_initialized = True  # else transformers fills it with random numbers
        missing_keys.difference_update(f"{path}.{field}" for field in ("weight", *layer.tables))
        return {}


class T5DenseGatedActDense(modeling_t5.T5DenseGatedActDense):
    """T5's feed-forward block, without its cast of what the last layer reads to that layer's dtype."""

    def forward(self, hidden_states: Tensor) -> Tensor:
        """Return the block's output (N,L,C); a packed weight's dtype is that of its codes."""
        gated: Tensor = self.act(self.wi_0(hidden_states)) * self.wi_1(hidden_states)
        output: Tensor = self.wo(self.dropout(gated))
        return output
