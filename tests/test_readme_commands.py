"""The README's commands, typed as they stand in a shell where nothing is activated."""

from __future__ import annotations

import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import takewhile
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image as Picture

from harness.__main__ import parser
from tests.checkouts import Checkout
from tests.folders import folder_of_a_sweep
from tests.sweeps import HOME

README = (HOME / "README.md").read_text(encoding="utf-8")
PROGRAM = "python -m harness "
ALONE = ("demo", "list", "models", "schema", "ui")  # commands that take no word
LONG = ("demo", "purge", "run", "ui")  # of these only the words are looked at
SKILLS = {"patchcore": 1.4, "padim": 0.6}

pytestmark = pytest.mark.timeout(180)


def commands(text: str) -> list[str]:
    """Those of a page's blocks and between its backquotes, without their remarks."""
    blocks = re.findall(r"^```(\w*)\n(.*?)^```$", text, re.M | re.S)
    shells = [block for language, block in blocks if not language]
    lines = [line for block in shells for line in re.sub(r"\\\n\s*", "", block).splitlines()]
    spans = re.findall(r"`([^`]+)`", re.sub(r"^```.*?^```$", "", text, flags=re.M | re.S))
    phrases = [" ".join(each.split()) for each in [*lines, *spans]]
    words = (PROGRAM, "make ", "ray job submit")
    return [re.sub(r" #.*", "", each).strip() for each in phrases if each.startswith(words)]


def pages() -> Iterator[Path]:
    """All that is written for users."""
    for pattern in ("*.md", "docs/*.md", "conf/*.yaml", "deploy/*"):
        yield from sorted(HOME.glob(pattern))


def pictures(root: Path) -> None:
    """A small MVTec AD."""
    random = np.random.default_rng(0)
    for category in ("bottle", "pill"):
        for part, count in (("train/good", 9), ("test/good", 3), ("test/scratch", 3)):
            folder = root / "mvtec" / category / part
            folder.mkdir(parents=True)
            for number in range(count):
                noise = random.integers(0, 255, (32, 32, 3), np.uint8)
                Picture.fromarray(noise).save(folder / f"{number:03}.png")
        masks = root / "mvtec" / category / "ground_truth/scratch"
        masks.mkdir(parents=True)
        mask = np.zeros((32, 32), np.uint8)
        mask[8:16, 8:16] = 255
        for number in range(3):
            Picture.fromarray(mask).save(masks / f"{number:03}_mask.png")


def quick(command: str, data: Path) -> str:
    """The same command on small data; what takes long is only looked at."""
    command = command.replace("--data-root /data", f"--data-root {data}")
    if command.startswith("make "):
        return f"make -n READY= {command.removeprefix('make ')}"
    command = command.partition(" -- ")[2] or command  # tests of the cluster submit a job
    if command.startswith(f"{PROGRAM}run first.yaml"):
        command = re.sub(r" --(runner|storage|audit) \S+", "", command)
        return command.replace(" run ", " plan ", 1)
    return f"{command} --help" if command.split()[3] in LONG else command


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Checkout:
    folder = tmp_path_factory.mktemp("readme")
    pictures(folder / "data")
    checkout = Checkout(folder)
    for name in ("demo", "table1", "before", "after"):
        folder_of_a_sweep(checkout.folder / "runs" / name, SKILLS, {"elpv": ["elpv"]})
    first, mine = re.findall(r"^```yaml\n(.*?)^```", README, re.M | re.S)
    sweep = yaml.safe_load(first)
    sweep["methods"] += yaml.safe_load(mine)["methods"][:1]
    (checkout.folder / "first.yaml").write_text(yaml.safe_dump(sweep))
    return checkout


def test_every_command_works(checkout: Checkout) -> None:
    typed = [quick(each, checkout.folder.parent / "data") for each in commands(README)]
    assert len(typed) > 15
    begin = [each for each in typed if " new " in each]  # the others need what it writes
    for each in begin:
        assert checkout.type(each).returncode == 0
    rest = list(dict.fromkeys(each for each in typed if each not in begin))
    with ThreadPoolExecutor(3) as several:
        for command, done in zip(rest, several.map(checkout.type, rest), strict=True):
            output = f"{command}\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}"
            assert done.returncode == 0, output
            assert "Traceback" not in output


def test_every_command_of_every_page_is_understood(capsys: pytest.CaptureFixture[str]) -> None:
    understood = 0
    for page in pages():
        for line in re.findall(rf"{PROGRAM}([a-z][^`|\n]*)", page.read_text("utf-8")):
            written = line.replace(",...", "").split()
            words = list(takewhile(re.compile(r"[\w./-][\w./:=,%-]*(?<![,:])$").match, written))
            if len(words) == 1 and words[0] not in ALONE:
                continue  # a command's name in a sentence
            try:
                parser().parse_args(words)
            except SystemExit:
                pytest.fail(f"{page.name}: {line}\n{capsys.readouterr().err}")
            understood += 1
    assert understood > 60


def test_the_verbs_of_make_are_those_that_help_and_readme_name(checkout: Checkout) -> None:
    rules = re.search(r"^\.PHONY: (.*)$", (HOME / "Makefile").read_text(), re.M)
    assert rules is not None
    verbs = set(rules.group(1).split()) - {"help"}
    named = checkout.type("make help").stdout
    assert set(re.findall(r"\bmake ([\w-]+)", named)) == verbs
    listed = re.search(r"`make help` lists the verbs: (.*?)\.$", README, re.M | re.S)
    assert listed is not None
    assert set(re.findall(r"`([\w-]+)`", listed.group(1))) == verbs
    for path in re.findall(r"[\w/]+\.(?:md|yaml|sh|py)", named):
        assert (HOME / path).is_file(), path
