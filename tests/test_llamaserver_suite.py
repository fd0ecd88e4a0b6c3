"""The list of llama.cpp's server tests is complete, and what it says stands for them is there."""

from __future__ import annotations

import ast
from functools import cache
from pathlib import Path

import pytest

from tests.llamaserver_suite import SUITE, Left, text

ROOT = Path(__file__).parents[1]
OURS = sorted({case for tests in SUITE.values() for case in tests.values() if isinstance(case, str)})


@cache
def names(path: str) -> frozenset[str]:
    """Tests of a file: functions, and methods as `Class::name`."""
    found: set[str] = set()
    for node in ast.parse((ROOT / path).read_text()).body:
        inner = node.body if isinstance(node, ast.ClassDef) else [node]
        prefix = f"{node.name}::" if isinstance(node, ast.ClassDef) else ""
        functions = [each for each in inner if isinstance(each, (ast.FunctionDef, ast.AsyncFunctionDef))]
        found |= {prefix + each.name for each in functions}
    return frozenset(found)


@pytest.mark.parametrize("ours", OURS)
def test_what_stands_for_one_of_theirs_is_a_test(ours: str) -> None:
    path, _, name = ours.partition("::")
    assert name.rpartition("::")[2].startswith("test_")
    assert name in names(path)


def test_each_is_re_created_or_says_why_not() -> None:
    assert len(SUITE) == 27
    assert sum(map(len, SUITE.values())) == 251
    assert all(case.words for tests in SUITE.values() for case in tests.values() if isinstance(case, Left))


def test_every_test_of_that_page_stands_for_one_of_theirs() -> None:
    page = "tests/e2e/test_llamaserver_suite.py"
    tests = {name for name in names(page) if name.rpartition("::")[2].startswith("test_")}
    own = {
        "TestBasics::test_what_it_does_by_itself_is_refused_with_the_reason",
        "TestCompletion::test_several_answers_to_one_prompt",
    }
    assert tests - own == {case.partition("::")[2] for case in OURS if case.startswith(page)}


def test_the_page_is_what_the_list_says() -> None:
    page = ROOT / "docs" / "llama-server.md"
    assert page.read_text() == text(), "make it anew: python -m tests.llamaserver_suite > docs/llama-server.md"
