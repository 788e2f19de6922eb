"""No password or token of a URI in anything that is printed or written."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from harness.__main__ import main
from harness.errors import InputError, Problem, redacted
from tests.sweeps import HOME, command, rows, sweep, written

pytestmark = pytest.mark.usefixtures("toys")
SECRET = "hunter2"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        (f"http://bob:{SECRET}@host:5000/x", "http://***@host:5000/x"),
        (f"postgresql+psycopg2://bob:a@{SECRET}@host/db", "postgresql+psycopg2://***@host/db"),
        (f"at s3://key:{SECRET}@bucket/a: no", "at s3://***@bucket/a: no"),
        (f"https://h/p?token={SECRET}&x=1", "https://h/p?token=***&x=1"),
        (f"AWS_SECRET_ACCESS_KEY={SECRET}", "AWS_SECRET_ACCESS_KEY=***"),
        ("s3://bucket/a@b/c", "s3://bucket/a@b/c"),
        ("sqlite:////tmp/a@b.db", "sqlite:////tmp/a@b.db"),
        ("me@example.org", "me@example.org"),
    ],
)
def test_secrets_are_left_out(text: str, shown: str) -> None:
    assert redacted(text) == shown
    assert redacted(shown) == shown
    assert SECRET not in str(InputError(Problem("--mlflow", text)))


def test_a_run_with_secrets_in_its_uris_writes_none_of_them(tmp_path: Path) -> None:
    """The server is away: the URI comes up in the error, in the note of what is logged, and all;
    another comes up in what a method raises, and in the config.
    """
    uri = f"http://bob:{SECRET}@127.0.0.1:9/"
    leaks = {"use": "toys.trouble:Trouble", "params": {"how": "leak"}}
    config = sweep(methods=[leaks], description=f"of s3://key:{SECRET}@bucket/a")
    conf = written(tmp_path / "c.yaml", config)
    secrets = {"TOYS_SECRET": uri, "AWS_SECRET_ACCESS_KEY": SECRET, "HTTP_PROXY": uri}
    words = ["run", conf, "--runner", "serial", "--storage", tmp_path / "runs", "--mlflow", uri]
    brief = (
        "from harness.__main__ import main\n"
        "from harness.reporting.mlflow import tracking\n"
        "tracking.PATIENCE = 0.5\n"
        "raise SystemExit(main())"
    )
    done = subprocess.run(
        [sys.executable, "-c", brief, *map(str, words)],
        cwd=HOME,
        env=os.environ | secrets | {"NO_PROXY": "*", "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0"},
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
    )
    assert "127.0.0.1:9" in done.stdout + done.stderr
    assert "tried http://***@127.0.0.1:9/ in vain" in done.stderr
    (failure,) = rows(tmp_path / "runs" / "toy", "failures.csv")
    assert "no answer from http://***@127.0.0.1:9/" in failure["traceback"]
    assert SECRET not in done.stdout + done.stderr
    files = [p for p in (tmp_path / "runs").rglob("*") if p.is_file()]
    names = {p.name for p in files}
    assert names >= {"mlflow.json", "keys.json", "sweep.yaml", "failures.csv", "report.html"}
    assert [str(p) for p in files if SECRET.encode() in p.read_bytes()] == []
    bad = command("plan", conf, "--storage", f"ftp://bob:{SECRET}@host/x")
    assert bad.returncode == 2
    assert SECRET not in bad.stdout + bad.stderr


HOLDER = '''
from harness.interface import Method

class Holder(Method):
    """Asks somebody for scores."""

    def __init__(self, api_key: str = "", server: dict = {}, tokens: int = 3, token: str = "sks"):
        self.api_key, self.server, self.tokens, self.token = api_key, server, tokens, token

    def fit(self, support):
        """Learn nothing."""

    def predict(self, queries):
        """Never called."""
'''


@pytest.mark.parametrize(
    "method",
    [
        {"params": {"api_key": SECRET}},
        {"params": {"server": {"host": "h", "logins": [{"Password": SECRET}]}}},
        {"grid": {"api_key": [SECRET, "other"]}},
    ],
)
def test_a_sweep_holds_no_secret(
    method: dict[str, object], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """What a sweep names is written beside its results: refused, and not printed either."""
    path = tmp_path / "holder.py"
    path.write_text(HOLDER)
    conf = written(tmp_path / "c.yaml", sweep(methods=[{"use": str(path)} | method]))
    assert main(["plan", str(conf)]) == 2
    out, err = capsys.readouterr()
    assert "a secret has no place in a sweep" in err
    assert "methods[0].params." in err or "methods[0].grid." in err
    assert SECRET not in out + err


def test_words_that_merely_look_like_secrets_are_parameters(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "holder.py"
    path.write_text(HOLDER)
    params = {"tokens": 4, "token": "xyz", "server": {"secret": ""}, "api_key": ""}
    conf = written(tmp_path / "c.yaml", sweep(methods=[{"use": str(path), "params": params}]))
    assert main(["plan", str(conf)]) == 0, capsys.readouterr().err
