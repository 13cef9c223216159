"""Metric networks, with files of the right format and random contents: the numbers mean nothing, that ours
equal the libraries' own does."""

import numpy as np
import pytest
import torch
from PIL import Image

from sdquant_cli.errors import EnvironmentProblem
from sdquant_cli.metrics import catalog, pairs
from sdquant_cli.metrics.features import clip_vit_b_32, inception, lpips_network, spatial_inception
from sdquant_cli.metrics.weights import Weights
from tests.fakes import noisy, pictures

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


def test_clip_pictures_are_prepared_as_transformers_own_processor_does(weights):
    from transformers import CLIPImageProcessorPil

    network = clip_vit_b_32(weights, CPU)
    images = pictures(2, side=96)[:, :64]  # 64 x 96
    processor = CLIPImageProcessorPil()
    expected = processor([Image.fromarray(x) for x in images], return_tensors="pt")["pixel_values"]
    np.testing.assert_allclose(network._to_pixels(images), expected, atol=1e-5)
    assert network.of_images(images).shape == network.of_texts(["a red circle", "x" * 500]).shape == (2, 512)


@pytest.mark.parametrize(
    ("network", "make"),
    [
        (catalog.INCEPTION, inception),
        (catalog.SPATIAL, spatial_inception),
        (catalog.CLIP, clip_vit_b_32),
    ],
)
def test_a_file_of_another_format_is_named(network, make, tmp_path):
    name = catalog.NETWORK_FILES[network][0]
    torch.save({"something": torch.zeros(1)}, tmp_path / name)
    with pytest.raises(EnvironmentProblem, match=name):
        make(Weights(tmp_path), CPU)
