"""The table of scenarios is whole, and every test that it names is there."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from tests.scenarios import SCENARIOS, Scenario

ROOT = Path(__file__).parents[1]
NUMBERS = [*map(str, range(1, 36)), *(f"B{number}" for number in range(1, 11))]
TABLE = {scenario.number: scenario for scenario in SCENARIOS}
NUMBERED = re.compile(r"(?:B?\d+(?:, | and )?)+(?=[.:])")
NAMED = re.compile(r"test_(scenario|bug)_(\d\d)_")


@cache
def docstrings(file: str) -> dict[str, str]:
    """The test functions of a file, with what they say of themselves."""
    tree = ast.parse((ROOT / file).read_text())
    functions = (node for node in tree.body if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))
    return {node.name: ast.get_docstring(node) or "" for node in functions if node.name.startswith("test_")}


def told_in_the_tests() -> Iterator[tuple[str, str]]:
    """Numbers that tests give themselves, by docstring or by name, with their node ids."""
    for name, text in docstrings("tests/core/test_scenarios.py").items():
        told = NUMBERED.match(text)
        assert told, f"{name} does not begin with its number"
        for number in re.findall(r"B?\d+", told[0]):
            yield number, f"tests/core/test_scenarios.py::{name}"
    for name in docstrings("tests/e2e/test_scenarios.py"):
        told = NAMED.match(name)
        assert told, f"{name} does not name its number"
        yield ("B" if told[1] == "bug" else "") + str(int(told[2])), f"tests/e2e/test_scenarios.py::{name}"
    for file in sorted((ROOT / "tests/core").glob("test_*.py")):
        relative = file.relative_to(ROOT).as_posix()
        for name, text in docstrings(relative).items():
            if told := re.match(r"Scenario (\d+)", text):
                yield told[1], f"{relative}::{name}"


def test_every_number_is_there_once_and_in_order() -> None:
    assert [scenario.number for scenario in SCENARIOS] == NUMBERS


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.number)
def test_every_test_of_a_scenario_exists(scenario: Scenario) -> None:
    assert scenario.tests or scenario.missing
    assert len(set(scenario.tests)) == len(scenario.tests)
    assert scenario.sentence.startswith("Given ")
    for node in scenario.tests:
        file, _, name = node.partition("::")
        assert name in docstrings(file), node


@pytest.mark.parametrize(("number", "node"), sorted(set(told_in_the_tests())))
def test_a_test_that_gives_its_number_is_in_the_table_under_it(number: str, node: str) -> None:
    assert node in TABLE[number].tests
