"""What a run says besides its results: estimates that are broken, and what plug-ins log."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.planning import costs
from harness.run import Options, run
from tests.sweeps import sweep, written

pytestmark = pytest.mark.usefixtures("toys")


def test_a_mistake_in_the_costs_is_a_warning_and_logs_are_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """An estimate is no reason to stop, and none is read where nothing is to do."""
    table = tmp_path / "costs.yaml"
    table.write_text("hardware: [")
    monkeypatch.setattr(costs, "TABLE", table)
    conf = written(tmp_path / "c.yaml", sweep(methods=[{"use": "toys.methods:Talks"}]))
    options = Options(conf, "serial", storage=str(tmp_path / "runs"), log_level="info")
    assert run(options) == 0
    lines = capfd.readouterr().err.splitlines()
    (warning,) = [line for line in lines if line.startswith("! ")]
    assert str(table) in warning
    assert "default costs" in warning
    assert "toys.talks: fitted to 2 images" in lines
    assert run(options) == 0
    assert str(table) not in capfd.readouterr().err
