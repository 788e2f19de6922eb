"""Artifacts come back as they were written, or not at all."""

from __future__ import annotations

import errno
import os
import pickle
import subprocess
import sys
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from safetensors import safe_open

from harness.storage.repeats import Repeats
from harness.storage.room import Full, tight
from harness.storage.store import HEAD, Damaged, Store, artifact, relative
from tests.sweeps import started

KEY = "ab" * 16
TYPES = ["<f4", ">f4", "<f8", "<f2", "|u1", "|i1", "<i8", ">u2", "|b1"]
arrays = st.dictionaries(
    st.text("abc.é ", min_size=1, max_size=4),
    st.sampled_from(TYPES).flatmap(
        lambda t: hnp.arrays(np.dtype(t), hnp.array_shapes(min_dims=0, min_side=0, max_side=4))
    ),
    max_size=4,
)
metas = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**60), 2**60) | st.text(max_size=6),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=5,
)
shared_folder = settings(
    max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@shared_folder
@given(arrays, metas)
def test_round_trip(tmp_path: Path, stored: dict[str, np.ndarray], meta: object) -> None:
    store = Store(str(tmp_path))
    store.put("predict", KEY, stored, meta)
    read_arrays, read_meta = store.get("predict", KEY)
    assert read_meta == meta
    assert list(read_arrays) == sorted(stored), "in the same order each time"
    for name, array in stored.items():
        assert read_arrays[name].shape == array.shape
        assert read_arrays[name].dtype == array.dtype.newbyteorder("=")
        np.testing.assert_array_equal(read_arrays[name], array)


def _example(store: Store) -> tuple[Path, bytes]:
    store.put("predict", KEY, _arrays(), {"row": {"image_auroc": 0.857}, "names": ["a", "b"]})
    path = Path(store.path(artifact("predict", KEY)))
    return path, path.read_bytes()


def _arrays() -> dict[str, np.ndarray]:
    return {"scores": np.linspace(0, 1, 6, dtype=np.float32).reshape(2, 3), "n": np.arange(4)}


def test_truncated_at_any_byte_is_found_out_and_removed(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    path, whole = _example(store)
    for n in range(len(whole)):
        path.write_bytes(whole[:n])
        with pytest.raises(Damaged, match=KEY):
            store.get("predict", KEY)
        assert not path.exists(), "a damaged artifact stays and would be taken for finished"


def test_altered_at_any_byte_is_found_out(tmp_path: Path) -> None:
    """An alteration that changes nothing a reader is given, such as padding, may pass."""
    store = Store(str(tmp_path))
    path, whole = _example(store)
    expected, meta = store.get("predict", KEY)
    found_out = 0
    for i in range(len(whole)):
        for bit in (1, 8, 64):
            path.write_bytes(whole[:i] + bytes([whole[i] ^ bit]) + whole[i + 1 :])
            try:
                arrays, read_meta = store.get("predict", KEY)
            except Damaged:
                found_out += 1
                continue
            assert read_meta == meta
            assert {n: (a.dtype, a.shape, a.tobytes()) for n, a in arrays.items()} == {
                n: (a.dtype, a.shape, a.tobytes()) for n, a in expected.items()
            }
    assert found_out > 2.5 * len(whole)


def test_what_is_not_there(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    with pytest.raises(FileNotFoundError):
        store.get("predict", KEY)
    assert store.keys("predict") == set()
    assert not store.has("predict", KEY)
    assert store.read_text("nothing") is None


def test_keys_are_of_finished_artifacts_only(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    path, whole = _example(store)
    (path.parent / f".{path.name}.123.tmp").write_bytes(whole[:40])
    assert store.keys("predict") == {KEY}


def test_arrays_are_read_only(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    _example(store)
    with pytest.raises(ValueError, match="read-only"):
        store.get("predict", KEY)[0]["scores"][0] = 1


def test_a_file_is_written_whole_or_not_at_all(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    store.write("a/b.txt", b"old")
    with pytest.raises(TypeError):
        store.write("a/b.txt", "no bytes")  # type: ignore[arg-type]
    assert store.read("a/b.txt") == b"old"
    assert os.listdir(tmp_path / "a") == ["b.txt"]


def test_readers_never_see_half_a_file(tmp_path: Path) -> None:
    """One process writes two contents in turn, this one reads."""
    code = (
        "import sys; from harness.storage.store import Store; store = Store(sys.argv[1])\n"
        "for i in range(300): store.write('f', bytes([65 + i % 2]) * 100_000)"
    )
    store = Store(str(tmp_path))
    store.write("f", b"A" * 100_000)
    with started([sys.executable, "-c", code, str(tmp_path)]) as writer:
        while writer.poll() is None:
            contents = store.read("f")
            assert len(contents) == 100_000
            assert len(set(contents)) == 1
    assert writer.returncode == 0


def test_a_full_disk_leaves_nothing_that_looks_finished(tmp_path: Path) -> None:
    """The limit on a file's size stands for the full disk: the write fails half way."""
    code = (
        "import resource, signal, sys, numpy; from harness.storage.store import Store\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, 10_000))\n"
        "try: Store(sys.argv[1]).put('predict', 'cd' * 16, {'a': numpy.zeros(100_000)})\n"
        "except OSError: print('full')"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=True
    )
    assert done.stdout == "full\n"
    assert [p for p in tmp_path.rglob("*") if p.is_file()] == []


def test_a_full_disk_is_told_from_other_errors_with_what_it_lacks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(code: int) -> Callable[[int], None]:
        def fsync(file: int) -> None:
            raise OSError(code, os.strerror(code))

        return fsync

    store = Store(str(tmp_path))
    for code in (errno.ENOSPC, errno.EDQUOT):
        monkeypatch.setattr(os, "fsync", refuse(code))
        with pytest.raises(Full) as raised:
            store.write("toy/results.csv", bytes(2_500_000))
        text = str(raised.value)
        assert text.startswith(f"{tmp_path}: {os.strerror(code)}: toy/results.csv takes 2.5 MB, ")
        assert text.endswith(" MB are free")
        assert str(pickle.loads(pickle.dumps(raised.value))) == text
    monkeypatch.setattr(os, "fsync", refuse(errno.EIO))
    with pytest.raises(OSError, match="Input/output error") as other:
        store.write("toy/results.csv", b"1")
    assert not isinstance(other.value, Full)
    assert [p for p in tmp_path.rglob("*") if p.is_file()] == []


def test_a_full_bucket_is_as_a_full_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """As MinIO answers, in the form that s3fs makes of it."""
    errors = pytest.importorskip("s3fs.errors", reason="needs s3fs")
    exceptions = pytest.importorskip("botocore.exceptions")
    answer = {"Error": {"Code": "XMinioStorageFull", "Message": "minimum free drive threshold"}}
    refusal = errors.translate_boto_error(exceptions.ClientError(answer, "PutObject"))
    assert isinstance(refusal, OSError)
    store = Store("memory://full")

    def put(path: str, contents: bytes) -> None:
        raise refusal

    monkeypatch.setattr(store._fs, "pipe_file", put)
    with pytest.raises(
        Full, match=r"^memory://full: .*free drive threshold.*: toy/a takes 0.0 MB$"
    ):
        store.write("toy/a", b"1")


def status(blocks: int, files: int) -> os.statvfs_result:
    """Of a disk with so many free blocks of 4 kB and free inodes."""
    return os.statvfs_result((4096, 4096, 1 << 30, blocks, blocks, 1 << 20, files, files, 0, 255))


@pytest.mark.parametrize(
    ("blocks", "files", "words"),
    [
        (0, 100, "0.0 MB are free"),
        (1 << 20, 0, "the disk takes no more files (inodes)"),
        (1 << 20, 100, ""),
    ],
)
def test_a_plug_in_that_meets_a_full_disk_is_believed_when_one_is(
    blocks: int, files: int, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "statvfs", lambda place: status(blocks, files))
    full = RuntimeError("cannot save")
    full.__cause__ = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    line = tight(str(tmp_path), full)
    assert line.endswith(f": cannot save: {words}") if words else line == ""
    assert tight(str(tmp_path), RuntimeError("cannot save")) == ""
    assert tight("s3://bucket/runs", OSError(errno.EIO, "another")) == ""
    circle, way = ValueError("round"), ValueError("and round")
    circle.__cause__, way.__cause__ = way, circle
    assert tight(str(tmp_path), circle) == ""

    class Liar(Exception):
        def __getattribute__(self, name: str) -> Any:
            raise RuntimeError(name)

    assert tight(str(tmp_path), Liar()) == ""


def test_a_uri_of_another_kind_of_storage() -> None:
    store = Store("memory://sweeps/here")
    assert not store.local
    store.put("predict", KEY, _arrays(), [1])
    assert store.keys("predict") == {KEY}
    arrays, meta = store.get("predict", KEY)
    assert meta == [1]
    np.testing.assert_array_equal(arrays["scores"], _arrays()["scores"])
    store.write("toy/results.csv", b"a\n")
    with store.folder("toy") as folder:
        assert (folder / "results.csv").read_bytes() == b"a\n"
        (folder / "new.txt").write_text("b")
    assert store.read_text("toy/new.txt") == "b"


def test_a_file_uri_is_the_folder(tmp_path: Path) -> None:
    store = Store(f"file://{tmp_path}")
    assert store.local
    store.write("a", b"b")
    assert (tmp_path / "a").read_bytes() == b"b"


def test_who_made_an_artifact_is_recorded_beside_it(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    store.put("predict", "aa1", {"x": np.arange(3)}, {"row": 1})
    store.author = lambda: {"worker": "w1", "needs": ["k" * 30_000]}
    store.put("predict", "bb2", {"x": np.arange(3)}, {"row": 1})
    assert store.makers("predict", ["aa1", "bb2", "cc3"]) == [{}, store.author(), {}]
    first, second = store.get("predict", "aa1"), store.get("predict", "bb2")
    assert first[1] == second[1] == {"row": 1}
    assert np.array_equal(first[0]["x"], second[0]["x"])
    path = tmp_path / ".artifacts/predict/bb/bb2.safetensors"
    path.write_bytes(path.read_bytes().replace(b"w1", b"w2"))
    assert store.makers("predict", ["bb2"]) == [{}], "altered: it tells nothing"
    with pytest.raises(Damaged):
        store.get("predict", "bb2")


def test_the_maker_is_read_however_long_it_is(tmp_path: Path) -> None:
    """About where the part of a file ends that is read first."""
    store = Store(str(tmp_path))
    notes = [{"of": "z", "by": "a" * (HEAD + more)} for more in range(-300, 9, 4)]
    for i, note in enumerate(notes):
        store.author = lambda note=note: note  # type: ignore[misc]
        store.put("predict", f"{i:03}", {"x": np.arange(3)})
    assert store.makers("predict", sorted(store.keys("predict"))) == notes
    sizes = [path.stat().st_size for path in tmp_path.rglob("*.safetensors")]
    assert min(sizes) < HEAD < max(sizes)


def test_the_order_of_a_note_is_not_part_of_an_artifact(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    for key, note in (("a", {"x": 1, "y": 2}), ("b", {"y": 2, "x": 1})):
        store.author = lambda note=note: note  # type: ignore[misc]
        store.put("predict", key, {"x": np.arange(3)}, note)
    written = []
    for path in tmp_path.rglob("*.safetensors"):
        with safe_open(path, "numpy") as file:
            written.append(file.metadata())
    assert written[0] == written[1]


def test_a_far_folder_is_handed_out_as_a_copy_and_what_is_new_comes_back() -> None:
    store = Store(f"memory://{uuid.uuid4().hex}/runs")
    assert not store.local
    store.write("toy/old.csv", b"old")
    store.write("toy/below/note.txt", b"note")
    with store.folder("toy") as folder:
        assert (folder / "old.csv").read_bytes() == b"old"
        (folder / "old.csv").write_bytes(b"changed: not written back")
        (folder / "new" / "deep").mkdir(parents=True)
        (folder / "new" / "deep" / "page.html").write_bytes(b"page")
    assert store.read("toy/old.csv") == b"old"
    assert store.read("toy/new/deep/page.html") == b"page"
    assert store.files("toy") == ["old.csv"]
    assert store.folders("old.csv") == ["toy"]
    store.write("a/old.csv", b"")
    assert store.folders("old.csv") == ["a", "toy"]
    store.write(".artifacts/note", b"")
    store.put("train", KEY, {})
    assert store.kinds() == ["train"]


@pytest.mark.parametrize("error", [OSError("no login"), OSError(5, "no disk"), KeyError("x")])
def test_errors_of_a_client_are_of_the_storage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    store = Store(str(tmp_path))

    def fails(*_: object) -> None:
        raise error

    monkeypatch.setattr(store._fs, "cat_file", fails)
    with pytest.raises(OSError, match="no disk" if "disk" in str(error) else "storage /") as caught:
        store.read("a")
    assert (caught.value is error) == ("disk" in str(error)), "the system's own say enough"


def test_what_depends_on_the_working_folder() -> None:
    names = ["runs", "./runs", "/runs", "s3://bucket/runs", "zip::runs"]
    assert [relative(name) for name in names] == ["runs", "./runs", "", "", ""]


def test_a_local_storage_is_the_same_from_any_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    store = Store("runs")
    monkeypatch.chdir("/")
    store.write("a", b"b")
    assert (tmp_path / "runs" / "a").read_bytes() == b"b"
    assert store.root == str(tmp_path / "runs")
    assert Store("s3://bucket/runs/").root == "s3://bucket/runs/"


def test_what_is_repeated_is_compared_and_not_written(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    before = {"a": np.array([1.0, np.nan, 3.0]), "b": np.zeros(2, np.uint8)}
    store.put("predict", "aa1", before, {"row": {"auroc": 0.5}})
    repeats = Repeats(str(tmp_path), (), "predict", "aa1")
    assert repeats.differences, "nothing was made yet"
    assert not repeats.has("predict", "aa1")
    with pytest.raises(FileNotFoundError):
        repeats.get("predict", "aa1")
    repeats.put("predict", "aa1", before, {"row": {"auroc": 0.5}})
    assert repeats.differences == []
    after = {"a": np.array([1.0, np.nan, 3.5]), "c": np.zeros(1)}
    repeats.put("predict", "aa1", after, {"row": {"auroc": 0.25}})
    assert repeats.differences == [
        "a: 1 of 3 values differ, by up to 0.5",
        "b: only the first time",
        "c: only the second time",
        "auroc: was 0.5, is 0.25",
    ]
    repeats.put("predict", "aa1", {"a": -before["a"], "b": np.zeros(3, np.uint8)}, {})
    assert repeats.differences[1] == "b: uint8 (2,), then uint8 (3,)"
    repeats.write_text("toy/results.csv", "x")
    assert [p.name for p in tmp_path.rglob("*") if p.is_file()] == ["aa1.safetensors"]
    assert store.get("predict", "aa1")[0]["a"][2] == 3.0
