"""What was told in parts, put together again."""

from swapd.api.answers import joined_calls
from swapd.generation import CallPart, ToolCall


def test_calls_told_in_parts_are_whole_again_in_their_order() -> None:
    parts = [
        CallPart(1, "b", "add", '{"x"'),
        CallPart(0, "a", "now"),
        CallPart(1, arguments=": 1}"),
        CallPart(0, arguments="{}"),
    ]
    assert joined_calls(parts) == (ToolCall("a", "now", "{}"), ToolCall("b", "add", '{"x": 1}'))
