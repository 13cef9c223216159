"""Types of fields and bounds on sizes in the JSON files of components."""

import pytest
from pydantic import ValidationError

from sdquant_cli.models.configuration import Autoencoder, Defaults, PooledUNet, Scheduler, TextEncoder, UNet

SDXL = {
    "sample_size": 128,
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 256,
    "projection_class_embeddings_input_dim": 2816,
}


def test_missing_fields_have_the_defaults_of_diffusers_and_others_are_ignored():
    import diffusers

    unet = UNet(sample_size=64, some_other_field=1)
    reference = diffusers.UNet2DConditionModel.from_config(
        {"sample_size": 64, "block_out_channels": [32] * 4}
    )
    for field in ("in_channels", "layers_per_block", "cross_attention_dim", "norm_num_groups"):
        assert getattr(unet, field) == reference.config[field]
    assert not hasattr(unet, "some_other_field")
    assert TextEncoder(hidden_size=8).model_fields_set == {"hidden_size"}
    assert PooledUNet(**SDXL).addition_time_embed_dim == 256


@pytest.mark.parametrize(
    ("model", "fields", "field"),
    [
        (UNet, {}, "sample_size"),
        (UNet, {"sample_size": 5000}, "sample_size"),
        (UNet, {"sample_size": "64"}, "sample_size"),
        (UNet, {"sample_size": 64, "in_channels": 0}, "in_channels"),
        (UNet, {"sample_size": 64, "block_out_channels": []}, "block_out_channels"),
        (PooledUNet, {**SDXL, "addition_embed_type": "text"}, "addition_embed_type"),
        (Autoencoder, {"scaling_factor": float("nan")}, "scaling_factor"),
        (Scheduler, {"prediction_type": "noise"}, "prediction_type"),
        (Defaults, {"guidance_scale": -1.0, "steps": 50}, "guidance_scale"),
        (Defaults, {"guidance_scale": 7.5, "steps": 0}, "steps"),
    ],
)
def test_a_field_out_of_bounds_is_named(model, fields, field):
    with pytest.raises(ValidationError) as caught:
        model(**fields)
    assert {error["loc"][0] for error in caught.value.errors()} == {field}
