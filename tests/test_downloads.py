"""Downloads from a hub that tell how far they are: a server on this machine stands in for it."""

from __future__ import annotations

import hashlib
import os
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import ClassVar

import pytest

from harness import interface
from harness.execution.executors.channel import Channel
from methods._encoders import weights

CONTENTS = os.urandom(1_000_000)
COMMIT = "0123456789abcdef0123456789abcdef01234567"
PIECES = 4


class Hub(BaseHTTPRequestHandler):
    """Answers what huggingface_hub asks of one file, whose bytes come slowly."""

    sent: ClassVar[list[str]] = []  # what a worker told

    def do_HEAD(self) -> None:
        self._head()

    def do_GET(self) -> None:
        if "/resolve/" not in self.path:
            self.send_error(404)
            return
        self._head()
        size = len(CONTENTS) // PIECES
        for start in range(0, len(CONTENTS), size):
            self.wfile.write(CONTENTS[start : start + size])
            self.wfile.flush()
            self._wait_for(f"{(start + size) / 1e6:,.1f} of 1.0 MB")

    def _wait_for(self, words: str) -> None:
        """Send no more before somebody was told of what came, so that no test depends on speed."""
        until = time.monotonic() + 5
        while time.monotonic() < until and not any(words in line for line in self.sent):
            time.sleep(0.005)

    def _head(self) -> None:
        if "absent" in self.path:
            self.send_error(404)
            return
        self.send_response(200)
        self.send_header("Content-Length", str(len(CONTENTS)))
        self.send_header("ETag", f'"{hashlib.sha256(CONTENTS).hexdigest()}"')
        self.send_header("X-Repo-Commit", COMMIT)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Keep still."""


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Where a hub answers; the cache is empty."""
    from huggingface_hub import constants

    for name in [name for name in os.environ if name.lower().endswith("_proxy")]:
        monkeypatch.delenv(name)
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    address = f"http://127.0.0.1:{server.server_address[1]}"
    monkeypatch.setattr(constants, "ENDPOINT", address)
    monkeypatch.setattr(
        constants,
        "HUGGINGFACE_CO_URL_TEMPLATE",
        address + "/{repo_id}/resolve/{revision}/{filename}",
    )
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", len(CONTENTS) // PIECES)
    yield address
    server.shutdown()
    server.server_close()


@pytest.fixture
def lines(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What a worker would send of what is reported."""
    from harness.execution.executors import channel
    from methods._encoders import downloads

    monkeypatch.setattr(interface, "_listeners", [])
    monkeypatch.setattr(channel, "EVERY", 0.0)
    monkeypatch.setattr(downloads, "EVERY", 0.02)
    Hub.sent.clear()
    Channel(Hub.sent.append).open()
    return Hub.sent


@pytest.mark.usefixtures("hub")
def test_a_file_of_the_hub_is_told_of_while_it_comes(
    lines: list[str], capfd: pytest.CaptureFixture[str]
) -> None:
    path = weights.hub_file("somebody/network", ("model.safetensors",), "a network")
    assert path.read_bytes() == CONTENTS
    assert all(line.startswith("downloading model.safetensors: ") for line in lines)
    assert any(" 0.5 of 1.0 MB, " in line and line.endswith(" MB/s") for line in lines)
    printed = capfd.readouterr()
    assert printed.out + printed.err == ""
    lines.clear()
    assert weights.hub_file("somebody/network", ("model.safetensors",), "a network") == path
    assert lines == []


@pytest.mark.usefixtures("hub")
def test_a_part_of_a_base_is_told_of_and_an_absent_one_left_to_its_library(
    lines: list[str],
) -> None:
    weights.fetch_part("somebody/base", "unet", COMMIT)
    assert any("unet/diffusion_pytorch_model.safetensors" in line for line in lines)
    lines.clear()
    weights.fetch_part("somebody/absent", "unet", "")
    weights.fetch_part("somebody/base", "tokenizer", "")
    assert lines == []


@pytest.mark.usefixtures("hub", "lines")
def test_what_the_hub_has_not_is_one_clear_line() -> None:
    with pytest.raises(FileNotFoundError, match="no weights for a network") as caught:
        weights.hub_file("somebody/absent", ("model.safetensors",), "a network")
    assert "\n" not in str(caught.value)
