"""CLIP encoders against open_clip's own forward, on small random networks."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import open_clip
import pytest
import torch
from safetensors.torch import save_file
from torch.utils.flop_counter import FlopCounterMode
from torchvision import transforms

from benchmarks import clip as benchmark
from harness.execution.memory.cache import FeatureMemory
from harness.interface import Image
from methods._encoders import clip
from methods._encoders.load import load_encoder
from methods._encoders.pictures import encoder_files
from methods._encoders.towers import VisionTower
from methods._encoders.window_pass import class_tokens
from methods._ops.windows import members

TINY = {
    "embed_dim": 24,
    "vision_cfg": {"image_size": 32, "layers": 3, "width": 32, "head_width": 8, "patch_size": 8},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 2},
}


def memory() -> FeatureMemory:
    return FeatureMemory(1 << 28)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("clip") / "tiny.json"
    path.write_text(json.dumps(TINY))
    return str(path)


def pictures(count: int, height: int = 32, width: int = 32, seed: int = 0) -> list[Image]:
    rng = np.random.default_rng(seed)
    return [
        Image(f"{seed}-{i}", rng.integers(0, 256, (height, width, 3), dtype=np.uint8))
        for i in range(count)
    ]


def reference(
    quick_gelu: bool = False, seed: int = 0, image_size: int | None = None
) -> open_clip.CLIP:
    torch.manual_seed(seed)
    model = open_clip.CLIP(**TINY, quick_gelu=quick_gelu).eval()
    if image_size is None:
        return model
    resized = {**TINY, "vision_cfg": {**TINY["vision_cfg"], "image_size": image_size}}
    state = model.state_dict()
    other = open_clip.CLIP(**resized, quick_gelu=quick_gelu).eval()
    open_clip.model.resize_pos_embed(state, other)
    other.load_state_dict(state)
    return other


def normalised(images: list[Image], size: tuple[int, int]) -> torch.Tensor:
    from PIL import Image as Picture

    transform = transforms.Compose(
        [
            transforms.Resize(size, interpolation=transforms.InterpolationMode.BICUBIC),
            transforms.ToTensor(),
            transforms.Normalize(
                (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
            ),
        ]
    )
    return torch.stack([transform(Picture.fromarray(image.pixels)) for image in images])


@pytest.mark.parametrize("size", [32, 48, 45, 24])
@pytest.mark.parametrize("quick_gelu", [False, True])
def test_images_equal_open_clip(tiny: str, size: int, quick_gelu: bool) -> None:
    encoder = clip.ClipEncoder(tiny, "random:0", "cpu", memory(), quick_gelu)
    images = pictures(3, 40, 56)
    levels = (3, 1)
    encodings = encoder.encode(images, size=size, levels=levels)

    model = reference(quick_gelu, image_size=size)
    with torch.no_grad():
        expected = model.visual.forward_intermediates(
            normalised(images, (size, size)), indices=[0, 2], output_extra_tokens=True
        )
    grid = size // 8
    for i, encoding in enumerate(encodings):
        assert encoding.image.shape == (24,)
        torch.testing.assert_close(
            encoding.image, expected["image_features"][i], atol=1e-5, rtol=1e-5
        )
        torch.testing.assert_close(
            encoding.token, expected["image_intermediates_prefix"][1][i, 0], atol=1e-5, rtol=1e-5
        )
        for level, block in zip(encoding.levels, (1, 0), strict=True):
            assert level.shape == (grid, grid, 32)
            patches = expected["image_intermediates"][block][i].permute(1, 2, 0)
            torch.testing.assert_close(level, patches, atol=1e-5, rtol=1e-5)


def test_activation_matters(tiny: str) -> None:
    images = pictures(1)
    plain, quick = (
        clip.ClipEncoder(tiny, "random:0", "cpu", memory(), gelu).encode(images, size=32)[0].image
        for gelu in (False, True)
    )
    assert float((plain - quick).abs().max()) > 1e-4


def test_windows_equal_one_forward_each(tiny: str) -> None:
    """A window's embedding is open_clip's of an image that has only its patches."""
    encoder = clip.ClipEncoder(tiny, "random:0", "cpu", memory())
    images = pictures(2, 48, 48)
    encodings = encoder.encode(images, size=48, windows=(2, 3))
    visual = reference(image_size=48).visual
    with torch.no_grad():
        patches = visual.conv1(normalised(images, (48, 48))).flatten(2).transpose(1, 2)
        for i in range(2):
            sequence = torch.cat([visual.class_embedding[None], patches[i]])
            sequence = sequence + visual.positional_embedding
            for side in (2, 3):
                windows = encodings[i].windows[side]
                assert windows.shape == (7 - side, 7 - side, 24)
                for row in range(7 - side):
                    for column in range(7 - side):
                        rows = [
                            1 + (row + y) * 6 + column + x for y in range(side) for x in range(side)
                        ]
                        only = visual.ln_pre(sequence[[0, *rows]])[None]
                        token = visual.transformer(only)[:, 0]
                        expected = (visual.ln_post(token) @ visual.proj)[0]
                        torch.testing.assert_close(
                            windows[row, column], expected, atol=1e-5, rtol=1e-5
                        )


def test_window_of_the_whole_grid_is_the_image(tiny: str) -> None:
    encoder = clip.ClipEncoder(tiny, "random:3", "cpu", memory())
    encoding = encoder.encode(pictures(1), size=32, windows=(4,))[0]
    torch.testing.assert_close(encoding.windows[4][0, 0], encoding.image, atol=1e-5, rtol=1e-5)


def test_chunks_of_windows_change_nothing(tiny: str) -> None:
    encoder = clip.ClipEncoder(tiny, "random:0", "cpu", memory())
    pixels = normalised(pictures(2), (32, 32))
    with torch.no_grad():
        whole = encoder.vision(pixels, (), (2,), 10_000).windows[2]
        parts = encoder.vision(pixels, (), (2,), 12).windows[2]
    torch.testing.assert_close(whole, parts, atol=1e-6, rtol=1e-5)


def test_text_equals_open_clip(tiny: str) -> None:
    encoder = clip.ClipEncoder(tiny, "random:0", "cpu", memory())
    sentences = ["a photo of a bottle.", "x", "a close-up photo of the damaged metal nut " * 3]
    with torch.no_grad():
        expected = reference().encode_text(open_clip.tokenize(sentences))
    torch.testing.assert_close(encoder.encode_text(sentences), expected, atol=1e-5, rtol=1e-5)


def test_words_may_be_changed(tiny: str) -> None:
    """Gradients reach the word embeddings, and only those up to the end token matter."""
    encoder = clip.ClipEncoder(tiny, "random:0", "cpu", memory())
    embeddings, ends = encoder.text.words(["a cup", "a much longer sentence"])
    embeddings = embeddings.clone().requires_grad_()
    encoder.text(embeddings, ends)[0].sum().backward()
    used = embeddings.grad[0].abs().sum(dim=-1) > 0
    assert used[: int(ends[0]) + 1].all()
    assert not used[int(ends[0]) + 1 :].any()


def test_custom_text_model(tmp_path: Path) -> None:
    path = tmp_path / "custom.json"
    path.write_text(json.dumps({"model_cfg": {**TINY, "custom_text": True}}))
    encoder = clip.ClipEncoder(str(path), "random:0", "cpu", memory())
    torch.manual_seed(0)
    model = open_clip.CustomTextCLIP(**TINY).eval()
    with torch.no_grad():
        expected = model.encode_text(open_clip.tokenize(["a cup"]))
    torch.testing.assert_close(encoder.encode_text(["a cup"]), expected, atol=1e-5, rtol=1e-5)
    # Files of the plain form fit the custom form.
    torch.save(reference(seed=5).state_dict(), tmp_path / "plain.pt")
    loaded = clip.ClipEncoder(str(path), str(tmp_path / "plain.pt"), "cpu", memory())
    with torch.no_grad():
        expected = reference(seed=5).encode_text(open_clip.tokenize(["a cup"]))
    torch.testing.assert_close(loaded.encode_text(["a cup"]), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("form", ["safetensors", "pt", "wrapped", "half"])
def test_local_files(tiny: str, tmp_path: Path, form: str) -> None:
    state = reference(seed=7).state_dict()
    if form == "safetensors":
        path = tmp_path / "w.safetensors"
        save_file(state, path)
    else:
        path = tmp_path / "w.pt"
        if form == "wrapped":
            torch.save(
                {"epoch": 3, "state_dict": {f"module.{k}": v for k, v in state.items()}}, path
            )
        else:
            torch.save({k: v.half() if form == "half" else v for k, v in state.items()}, path)
    image = pictures(1)
    embedded = clip.ClipEncoder(tiny, str(path), "cpu", memory()).encode(image, size=32)[0].image
    expected = clip.ClipEncoder(tiny, "random:7", "cpu", memory()).encode(image, size=32)[0].image
    tolerance = 1e-2 if form == "half" else 0
    torch.testing.assert_close(embedded, expected, atol=tolerance, rtol=tolerance)
    assert embedded.dtype == torch.float32
    assert encoder_files({"model": tiny, "weights": str(path)}) == (Path(tiny), path)


def test_random_weights_are_open_clips() -> None:
    torch.manual_seed(11)
    before = torch.get_rng_state()
    built = clip.build("ViT-S-32-alt", "random:4", quick_gelu=False)
    assert torch.equal(before, torch.get_rng_state())
    torch.manual_seed(4)
    expected = open_clip.create_model("ViT-S-32-alt", pretrained=None).state_dict()
    for name, tensor in built.state_dict().items():
        assert torch.equal(tensor, expected[name]), name


def test_features_are_remembered_and_alone(tiny: str) -> None:
    """Each image once, whatever the batch it came in, with equal bits."""
    images = pictures(4)
    one, other = memory(), memory()
    kwargs = {"size": 32, "levels": (2,), "windows": (2,)}
    together = clip.ClipEncoder(tiny, "random:0", "cpu", one)
    first = together.encode(images, **kwargs)
    again = together.encode(images[::-1], **kwargs)[::-1]
    assert (one.computed, one.reused) == (4, 4)
    assert all(a is b for a, b in zip(first, again, strict=True))
    alone = clip.ClipEncoder(tiny, "random:0", "cpu", other).encode(images[2:3], **kwargs)[0]
    assert torch.equal(alone.levels[0], first[2].levels[0])
    assert torch.equal(alone.windows[2], first[2].windows[2])
    # Another size, level or window is another space.
    together.encode(images[:1], size=40, levels=(2,), windows=(2,))
    together.encode(images[:1], size=32, levels=(1,), windows=(2,))
    together.encode(images[:1], size=32, levels=(2,), windows=(3,))
    assert one.computed == 7


def test_quick_gelu_follows_the_weights(tmp_path: Path) -> None:
    def chosen(model: str, weights: str) -> bool:
        return clip._quick_gelu(model, weights, clip._config(model), clip._tag(model, weights))

    assert chosen("ViT-L-14-336", "openai")
    assert chosen("ViT-L-14-336", "some/file.pt")  # no other weights exist
    assert not chosen("ViT-B-16-plus-240", "laion400m_e31")
    assert not chosen("ViT-B-16-plus-240", "file.pt")
    assert not chosen("ViT-L-14", "random:0")
    assert chosen("ViT-L-14-quickgelu", "file.pt")
    with pytest.warns(UserWarning, match="quick_gelu: true"):
        assert not chosen("ViT-L-14", "file.pt")


def test_windows_tile_the_grid() -> None:
    index = members(3, 4, 2)
    assert index.tolist()[0] == [0, 1, 4, 5]
    assert index.tolist()[-1] == [6, 7, 10, 11]
    assert index.shape == (6, 4)


@pytest.mark.parametrize(
    ("spec", "kind", "words"),
    [
        (("ViT-X-99", "openai"), ValueError, "no model named ViT-X-99"),
        (("ViT-L-14", "nonsense"), ValueError, "openai"),
        (("ViT-L-14", "/nowhere/w.pt"), FileNotFoundError, "/nowhere/w.pt"),
        (("ViT-B-16-plus-240", "laion400m_e32"), FileNotFoundError, "laion400m_e32"),
        (("nowhere.json", "random:0"), FileNotFoundError, "nowhere.json"),
        (("ViT-B-16-SigLIP", "random:0"), ValueError, "not supported"),
        (("RN50", "random:0"), ValueError, "vision transformer"),
        (("coca_ViT-B-32", "random:0"), ValueError, "not supported"),
        (("tiny", "random:x"), ValueError, "whole number"),
    ],
)
def test_errors_are_one_line(
    tiny: str,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    spec: tuple[str, str],
    kind: type[Exception],
    words: str,
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    model, weights = spec
    with pytest.raises(kind, match=words) as caught:
        clip.ClipEncoder(tiny if model == "tiny" else model, weights, "cpu", memory(), False)
    assert "\n" not in str(caught.value)


def test_wrong_weights_are_named(tiny: str, tmp_path: Path) -> None:
    state = reference().state_dict()
    del state["visual.ln_post.weight"]
    torch.save(state, tmp_path / "w.pt")
    with pytest.raises(ValueError, match=r"w\.pt does not fit .* first visual\.ln_post\.weight"):
        clip.ClipEncoder(tiny, str(tmp_path / "w.pt"), "cpu", memory())


def test_levels_and_windows_are_checked(tiny: str) -> None:
    encoder = clip.ClipEncoder(tiny, "random:0", "cpu", memory())
    with pytest.raises(ValueError, match="1 to 3, got 4"):
        encoder.encode(pictures(1), size=32, levels=(4,))
    with pytest.raises(ValueError, match="no window of 5"):
        encoder.encode(pictures(1), size=32, windows=(5,))
    with pytest.raises(ValueError, match="0 x 0 patches"):
        encoder.encode(pictures(1), size=7)


def test_trainable_features(tiny: str) -> None:
    """Features may enter a graph that is differentiated: no inference tensors."""
    encoding = clip.ClipEncoder(tiny, "random:0", "cpu", memory()).encode(pictures(1), size=32)[0]
    weight = torch.ones(24, requires_grad=True)
    (encoding.image * weight).sum().backward()
    torch.testing.assert_close(weight.grad, encoding.image)


def test_bfloat16_is_named_and_near(tiny: str) -> None:
    """Products of 8 bits: near the same direction, never the same space of features."""
    exact = clip.ClipEncoder(tiny, "random:0", "cpu", memory())
    spec = {"model": tiny, "weights": "random:0", "precision": "bf16"}
    half = load_encoder(spec, "cpu", memory())
    assert half.name == f"{exact.name}/bf16"
    kwargs = {"size": 48, "levels": (3,), "windows": (2,)}
    ours, theirs = (e.encode(pictures(2), **kwargs)[1] for e in (half, exact))
    pairs = (ours.windows[2], theirs.windows[2]), (ours.levels[0], theirs.levels[0])
    for near, true in (*pairs, (ours.image, theirs.image)):
        assert near.dtype == torch.float32
        assert not torch.equal(near, true)
        assert torch.cosine_similarity(near, true, dim=-1).min() > 0.999
    with pytest.raises(ValueError, match="precision must be fp32 or bf16, got 'int8'"):
        load_encoder(spec | {"precision": "int8"}, "cpu", memory())
    with pytest.raises(ValueError, match="computes in fp32 only"):
        load_encoder({"model": "micro", "precision": "bf16"}, "cpu", memory())


def test_windows_of_blocks_of_another_kind(tiny: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What cannot be taken apart goes through whole, to the same end."""
    encoder = clip.ClipEncoder(tiny, "random:0", "cpu", memory())
    pixels = torch.rand(2, 3, 48, 48, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        apart = encoder.vision(pixels, (), (1, 2, 3), 64).windows
        monkeypatch.setattr("methods._encoders.window_pass.fits", lambda blocks: False)
        whole = encoder.vision(pixels, (), (1, 2, 3), 64).windows
    for side, windows in whole.items():
        torch.testing.assert_close(apart[side], windows, atol=1e-5, rtol=1e-5)


def test_windows_take_the_products_that_the_benchmark_counts(tiny: str) -> None:
    config = json.loads(Path(tiny).read_text())
    vision = open_clip.CLIP(config["embed_dim"], config["vision_cfg"], config["text_cfg"]).visual
    tower = VisionTower(vision.eval().requires_grad_(False))
    grid = 4
    stream = torch.randn(1, 1 + grid * grid, tower.width)
    counter = FlopCounterMode(display=False)
    with counter:
        for side in benchmark.SIDES:
            index = members(grid, grid, side) + 1
            index = torch.cat([torch.zeros_like(index[:, :1]), index], 1)
            class_tokens(tower.blocks, stream, index, 4096)
    counts = counter.get_flop_counts()["Global"]
    products = sum(count for name, count in counts.items() if "attention" not in str(name))
    shared = 6 * (grid * grid + 1) * tower.width**2  # once for each of two sides here
    assert products == benchmark.needed(tower, grid) + shared
