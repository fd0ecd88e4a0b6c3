"""What Zed posts and what it makes of the answer, at a live daemon. Zed itself is on no registry that tests can ask.

The bodies are what its provider for servers of OpenAI's kind posts, the reading is as strict as its own: every line of
data is an error or has `choices` or `usage`, a call is whole where the reason `tool_calls` comes, and a prompt that is
too long is known by `context_length_exceeded` in the body, and by nothing else.
"""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from dataclasses import dataclass, field
from typing import Any

import pytest

from tests.e2e.conftest import SMOL, Daemon

pytestmark = pytest.mark.e2e

ASKED: Any = {"role": "user", "content": "Where is main defined? Search for it."}
GREP = {
    "type": "function",
    "function": {
        "name": "grep",
        "description": "Searches the contents of files in the project with a regular expression",
        "parameters": {
            "type": "object",
            "title": "GrepToolInput",
            "required": ["regex"],
            "properties": {
                "regex": {"type": "string", "maxLength": 20},
                "include_pattern": {"type": "string", "nullable": True, "maxLength": 20},
                "offset": {"type": "integer", "format": "uint32", "minimum": 0, "default": 0},
                "case_sensitive": {"type": "boolean", "default": False},
            },
        },
    },
}


@dataclass
class Heard:
    text: str = ""
    calls: dict[int, dict[str, str]] = field(default_factory=dict)
    whole: list[tuple[str, dict[str, Any]]] = field(default_factory=list)
    """Name and arguments of each call that was complete when the stream said so."""
    reasons: list[str] = field(default_factory=list)
    usage: dict[str, Any] = field(default_factory=dict)

    def read(self, chunk: dict[str, Any]) -> None:
        assert not chunk.get("error"), chunk
        assert "choices" in chunk or "usage" in chunk
        self.usage = chunk.get("usage") or self.usage
        for choice in chunk["choices"][:1]:
            self.text += choice["delta"].get("content") or ""
            for part in choice["delta"].get("tool_calls") or ():
                call = self.calls.setdefault(part["index"], {"id": "", "name": "", "arguments": ""})
                call["id"] = part.get("id") or call["id"]
                call["name"] = part["function"].get("name") or call["name"]
                call["arguments"] += part["function"].get("arguments") or ""
            if choice["finish_reason"] is not None:
                self.reasons.append(choice["finish_reason"])
            if choice["finish_reason"] == "tool_calls":
                assert all(call["id"] and call["name"] for call in self.calls.values())
                self.whole = [(call["name"], json.loads(call["arguments"])) for call in self.calls.values()]


def post(daemon: Daemon, messages: list[Any], **more: Any) -> Heard:
    """Raises urllib.error.HTTPError."""
    body = {
        "model": SMOL,
        "messages": messages,
        "stream": True,
        "stream_options": {"include_usage": True},
        "temperature": 0.0,
        **more,
    }
    headers = {"Content-Type": "application/json", "Authorization": "Bearer none"}
    request = urllib.request.Request(f"{daemon.url}/v1/chat/completions", json.dumps(body).encode(), headers)
    heard = Heard()
    with urllib.request.urlopen(request, timeout=120) as response:
        for line in response.read().decode().splitlines():
            if line.startswith("data:") and (data := line.removeprefix("data:").strip()) != "[DONE]":
                heard.read(json.loads(data))
    return heard


def test_an_answer_is_read_to_its_end(daemon: Daemon) -> None:
    parts = [{"type": "text", "text": text} for text in ("Context:\n", "a file", "Give a title.")]
    earlier = [{"role": "user", "content": "Hi."}, {"role": "assistant", "content": "Hello."}]
    heard = post(daemon, [*earlier, {"role": "user", "content": parts}], max_completion_tokens=8)
    assert heard.text
    assert heard.reasons in (["stop"], ["length"])
    assert heard.usage["prompt_tokens"] > 0 < heard.usage["completion_tokens"]
    assert isinstance(heard.usage["prompt_tokens_details"]["cached_tokens"], int)


def test_a_call_that_is_required_is_whole_at_its_end(daemon: Daemon) -> None:
    heard = post(daemon, [ASKED], tools=[GREP], tool_choice="required", max_completion_tokens=1000)
    assert heard.reasons == ["tool_calls"]
    assert heard.whole
    for name, arguments in heard.whole:
        assert name == "grep"
        assert isinstance(arguments["regex"], str)


@pytest.mark.parametrize(
    "result", ["src/main.rs:3: fn main() {", [], [{"type": "text", "text": "one"}, {"type": "text", "text": "two"}]]
)
def test_every_form_of_a_result_is_read(daemon: Daemon, result: object) -> None:
    call = {"id": "c1", "type": "function", "function": {"name": "grep", "arguments": '{"regex":"main"}'}}
    called = {"role": "assistant", "content": None, "tool_calls": [call]}
    messages = [ASKED, called, {"role": "tool", "content": result, "tool_call_id": "c1"}]
    heard = post(daemon, messages, tools=[GREP], max_completion_tokens=8)
    assert len(heard.reasons) == 1
    assert heard.usage["completion_tokens"] > 0


def test_a_prompt_that_is_too_long_is_known_as_such(daemon: Daemon) -> None:
    with pytest.raises(urllib.error.HTTPError) as refused:
        post(daemon, [{"role": "user", "content": "word " * 3000}])
    assert refused.value.code == 400
    assert "context_length_exceeded" in refused.value.read().decode()
