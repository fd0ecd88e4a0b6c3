"""The table of fields is that of the code."""

from __future__ import annotations

from pathlib import Path

from swapd.api import reference
from swapd.api.operations import OPERATIONS

PAGE = Path(__file__).parents[2] / "docs" / "dialects.md"


def test_the_page_is_what_the_code_says() -> None:
    assert PAGE.read_text() == reference.text(), "make it anew: python -m swapd.api.reference > docs/dialects.md"


def test_a_field_has_one_fate() -> None:
    bodies = {path: operation.body for (_, path), operation in OPERATIONS.items()}
    for path, body in bodies.items():
        if body is None:
            continue
        served = {field.alias or name for name, field in body.model_fields.items()}
        refused, ignored = set(reference.REFUSED.get(path, ())), set(reference.ignored(path))
        assert not served & refused, path
        assert not served & ignored, path
        assert not refused & ignored, path


def test_what_is_told_belongs_to_a_route() -> None:
    paths = {path for _, path in OPERATIONS}
    assert set(reference.REFUSED) | set(reference.IGNORED) <= paths
