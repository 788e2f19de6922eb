"""Every config that names published rows is the published set-up, and says so truly."""

from __future__ import annotations

import importlib
import json
import re
from pathlib import Path

import pytest

from benchmarks import reproduce
from harness import config
from harness.__main__ import main
from harness.config.sweep import MethodEntry, Sweep
from harness.planning import models
from harness.results import published

CONF = Path(__file__).parents[1] / "conf"
NAMES = sorted(path.stem for path in CONF.glob("*.yaml") if path.stem != "costs")
#: by the papers: One-to-Normal's section 4.1 with the sources of its baselines, ADP's section 4
MODELS = {
    "o2n": {
        "padim": "wide_resnet50_2",
        "patchcore": "wide_resnet50_2",
        "regad": "resnet18",
        "coop": "ViT-B-16-plus-240",
        "winclip": "ViT-B-16-plus-240",
        "inctrl": "ViT-B-16-plus-240",
        "o2n": "ViT-L-14-336",
    },
    "adp": {"winclip": "ViT-H-14", "adp": "ViT-H-14"},
}
#: how headers call them
WORDS = {
    "wide_resnet50_2": "WideResNet50",
    "resnet18": "ResNet18",
    "ViT-B-16-plus-240": "ViT-B/16+",
    "ViT-L-14-336": "ViT-L/14@336",
    "ViT-L-14": "ViT-L/14",
    "ViT-H-14": "ViT-H/14",
    "stable-diffusion-v1-5": "Stable Diffusion v1.5",
    "stable-diffusion-2-1": "Stable Diffusion 2.1",
}
PUBLISHED = published.read()


def header(name: str) -> str:
    """The comment above a config, its lines joined."""
    lines = (CONF / f"{name}.yaml").read_text().splitlines()
    first = next(i for i, line in enumerate(lines) if not line.startswith("#"))
    return re.sub(r"\s+", " ", " ".join(line.lstrip("# ") for line in lines[:first]))


def tables(name: str) -> list[str]:
    return sorted(set(re.findall(r"conf/published/(\w+)\.yaml", header(name))))


def built(entry: MethodEntry) -> object:
    return config.build("method", entry.use, entry.params)


NAMING = [name for name in NAMES if tables(name)]


def customized(sweep: Sweep) -> int:
    """Customized models of a sweep: one for each support and way of customizing."""
    supports = sum(map(reproduce.categories, sweep.datasets)) * len(sweep.shots) * len(sweep.seeds)
    ways = set()
    for entry in sweep.generators.values():
        plugin = config.build("generator", entry.use, entry.params)
        later = {*plugin.generate_parameters, *plugin.personalize_parameters}
        ways.add(
            (entry.use, str(sorted((k, v) for k, v in entry.params.items() if k not in later)))
        )
    return supports * len(ways)


def trainings(sweep: Sweep) -> int:
    """Trainings on auxiliary data: by method, data, and shots and seeds where these count."""
    count, every = 0, {}
    for entry in sweep.methods:
        every[entry.use, str(sorted(entry.params.items())), entry.training, entry.auxiliary] = entry
    for entry in every.values():
        method = built(entry)
        if not method.auxiliary:  # type: ignore
            continue
        if entry.auxiliary == "leave-one-out":
            data = sum(map(reproduce.categories, sweep.datasets))
        else:  # the first auxiliary dataset that is not the tested one
            other = [a.use for a in sweep.auxiliary]
            data = len({next(a for a in other if a != d.use) for d in sweep.datasets})
        shots = len(sweep.shots) if method.auxiliary_per_shots else 1  # type: ignore
        per_seed = method.auxiliary_per_seed and entry.training == "per-seed"  # type: ignore
        count += data * shots * (len(sweep.seeds) if per_seed else 1)
    return count


def test_the_published_tables_are_named_by_some_config() -> None:
    assert {table for name in NAMING for table in tables(name)} == set(PUBLISHED["table"])


@pytest.mark.parametrize("name", NAMING)
def test_a_config_that_names_published_rows_is_their_set_up(name: str) -> None:
    sweep = reproduce.load(name)
    rows = PUBLISHED[PUBLISHED["table"].isin(tables(name))]
    paper = tables(name)[0].split("_")[0]
    assert set(sweep.shots) == set(rows["shots"])
    assert [d.use for d in sweep.datasets] == [str(d.label) for d in sweep.datasets]
    assert {d.use for d in sweep.datasets} == set(rows["dataset"])
    for entry in sweep.datasets:  # whole test sets, but for the two that are too large
        assert entry.categories is None
        if entry.queries is not None:
            assert entry.use in ("mnist", "cifar10")
            assert (entry.queries.normal, entry.queries.anomalous) == (100, 900)  # type: ignore
            assert "100 normal and 900 anomalous" in header(name)
    sums = {m for m in rows["method"] if re.match(r"o2n-(single|pair)", m)}  # of stored parts
    assert set(rows["method"]) - sums <= {str(m.label) for m in sweep.methods}
    source = published.TABLES / f"{tables(name)[0]}.yaml"
    runs = re.search(r"^runs: (\d+)", source.read_text(), re.M)
    assert runs
    assert sweep.seeds == list(range(int(runs.group(1))))
    for entry in sweep.methods:
        assert built(entry).encoder["model"] == MODELS[paper][entry.use]  # type: ignore
        assert entry.auxiliary is None
    trained = any(built(entry).auxiliary for entry in sweep.methods)  # type: ignore
    assert [a.use for a in sweep.auxiliary] == (["mvtec", "visa"] if trained else [])
    bases = {"o2n": "stable-diffusion-v1-5", "adp": "stable-diffusion-2-1"}
    for entry in sweep.generators.values():
        generator = config.build("generator", entry.use, entry.params)
        assert bases[paper] in generator.base
        if getattr(generator, "tune", "full") != "full":
            assert "Adapters (tune: lora) instead of the paper's full fine-tuning" in header(name)
        if entry.use == "dreambooth":
            assert (generator.strength, entry.pool) == (0.3, 30)


@pytest.mark.parametrize("name", sorted({r.full for r in reproduce.RESULTS}))
def test_the_header_of_a_full_config_is_true(name: str) -> None:
    sweep, text = reproduce.load(name), header(name)
    for word in ("Data", "Weights", "Hardware", "Cost", "Expect", "Command"):
        assert re.search(rf"(^| ){word} ", text), f"no line {word}"
    assert f"python -m harness run conf/{name}.yaml" in text
    used = {str(built(m).encoder["model"]) for m in sweep.methods}  # type: ignore
    for entry in sweep.generators.values():
        base = config.build("generator", entry.use, entry.params).base
        used.add(base.partition("/")[2])
    weights = text[text.index("Weights ") :].partition("--data-root")[0]
    promised = {
        key for key, word in WORDS.items() if re.search(re.escape(word) + r"(?![@\w])", weights)
    }
    named = {key for key in WORDS if any(key == each or key in each for each in used)}
    assert promised == {key for key in named if key in used or key.startswith("stable")}
    number = re.search(r"([\d,]+) customi[zs]ed models?", text)
    if number:
        assert int(number.group(1).replace(",", "")) == customized(sweep)


@pytest.mark.parametrize("name", NAMES)
def test_the_header_counts_the_trainings(name: str) -> None:
    sweep = reproduce.load(name)
    number = re.search(r"([\d,]+) trainings?", header(name).partition("Cost ")[2])
    if number:
        assert int(number.group(1).replace(",", "")) == trainings(sweep)
    else:
        assert "micro" in name or name == "demo" or trainings(sweep) == 0


@pytest.mark.parametrize("name", sorted({n for r in reproduce.RESULTS for n in r[1:]}))
def test_the_header_counts_the_cells(name: str) -> None:
    number = re.search(r"Cost ([\d,]+) cells[^f]", header(name))
    if number:
        assert int(number.group(1).replace(",", "")) == reproduce.cells(reproduce.load(name))


def test_the_whole_of_figure_4() -> None:
    sweep = reproduce.load("figure4")
    assert reproduce.cells(sweep) == 3720
    assert {m.use for m in sweep.methods} == {"patchcore", "regad", "winclip", "inctrl"}
    assert sweep.generators["dreambooth"].generated == 100
    alone = [m for m in sweep.methods if m.generator is None]
    pooled = {m.use: m.params for m in sweep.methods if m.generator}
    assert pooled == {m.use: m.params for m in alone}


@pytest.mark.parametrize("name", sorted({r.micro for r in reproduce.RESULTS}))
def test_a_small_twin_needs_no_other_weights(name: str) -> None:
    sweep = reproduce.load(name)
    known = importlib.import_module("methods._encoders.weights").inventory
    where = [each.where for each in models.networks(sweep, known)]
    assert all(text.startswith(("found", "embedded")) for text in where), where
    assert f"conf/{name}.yaml" in header(name)
    assert "not the paper" in header(name) or "never the paper" in header(name)


def test_the_prompt_counts_share_what_is_customized() -> None:
    for name in ("prompts", "table5"):
        sweep = reproduce.load(name)
        supports = sum(map(reproduce.categories, sweep.datasets)) * len(sweep.seeds)
        assert customized(sweep) == supports


def test_networks_are_named_with_their_weights(tmp_path: Path) -> None:
    weights = tmp_path / "mine.safetensors"
    weights.touch()
    path = tmp_path / "x.yaml"
    path.write_text(
        "name: x\ndatasets: [{use: elpv}]\nshots: [2]\nseeds: [0]\nmethods:\n"
        "  - {use: padim}\n  - {use: mean_color}\n"
        "  - {use: winclip, label: own, params: "
        f"{{encoder: {{model: ViT-B-16, weights: {weights}}}}}}}\n"
        "  - {use: winclip, label: random, params: "
        "{encoder: {model: ViT-B-16, weights: 'random:3'}}}\n"
        "  - {use: patchcore, generator: g, params: "
        "{encoder: {model: wide_resnet50_2, weights: imagenet}}}\n"
        "generators: {g: {use: dreambooth}}\n"
    )

    class Listed:
        def __init__(self, name: str, where: str, complete: bool) -> None:
            self.name, self.where, self.complete = name, where, complete

    known = [
        Listed("tf_efficientnet_lite0 / imagenet", "/here", True),
        Listed("wide_resnet50_2 / imagenet", "https://hub/x", False),
        Listed("SD", "https://hub/stable-diffusion-v1-5/stable-diffusion-v1-5", False),
    ]
    by_role = {(n.user, n.role): n for n in models.networks(config.load(path), lambda: known)}
    assert by_role["padim", "encoder"].where == "found: /here"
    assert "small network, not the paper's" in by_role["padim", "encoder"].note
    assert by_role["mean_color", "encoder"].name == "no network"
    assert by_role["own", "encoder"].where == f"found: {weights}"
    assert by_role["random", "encoder"].where == "drawn at random"
    assert by_role["patchcore+g", "encoder"].where == "needed: https://hub/x"
    assert by_role["g", "base"].where.startswith("needed: https://hub/stable")


def test_a_default_may_be_a_small_model_too() -> None:
    for name in NAMES:
        micro = name == "demo" or "micro" in name
        assert models.small(reproduce.load(name)) == micro, name


def test_plan_prints_the_networks(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    conf = CONF / "prompts_micro.yaml"
    assert main(["plan", str(conf), "--storage", str(tmp_path)]) == 0
    printed = capsys.readouterr().out
    assert "o2n-10: encoder micro / embedded (embedded)" in printed
    assert "three: base micro (embedded)" in printed
    assert "not the paper's" in printed


def test_the_status_table_is_filled_from_results(tmp_path: Path) -> None:
    from tests.folders import folder_of_a_sweep

    folder_of_a_sweep(tmp_path / "table1", {"a": 1.0}, environment={"processor": "a GPU"})
    assert reproduce.status("table1", [tmp_path]) == "6 of 3,150 cells on a GPU at 0123abcd01"
    assert reproduce.status("table2", [tmp_path]) == "never run"
    facts = tmp_path / "table1/environment.json"
    for commit, words in (
        ("0123456789abcdef-dirty", "at 0123456789, modified"),
        (None, "at an unknown commit"),
    ):
        recorded = {"processor": "a GPU", **({"commit": commit} if commit else {})}
        facts.write_text(json.dumps(recorded))
        assert reproduce.status("table1", [tmp_path]).endswith(f"on a GPU {words}")
    page = reproduce.PAGE.read_text()
    lines = reproduce.table([])
    again = reproduce.written(reproduce.written(page, lines), lines)
    assert again == reproduce.written(page, lines)
    rows = [line for line in page.splitlines() if line.startswith("| O2N") or "ADP Table" in line]
    assert len(rows) == len(reproduce.RESULTS) - 1
    for line, fresh in zip(
        rows, [x for x in lines if "`conf/" in x and "RegAD" not in x], strict=True
    ):
        assert line.split("|")[1:4] == fresh.split("|")[1:4]  # result, config and number of cells
