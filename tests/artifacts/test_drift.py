from sdquant_cli.artifacts.drift import COLUMNS, layout


def test_each_column_has_a_row_for_each_prompt_and_a_unit_for_each_micro_batch():
    arrays = layout(prompts=5, calls=7, micro_batch=2)
    assert tuple(arrays) == COLUMNS
    for array in arrays.values():
        assert array.info.shape == (5, 7)
        assert array.info.unit_rows == 2
        assert not array.finite  # equal latents have an infinite ratio
