import numpy as np

from sdquant_cli.report.picture_grid import PromptImages, Selection, caption, picture_grid, select_prompts
from sdquant_cli.report.pictures import LADDER, data_uri
from tests.report.values import compared_model

FIRST = {"ssim": [0.9, 0.1, 0.5, 0.4, 0.8], "psnr": [40, 10, 30, np.inf, 20]}
SECOND = {"psnr": [41, 42, 5, np.inf, 43]}


def test_half_are_the_worst_of_any_model_and_half_the_first_of_the_others():
    models = [compared_model(FIRST), compared_model(SECOND)]
    assert select_prompts(models, 4) == Selection((2, 1), (0, 3), "psnr", 5)
    assert select_prompts(models[:1], 3) == Selection((1,), (0, 2), "psnr", 5)


def test_identical_images_are_never_among_the_worst():
    assert select_prompts([compared_model(FIRST)], 100) == Selection((1, 4, 2, 0), (3,), "psnr", 5)


def test_without_a_metric_to_sort_by_the_first_are_shown():
    assert select_prompts([compared_model({"ssim": [1, 0.5]})], 1) == Selection((), (0,), "", 2)


def test_the_caption_says_which_images_are_shown():
    chosen = Selection((2, 1), (0,), "psnr", 5)
    text = "3 of 5 images: the 2 worst by psnr and the first 1 of the others. Embedded as PNG, lossless."
    assert caption(chosen, LADDER[0]) == text
    assert caption(Selection((1,), (0,), "psnr", 2), LADDER[0]) == "All 2 images. Embedded as PNG, lossless."
    assert caption(Selection((), (0,), "", 2), LADDER[0]).startswith("1 of 2 images. ")


def test_a_card_has_its_own_images_differences_and_scores():
    models = [compared_model(FIRST), compared_model(SECOND)]
    images = {}
    for index in range(5):
        grey = [np.full((8, 8, 3), 10 * index + k, np.uint8) for k in range(3)]
        images[index] = PromptImages(f"prompt {index}", grey[0], tuple(grey[1:]))
    grid = picture_grid(models, Selection((2,), (0,), "psnr", 5), images)
    card = grid.cards[0]
    assert (card.index, card.prompt) == (2, "prompt 2")
    assert card.pictures == tuple(data_uri(np.full((8, 8, 3), v, np.uint8), LADDER[0]) for v in (20, 21, 22))
    assert card.differences == tuple(data_uri(np.full((8, 8, 3), v, np.uint8), LADDER[0]) for v in (4, 8))
    assert card.scores == (("0.5000", "\u2013"), ("30.00", "5.00"))  # the second model has no SSIM
    assert card.distance == {"ssim": -0.5, "psnr": -5}
    assert grid.metrics == {"ssim": "ssim", "psnr": "psnr"}


def test_a_name_is_short_unless_two_metrics_share_a_formula():
    scores = {"clip_score": [0.3], "clip_score[shapes-clip]": [0.3], "feature_distance[shapes-clip]": [0.1]}
    images = {0: PromptImages("p", np.zeros((8, 8, 3), np.uint8), (np.zeros((8, 8, 3), np.uint8),))}
    grid = picture_grid([compared_model(scores)], Selection((), (0,), "", 1), images)
    assert list(grid.metrics.values()) == ["clip_score", "clip_score[shapes-clip]", "feature_distance"]
