"""Which networks plug-ins of any form stand on, and what a plan says of them."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from harness.config.sweep import GeneratorEntry, MethodEntry
from harness.planning import models
from harness.planning.models import Network
from tests.test_plan_bare import a_sweep


def encoder(model: str, weights: str | None = None, **attributes: Any) -> SimpleNamespace:
    named = {"model": model} if weights is None else {"model": model, "weights": weights}
    return SimpleNamespace(encoder=named, **attributes)


def networks(
    monkeypatch: pytest.MonkeyPatch, *plugins: Any, known: Any = (), generator: Any = None
) -> list[Network]:
    """Of methods that are these objects; nobody is asked for weights unless some are listed."""
    named = {f"m{i}": plugin for i, plugin in enumerate(plugins)} | {"g": generator}
    monkeypatch.setattr(models.config, "build", lambda kind, use, params: named[use])
    generators = {} if generator is None else {"blend": GeneratorEntry(use="g")}
    methods = [MethodEntry(use=use) for use in named if use != "g"]
    sweep = a_sweep(methods=methods, generators=generators)

    def listed() -> Any:
        assert known, "asked for weights"
        return [SimpleNamespace(name=n, where=w, complete=c) for n, w, c in known]

    return models.networks(sweep, listed)


def test_plug_ins_are_listed_with_what_they_stand_on(monkeypatch: pytest.MonkeyPatch) -> None:
    used = networks(
        monkeypatch,
        encoder("vit", "random:3", note="drawn"),
        SimpleNamespace(encoder="no mapping", note=None),
        SimpleNamespace(encoder={"weights": "x"}, base=None),
        encoder("micro", base="micro"),
        generator=SimpleNamespace(base="micro", note="tiny"),
    )
    assert used == [
        Network("m0", "encoder", "vit / random:3", "drawn at random", "drawn"),
        Network("m1", "encoder", "no network", "", ""),
        Network("m2", "encoder", "no network", "", ""),
        Network("m3", "encoder", "micro", "embedded", ""),
        Network("m3", "base", "micro", "embedded", ""),
        Network("blend", "base", "micro", "embedded", "tiny"),
    ]


def test_weights_are_where_a_file_or_the_list_says(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    local = tmp_path / "own.bin"
    local.touch()
    listed = [
        ("vit / large", "/cache/large", True),
        ("resnet / imagenet", "hub/resnet", False),
        ("anything", "hub/some/diffusion", False),
    ]
    cases = {
        f"found: {local}": encoder("vit", str(local)),
        "found: /cache/large": encoder("vit", "large@revision"),
        "needed: hub/resnet": encoder("resnet", "imagenet"),
        "needed: hub/some/diffusion": SimpleNamespace(base="some/diffusion@main"),
        f"found: {tmp_path}": SimpleNamespace(base=str(tmp_path)),
    }
    used = networks(monkeypatch, *cases.values(), known=listed)
    assert [each.where for each in used] == list(cases)
    nowhere = [encoder("vit", "small"), encoder("some/diffusion", "x"), SimpleNamespace(base="b/c")]
    for each in networks(monkeypatch, *nowhere, known=listed):
        assert each.where.startswith("needed: not among the models")


def test_a_sweep_with_one_small_model_is_small(monkeypatch: pytest.MonkeyPatch) -> None:
    large, small = encoder("vit", "random:3"), encoder("micro", "random:3")
    for plugins, expected in (((large,), False), ((large, small), True), ((small,), True)):
        named = {f"m{i}": plugin for i, plugin in enumerate(plugins)}
        monkeypatch.setattr(models.config, "build", lambda kind, use, params, of=named: of[use])
        methods = [MethodEntry(use=use) for use in named]
        assert models.small(a_sweep(methods=methods, generators={})) is expected


def test_lines_have_places_and_notes_where_there_are_any() -> None:
    used = [
        Network("a", "encoder", "vit", "embedded", "tiny"),
        Network("b", "encoder", "no network", "", ""),
    ]
    assert models.lines(used) == [
        "  a: encoder vit (embedded)",
        "      tiny",
        "  b: encoder no network",
    ]
