"""The micro encoder against the network it wraps, with random weights in the shipped layout."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import open_clip
import pytest
import torch
import transformers
from safetensors.torch import save_file

from harness.interface import Auxiliary, AuxiliaryCategory, Queries, Support
from methods._encoders.load import load_encoder
from methods._encoders.micro import MicroEncoder
from methods._encoders.pictures import encoder_files
from methods.coop import Coop
from methods.inctrl import Inctrl
from methods.micro.clip_model import MicroClip
from methods.winclip import Winclip
from tests.clip_fixtures import memory, pictures

SIZE = 96  # 6 x 6 cells of stride 16


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    home = tmp_path_factory.mktemp("micro")
    torch.manual_seed(0)
    text = transformers.CLIPTextModelWithProjection(
        transformers.CLIPTextConfig(
            vocab_size=49408,
            hidden_size=16,
            intermediate_size=32,
            num_hidden_layers=2,
            num_attention_heads=2,
            projection_dim=24,
            bos_token_id=49406,
            eos_token_id=49407,
            pad_token_id=49407,
        )
    )
    text.save_pretrained(home / "diffusion" / "text_encoder")
    clip = MicroClip(text)
    clip.deviation.fill_(2.0)
    (home / "clip").mkdir()
    own = {
        name: tensor.contiguous()
        for name, tensor in clip.state_dict().items()
        if not name.startswith("text.text_model.")
    }
    save_file(own, home / "clip" / "model.safetensors")
    (home / "clip" / "config.json").write_text(json.dumps({"projection_dim": 24}))
    return str(home)


def test_images_equal_the_network(folder: str) -> None:
    encoder = MicroEncoder(folder, "cpu", memory())
    images = pictures(2, 96, 96)
    encodings = encoder.encode(images, size=SIZE, levels=(5, 2), windows=(2, 3))
    network = MicroClip.load(Path(folder) / "clip", Path(folder) / "diffusion")
    for image, encoding in zip(images, encodings, strict=True):
        trunk = encoder._trunk.encode([image], size=SIZE, levels=(2, 3, 4))[0].levels
        levels = [level[None] for level in trunk]
        torch.testing.assert_close(encoding.image, network.image_features(levels)[0])
        assert torch.equal(encoding.levels[1], trunk[0])
        torch.testing.assert_close(encoding.levels[0], network.gather(levels)[0] / 2)
        for side in (2, 3):
            assert encoding.windows[side].shape == (7 - side, 7 - side, 24)
            expected = network.window_features(levels, side)[0]
            torch.testing.assert_close(encoding.windows[side], expected)
    assert encoder.dims[5] == encodings[0].levels[0].shape[-1]


def test_text_equals_the_network(folder: str) -> None:
    encoder = MicroEncoder(folder, "cpu", memory())
    sentences = ["a photo of a bottle.", "x"]
    network = MicroClip.load(Path(folder) / "clip", Path(folder) / "diffusion")
    with torch.no_grad():
        expected = network.text_features(open_clip.tokenize(sentences))
    torch.testing.assert_close(encoder.encode_text(sentences), expected, atol=1e-6, rtol=1e-5)
    embeddings, ends = encoder.text.words(sentences)
    embeddings = embeddings.clone().requires_grad_()
    encoder.text(embeddings, ends)[0].sum().backward()
    assert embeddings.grad[0, 1].abs().sum() > 0
    assert embeddings.grad[1, 1].abs().sum() == 0


def test_files_are_named(folder: str) -> None:
    names = [path.name for path in encoder_files({"model": "micro", "weights": folder})]
    assert names == ["efficientnet-lite0-57934424.pth", "model.safetensors", "model.safetensors"]


def test_missing_weights_are_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"config\.json"):
        MicroEncoder(str(tmp_path), "cpu", memory())


def test_all_clip_methods_run(folder: str) -> None:
    """Zero-shot, few-shot and trained, on one shared encoder."""
    features = memory()
    spec = {"model": "micro", "weights": folder}
    train, bad = pictures(4, 96, 96, seed=1), pictures(3, 96, 96, seed=2)
    labels = np.ones(3, int)
    category = AuxiliaryCategory("c", "thing", train, bad, labels, lambda i: None)
    auxiliary = Auxiliary((category,), 2, 0)
    references, queries = pictures(2, 96, 96, seed=3), pictures(3, 96, 96, seed=4)
    for method in (
        Winclip(encoder=spec, size=SIZE),
        Inctrl(encoder=spec, size=SIZE, epochs=1, steps=2, batch=4),
        Coop(encoder=spec, size=SIZE, context=3, epochs=2, views=0),
    ):
        method.setup("cpu", features)
        if method.auxiliary:
            method.load(method.train(auxiliary))
        method.fit(Support(references, object_name="cell"))
        together = method.predict(Queries(queries))
        alone = method.predict(Queries(queries[1:2]))
        assert np.isfinite(together.scores).all()
        assert alone.scores[0] == together.scores[1]
        if together.maps is not None:
            assert together.maps.shape == (3, SIZE, SIZE)
    shared = load_encoder(spec, "cpu", features)
    assert method._encoder is shared
