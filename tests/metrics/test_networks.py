"""Metric networks, with files of the right format and random contents: the numbers mean nothing, that ours
equal the libraries' own does."""

from functools import partial

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from transformers import CLIPConfig, CLIPModel

from sdquant_cli.errors import EnvironmentProblem
from sdquant_cli.metrics import catalog, pairs
from sdquant_cli.metrics.distribution import frechet_distance
from sdquant_cli.metrics.features import (
    CLIP_SIZES,
    inception,
    legacy_inception,
    legacy_resize,
    legacy_spatial_inception,
    lpips_network,
    open_network,
    openai_clip,
    spatial_inception,
)
from sdquant_cli.metrics.weights import Weights
from sdquant_cli.models.load import EMBEDDED_FOLDER
from tests.fakes import noisy, pictures
from tests.metrics.conftest import Base

CPU = torch.device("cpu")
pytestmark = pytest.mark.filterwarnings("ignore")  # the metric libraries'


@pytest.fixture
def folders(tmp_path):
    """Two folders of PNG files, and the same pictures as arrays."""
    sets = pictures(24, side=48), noisy(pictures(24, side=48), 20)
    for number, images in enumerate(sets):
        (tmp_path / str(number)).mkdir()
        for i, picture in enumerate(images):
            Image.fromarray(picture).save(tmp_path / str(number) / f"{i:03d}.png")
    return [str(tmp_path / "0"), str(tmp_path / "1")], sets


def test_inception_features_are_clean_fids(weights, folders):
    """The distance of features is compared with clean-fid's in test_distribution."""
    from cleanfid.fid import get_folder_features
    from cleanfid.inception_torchscript import InceptionV3W

    names, sets = folders
    network, theirs = inception(weights, CPU), InceptionV3W(str(weights.folder), download=False)
    for name, images in zip(names, sets, strict=True):
        expected = get_folder_features(name, theirs, num_workers=0, device=CPU, mode="clean", verbose=False)
        np.testing.assert_allclose(network.of_images(images), expected, rtol=1e-4, atol=1e-5)


def test_sfid_features_are_pyiqas(weights, folders):
    from pyiqa.archs.fid_arch import get_folder_features
    from pyiqa.archs.inception import InceptionV3

    names, (first, _) = folders
    network = spatial_inception(weights, CPU)
    found = network.of_images(first[:4])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            "pyiqa.archs.inception.FID_WEIGHTS_URL",
            str(weights.path(catalog.NETWORK_FILES[catalog.SPATIAL][0])),
        )
        model = InceptionV3(output_blocks="mixed_6a").eval()
    theirs = get_folder_features(names[0], model, num_workers=0, batch_size=4, device=CPU, verbose=False)[:4]
    assert found.shape == (4, 2023)
    np.testing.assert_allclose(found, theirs, atol=1e-5)


@pytest.mark.parametrize(("height", "width"), [(7, 7), (5, 12), (12, 5), (2, 1)])
def test_the_legacy_resize_is_its_loop(height, width):
    """Output pixel i of 7 lies at i n / 7 of n pixels, between its two neighbours."""
    source = np.random.default_rng(0).integers(0, 256, (height, width)).astype(np.float64)
    expected = np.empty((7, 7))
    for i in range(7):
        for j in range(7):
            y, x = i * height / 7, j * width / 7
            top, left = int(y), int(x)
            below, right = min(top + 1, height - 1), min(left + 1, width - 1)
            rows = [
                source[row, left] * (1 - x + left) + source[row, right] * (x - left) for row in (top, below)
            ]
            expected[i, j] = rows[0] * (1 - y + top) + rows[1] * (y - top)
    found = legacy_resize(torch.tensor(source).float()[None, None], 7)
    np.testing.assert_allclose(found[0, 0], expected, rtol=1e-5)


def hooked(weights, images):
    """Return both features as published evaluators take them: of one call, with a hook on mixed_6's conv."""
    base = Base().eval()
    base.load_state_dict(torch.jit.load(weights.path("inception-2015-12-05.pt")).state_dict())
    maps = []
    base.layers.mixed_6.conv.register_forward_hook(lambda module, inputs, output: maps.append(output))
    with torch.no_grad():
        pooled = base(torch.from_numpy(images).permute(0, 3, 1, 2), return_features=True)
    return pooled.numpy(), maps[0]


@pytest.mark.parametrize(("height", "width"), [(48, 48), (40, 64), (310, 299)])
def test_legacy_features_are_those_of_published_evaluators(weights, height, width):
    images = np.random.default_rng(0).integers(0, 256, (2, height, width, 3), dtype=np.uint8)
    pooled, maps = hooked(weights, images)
    assert maps.shape == (2, 9, 17, 17)
    found = legacy_inception(weights, CPU).of_images(images)
    assert found.shape == (2, 2048)
    np.testing.assert_allclose(found, pooled, atol=1e-6)
    spatial = legacy_spatial_inception(weights, CPU).of_images(images)
    assert spatial.shape == (2, 7 * 17 * 17)
    by_channel = spatial.reshape(2, 7, 17, 17)
    for channel in range(7):
        np.testing.assert_allclose(by_channel[:, channel], maps[:, channel], atol=1e-4)


def test_the_resize_is_all_that_tells_legacy_features_from_clean_ones(weights):
    """At 299 x 299 neither resizes, and they are equal."""
    for side, same in ((299, True), (48, False)):
        images = np.random.default_rng(0).integers(0, 256, (2, side, side, 3), dtype=np.uint8)
        clean, legacy = (make(weights, CPU).of_images(images) for make in (inception, legacy_inception))
        assert np.allclose(clean, legacy, atol=1e-5) == same


def test_distances_of_two_pictures_are_in_closed_form(weights):
    """Covariances of rank 1, dd'/2, have the square root |d.e|/2 in their product's trace."""
    first, second = pictures(2), noisy(pictures(2), 20)
    for name in (catalog.LEGACY_INCEPTION, catalog.LEGACY_SPATIAL):
        network = open_network(name, weights, CPU, EMBEDDED_FOLDER)
        a, b = network.of_images(first).astype(np.float64), network.of_images(second).astype(np.float64)
        d, e = a[1] - a[0], b[1] - b[0]
        means = a.mean(0) - b.mean(0)
        expected = means @ means + (d @ d + e @ e) / 2 - abs(d @ e)
        assert frechet_distance(a, b) == pytest.approx(expected, rel=1e-6)


def test_lpips_is_pyiqas(weights, monkeypatch, tmp_path):
    import pyiqa

    backbone, heads = map(weights.path, catalog.LPIPS_FILES)
    first = pictures(2)
    second = noisy(first, 20)
    ours = pairs.lpips(weights, CPU)
    (tmp_path / "hub" / "checkpoints").mkdir(parents=True)
    (tmp_path / "hub" / "checkpoints" / backbone.name).symlink_to(backbone)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    theirs = pyiqa.create_metric("lpips", device=CPU, pretrained_model_path=str(heads))
    to_tensor = [torch.from_numpy(x).permute(0, 3, 1, 2).float() / 255 for x in (second, first)]
    np.testing.assert_allclose(ours(second, first), theirs(*to_tensor).flatten().numpy(), rtol=1e-5)
    assert (ours(second, first) > 0).all()
    np.testing.assert_allclose(ours(first, first), 0, atol=1e-7)


def test_lpips_takes_its_weights_from_the_folder(weights):
    network = lpips_network(weights, CPU).net
    stored = torch.load(weights.path(catalog.LPIPS_FILES[0]))
    assert torch.equal(network.net.slice1[0].weight, stored["features.0.weight"])
    heads = torch.load(weights.path(catalog.LPIPS_FILES[1]))
    assert torch.equal(network.lin3.model[1].weight, heads["lin3.model.1.weight"])


@pytest.mark.parametrize("name", [catalog.CLIP, catalog.CLIP_LARGE])
def test_clip_pictures_are_prepared_as_transformers_own_processor_does(weights, name):
    from transformers import CLIPImageProcessorPil

    network = openai_clip(name, weights, CPU)
    images = pictures(2, side=96)[:, :64]  # 64 x 96
    processor = CLIPImageProcessorPil()
    expected = processor([Image.fromarray(x) for x in images], return_tensors="pt")["pixel_values"]
    np.testing.assert_allclose(network._to_pixels(images), expected, atol=1e-5)
    expected_shape = (2, catalog.NETWORK_WIDTHS[name])
    assert network.of_images(images).shape == expected_shape
    assert network.of_texts(["a red circle", "x" * 500]).shape == expected_shape


def test_clip_vit_l_14_is_as_large_as_its_published_file():
    """427.6 million parameters of 4 bytes in 1,710,671,599 bytes; the file's directory takes the rest."""
    with torch.device("meta"):
        model = CLIPModel(CLIPConfig(**CLIP_SIZES[catalog.CLIP_LARGE]))
    size = 4 * sum(parameter.numel() for parameter in model.parameters())
    assert 0 < 1_710_671_599 - size < 300_000
    assert model.visual_projection.out_features == catalog.NETWORK_WIDTHS[catalog.CLIP_LARGE]


@pytest.mark.parametrize(
    ("network", "make"),
    [
        (catalog.INCEPTION, inception),
        (catalog.SPATIAL, spatial_inception),
        (catalog.CLIP, partial(openai_clip, catalog.CLIP)),
        (catalog.LEGACY_INCEPTION, legacy_inception),
        (catalog.LEGACY_SPATIAL, legacy_spatial_inception),
    ],
)
def test_a_file_of_another_format_is_named(network, make, tmp_path):
    name = catalog.NETWORK_FILES[network][0]
    torch.save({"something": torch.zeros(1)}, tmp_path / name)
    with pytest.raises(EnvironmentProblem, match=name):
        make(Weights(tmp_path), CPU)


def test_a_torchscript_file_without_the_layer_is_named(tmp_path):
    base = Base()
    base.layers = nn.Sequential(nn.Flatten())
    torch.jit.script(base).save(tmp_path / "inception-2015-12-05.pt")
    with pytest.raises(EnvironmentProblem, match=r"inception-2015-12-05.pt.*conv"):
        legacy_spatial_inception(Weights(tmp_path), CPU)
