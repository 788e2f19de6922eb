"""Storage in a bucket of a real server process: the same bytes as in a folder, and resumed."""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from harness.__main__ import main
from harness.results.folder import repetition
from harness.storage.node_cache import NodeCache
from harness.storage.store import Store
from tests.clusters import cluster, published
from tests.sweeps import NEAR, SQUARES, Runner, Tally, command, started, sweep, waited, written

pytest.importorskip("moto", reason="needs moto[server], a server of S3's interface")
pytest.importorskip("s3fs", reason="needs s3fs")

pytestmark = [pytest.mark.timeout(900), pytest.mark.usefixtures("toys")]

KEY = "ab" * 16


@dataclass
class Bucket:
    """A bucket as its owner sees it, by another client than the harness's."""

    client: Any
    name: str
    log: Path  # what the server was asked
    calls: Tally
    uri: str

    def names(self, prefix: str = "") -> list[str]:
        pages = self.client.get_paginator("list_objects_v2").paginate(
            Bucket=self.name, Prefix=f"runs/{prefix}"
        )
        keys = (o["Key"] for page in pages for o in page.get("Contents", ()))
        return [name.removeprefix("runs/") for name in keys]

    def read(self, name: str) -> bytes:
        body = self.client.get_object(Bucket=self.name, Key=f"runs/{name}")["Body"].read()
        return bytes(body)

    def write(self, name: str, contents: bytes) -> None:
        self.client.put_object(Bucket=self.name, Key=f"runs/{name}", Body=contents)

    def delete(self, prefix: str) -> None:
        for name in self.names(prefix):
            self.client.delete_object(Bucket=self.name, Key=f"runs/{name}")

    def published(self, folder: str) -> dict[str, bytes]:
        pattern = re.compile(rf"{folder}/(results.csv|summary.csv|predictions/.*\.csv)")
        names = filter(pattern.fullmatch, self.names(f"{folder}/"))
        return {name.removeprefix(f"{folder}/"): self.read(name) for name in names}

    def fetched(self, kind: str) -> list[str]:
        """Artifacts of a kind whose contents the server was asked for, by name."""
        asked = rf'"GET /{self.name}/runs/\.artifacts/{kind}/../(\w+)\.safetensors'
        return re.findall(asked, self.log.read_text())


def answers(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), 5).close()
    except OSError:
        return False
    return True


@pytest.fixture(scope="module")
def bucket(toys: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bucket]:
    """A server with a bucket, and a cluster whose processes know of it."""
    import boto3

    folder = tmp_path_factory.mktemp("s3")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    url = f"http://127.0.0.1:{port}"
    variables = {
        "AWS_ENDPOINT_URL": url,
        "AWS_ACCESS_KEY_ID": "anybody",
        "AWS_SECRET_ACCESS_KEY": "anything",
        "AWS_DEFAULT_REGION": "us-east-1",
    }
    name = f"b{uuid.uuid4().hex}"  # its own: copies on this machine are by name
    with (folder / "log.txt").open("w") as log:
        words = [sys.executable, "-m", "moto.server", "-p", str(port)]
        server = subprocess.Popen(words, stdout=log, stderr=subprocess.STDOUT)
    try:
        with cluster(folder, 4, **variables) as calls:
            waited(lambda: answers(port), "answer of the server", server)
            client = boto3.client("s3", endpoint_url=url)
            client.create_bucket(Bucket=name)
            uri = f"s3://{name}/runs"
            yield Bucket(client, name, folder / "log.txt", calls, uri)
            shutil.rmtree(NodeCache(uri)._folder, ignore_errors=True)
    finally:
        server.kill()
        server.wait()


def go(bucket: Bucket, conf: Path, uri: str, **changes: Any) -> int:
    from harness.run import Options, run

    options = {"runner": "ray", "workers": 2, "quiet": True, "mlflow": uri} | changes
    return run(Options(conf, storage=bucket.uri, **options))


def test_a_store_sees_what_others_wrote(bucket: Bucket) -> None:
    store = Store(f"{bucket.uri}/store")
    assert not store.local
    assert store.keys("predict") == set()
    assert not store.has("predict", KEY)
    arrays = {"scores": np.arange(3, dtype=np.float32)}
    Store(f"{bucket.uri}/store").put("predict", KEY, arrays, [1])
    assert store.has("predict", KEY)
    assert store.keys("predict") == {KEY}
    stored, meta = store.get("predict", KEY)
    assert meta == [1]
    np.testing.assert_array_equal(stored["scores"], arrays["scores"])
    bucket.delete("store/.artifacts")
    assert not store.has("predict", KEY)
    assert store.keys("predict") == set()
    with pytest.raises(FileNotFoundError):
        store.get("predict", KEY)
    bucket.write("store/toy/table.csv", b"1")
    assert store.read_text("toy/table.csv") == "1"
    bucket.write("store/toy/table.csv", b"2")
    assert store.read_text("toy/table.csv") == "2"
    store.delete("toy/table.csv")
    store.delete("toy/table.csv")
    assert store.read_text("toy/table.csv") is None


def test_a_sweep_in_a_bucket_is_the_same_and_states_travel_once(
    bucket: Bucket, run_sweep: Runner, tmp_path: Path, mlflow_uri: str
) -> None:
    both = tmp_path / "both"
    config = sweep(
        name="far",
        datasets=[{"use": SQUARES, "params": {"masks": True}}],
        methods=[{"use": NEAR}, {"use": "toys.methods:Compared", "generator": "g"}],
        generators={"g": {"use": "toys.slow:Together", "pool": 3, "params": {"folder": str(both)}}},
        shots=[1, 2],
        shard=3,
    )
    conf = written(tmp_path / "far.yaml", config)
    assert run_sweep(config, "calm") == 0
    calm = published(tmp_path / "calm" / "far")
    assert go(bucket, conf, mlflow_uri) == 0
    assert bucket.published("far") == calm
    names = bucket.names("far/")
    assert {"far/report.html", "far/sharing.csv", "far/timings.csv"} <= set(names)
    assert bucket.names(".locks") == []
    # Who made a model kept a copy where the other worker found it.
    assert bucket.fetched("customize") == []
    assert bucket.fetched("personalize") != []
    bucket.calls.new()
    assert go(bucket, conf, mlflow_uri, runner="serial", workers=None) == 0
    assert bucket.calls.new() == []

    # On a machine that made none of it, each model is fetched once, for all workers.
    for prefix in ("far/", ".artifacts/personalize", ".artifacts/predict", ".artifacts/evaluate"):
        bucket.delete(prefix)
    shutil.rmtree(NodeCache(bucket.uri)._folder)
    bucket.calls.new()
    both.mkdir()
    assert go(bucket, conf, mlflow_uri) == 0
    assert bucket.published("far") == calm
    counts = bucket.calls.counts()
    assert counts["customize"] == 0
    assert counts["load"] > 4, "one worker did it all: this shows nothing"
    models = [Path(name).stem for name in bucket.names(".artifacts/customize")]
    assert len(models) == 4
    assert sorted(bucket.fetched("customize")) == sorted(models)


def test_damaged_and_missing_objects_are_made_again(
    bucket: Bucket, run_sweep: Runner, tmp_path: Path, mlflow_uri: str
) -> None:
    config = sweep(name="hurt", methods=[{"use": "toys.methods:Dice"}], shard=5)
    conf = written(tmp_path / "hurt.yaml", config)
    assert run_sweep(config, "calm") == 0
    bucket.delete(".artifacts")
    assert go(bucket, conf, mlflow_uri) == 0
    bucket.delete("hurt/")
    bucket.delete(".artifacts/evaluate")
    first, second, *_ = bucket.names(".artifacts/predict")
    bucket.write(first, bucket.read(first)[:-9])
    bucket.delete(second)
    bucket.calls.new()
    assert go(bucket, conf, mlflow_uri) == 0
    assert bucket.calls.counts()["predict"] == 2
    assert bucket.published("hurt") == published(tmp_path / "calm" / "hurt")


def test_an_audit_and_a_purge_reach_into_a_bucket(
    bucket: Bucket, tmp_path: Path, mlflow_uri: str, capfd: pytest.CaptureFixture[str]
) -> None:
    """What differs is found, what a plug-in touched goes, and the next run makes it anew."""
    methods = [{"use": NEAR}, {"use": "toys.moods:Drifts"}]
    conf = written(tmp_path / "seen.yaml", sweep(name="seen", methods=methods, shard=4))
    bucket.delete(".artifacts")
    assert go(bucket, conf, mlflow_uri, runner="serial", workers=None) == 0
    before = {name: bucket.read(name) for name in bucket.names(".artifacts")}
    rows = bucket.published("seen")
    assert go(bucket, conf, mlflow_uri, workers=None, runner="local", audit=1.0) == 1
    saw = repetition.read(bucket.read("seen/audit.json").decode())
    assert saw is not None
    assert saw.repeated == saw.finished > 2
    assert {doubt.task.split(",")[0] for doubt in saw.different} == {"predict of Drifts"}
    assert {name: bucket.read(name) for name in bucket.names(".artifacts")} == before

    drifting = ["purge", "--storage", bucket.uri, "--method", "toys.moods:Drifts"]
    assert main([*drifting, "--dry-run"]) == 0
    assert "would remove" in capfd.readouterr().out
    assert bucket.names(".artifacts") == list(before)
    assert main(drifting) == 0
    kept = {name for name in bucket.names(".artifacts") if name.endswith(".safetensors")}
    assert kept < set(before)
    after = bucket.published("seen")
    assert b"Drifts" in rows["results.csv"]
    assert b"Drifts" not in after.get("results.csv", b"")
    assert not any("Drifts" in name for name in after)
    assert go(bucket, conf, mlflow_uri, runner="serial", workers=None) == 0
    assert bucket.published("seen").keys() == rows.keys()
    assert set(before) <= set(bucket.names(".artifacts"))


def test_one_driver_at_a_time_and_a_killed_one_is_gone_on_with(
    bucket: Bucket, tmp_path: Path, mlflow_uri: str
) -> None:
    word = tmp_path / "go"
    waits = {"use": "toys.waits:Waits", "params": {"word": str(word)}}
    conf = written(tmp_path / "c.yaml", sweep(name="locked", methods=[{"use": NEAR}, waits]))
    words = ["run", conf, "--storage", bucket.uri, "--runner", "serial", "--mlflow", mlflow_uri]
    with started([sys.executable, "-m", "harness", *map(str, words)]) as first:
        waited(lambda: "locked/results.csv" in bucket.names("locked/"), "results", first)
        second = command(*words, "--quiet")
        assert second.returncode == 2
        assert len(second.stderr.splitlines()) == 1, second.stderr
        assert f"process {first.pid}" in second.stderr
        first.send_signal(signal.SIGKILL)
    assert bucket.names(".locks") == [".locks/locked"]
    word.touch()
    third = command(*words, "--quiet")
    assert third.returncode == 0, third.stderr
    assert third.stderr == ""
    assert bucket.names(".locks") == []


@pytest.mark.parametrize(
    ("storage", "endpoint", "says"),
    [
        ("s3://nobody-made-this/runs", None, "nobody-made-this"),
        ("s3://bucket/runs", "http://127.0.0.1:9", "127.0.0.1:9"),
    ],
)
def test_a_storage_that_is_not_there_is_one_line(
    bucket: Bucket, tmp_path: Path, storage: str, endpoint: str | None, says: str
) -> None:
    conf = written(tmp_path / "c.yaml", sweep())
    variables = {"AWS_ENDPOINT_URL": endpoint or os.environ["AWS_ENDPOINT_URL"]}
    ended = command("run", conf, "--storage", storage, "--runner", "serial", **variables)
    assert ended.returncode == 2, ended.stderr
    assert len(ended.stderr.splitlines()) == 1, ended.stderr
    assert says in ended.stderr
    assert "Traceback" not in ended.stderr
