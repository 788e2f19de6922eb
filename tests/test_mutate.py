"""The faults that are put into modules to see whether tests notice them."""

from __future__ import annotations

import ast

from tools.equivalent import EQUIVALENT
from tools.mutate import HOME, TESTS, mutants

SOURCE = '''"""0 < 1"""
LIMIT: int = 3


def least(values: list[int], most: int = 7) -> int:
    if not values and most >= LIMIT:
        raise ValueError(f"{1 + 1}" + str(9))
    values.sort()
    return min(v * 2 for v in values if v < most)
'''


def test_each_mutant_is_the_module_with_one_change() -> None:
    made_of = {m.change: m for m in mutants(SOURCE)}
    assert set(made_of) == {
        "3 -> 4",
        "7 -> 8",
        "not values and most >= LIMIT -> (not values or most >= LIMIT)",
        "not values -> (values)",
        "most >= LIMIT -> (most > LIMIT)",
        "values.sort() -> pass",
        "min -> max",
        "(v * 2 for v in values if v < most) -> ((v * 2 for v in values))",
        "v * 2 -> (v / 2)",
        "2 -> 3",
        "v < most -> (v <= most)",
    }
    whole = ast.dump(ast.parse(SOURCE))
    assert made_of["3 -> 4"].name == "LIMIT: int = 3: 3 -> 4"
    for mutant in made_of.values():
        assert ast.dump(ast.parse(mutant.text)) != whole
        assert SOURCE.splitlines()[mutant.line - 1] not in mutant.text.splitlines()


def test_every_module_has_tests_that_exist() -> None:
    for module, tests in TESTS.items():
        assert (HOME / module).is_file(), module
        for name in tests.split():
            assert (HOME / f"tests/test_{name}.py").is_file(), name


def test_what_is_said_to_change_nothing_is_a_change() -> None:
    for module, reasons in EQUIVALENT.items():
        names = {mutant.name for mutant in mutants((HOME / module).read_text())}
        assert set(reasons) <= names, module
