"""Ready-to-paste configuration of programs that use language models, pointed at this daemon.

Called by `commands`. Each page is the text of one file or of a shell's lines, and nothing around it: where it
belongs is told beside.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Final, Literal, NamedTuple

NO_KEY: Final = "none"
"""Many programs insist on some key; the daemon reads it only where it has keys of its own."""


class Target(NamedTuple):
    """Where the daemon is for the program (`http://HOST:PORT`), and the model it is to use."""

    url: str
    model: str
    context: int
    key: str = NO_KEY
    sees: bool = False
    """Whether the model reads images."""


class Recipe(NamedTuple):
    form: str
    """"yaml", "json", "toml", "sh", "python" or "vim"."""
    place: str
    """Where the text belongs."""
    text: Callable[[Target], str]
    tried: Literal["tests", "hand", "source"]
    """With the program itself: by the project's tests, or by hand; "source": by hand with the parts of the program that
    read this text and ask the daemon, built from its source without the rest of it."""


def _quoted(text: str) -> str:
    """For JSON, YAML and TOML alike."""
    return json.dumps(text, ensure_ascii=False)


def _continue(to: Target) -> str:
    return f"""\
name: swapd
version: 1.0.0
schema: v1
models:
  - name: {_quoted(to.model)}
    provider: ollama
    model: {_quoted(to.model)}
    apiBase: {_quoted(to.url)}
    apiKey: {_quoted(to.key)}
    roles: [chat, edit, apply, autocomplete]
    defaultCompletionOptions:
      contextLength: {to.context}
"""


def _aider(to: Target) -> str:
    return f"""\
openai-api-base: {_quoted(f"{to.url}/v1")}
openai-api-key: {_quoted(to.key)}
model: {_quoted(f"openai/{to.model}")}
weak-model: {_quoted(f"openai/{to.model}")}
"""


def _open_webui(to: Target) -> str:
    return f"""\
docker run -d --name open-webui --network host -e PORT=3000 \\
  -e OPENAI_API_BASE_URL={shlex.quote(f"{to.url}/v1")} -e OPENAI_API_KEY={shlex.quote(to.key)} \\
  -e ENABLE_OLLAMA_API=false -e DEFAULT_MODELS={shlex.quote(to.model)} \\
  -v open-webui:/app/backend/data ghcr.io/open-webui/open-webui:main
"""


def _zed(to: Target) -> str:
    model: dict[str, object] = {"name": to.model, "display_name": to.model, "max_tokens": to.context}
    if to.sees:  # All four or none: Zed refuses fewer, and without any it takes tools but no images for granted.
        model["capabilities"] = {"tools": True, "images": True, "parallel_tool_calls": False, "prompt_cache_key": False}
    settings = {
        "language_models": {"openai_compatible": {"swapd": {"api_url": f"{to.url}/v1", "available_models": [model]}}},
        "agent": {"default_model": {"provider": "swapd", "model": to.model}},
    }
    return json.dumps(settings, indent=2, ensure_ascii=False) + "\n"


_ZED_PLACE: Final = "~/.config/zed/settings.json; Zed wants some key: in SWAPD_API_KEY, or typed in its settings"


def _claude_code(to: Target) -> str:
    model = shlex.quote(to.model)
    return f"""\
export ANTHROPIC_BASE_URL={shlex.quote(to.url)}
export ANTHROPIC_AUTH_TOKEN={shlex.quote(to.key)}
export ANTHROPIC_MODEL={model}
export ANTHROPIC_DEFAULT_HAIKU_MODEL={model} ANTHROPIC_SMALL_FAST_MODEL={model}
export CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC=1
"""


def _codex(to: Target) -> str:
    return f"""\
model = {_quoted(to.model)}
model_provider = "swapd"
model_context_window = {to.context}

[model_providers.swapd]
name = "swapd"
base_url = {_quoted(f"{to.url}/v1")}
wire_api = "responses"
experimental_bearer_token = {_quoted(to.key)}
"""


def _openai_python(to: Target) -> str:
    return f"""\
from openai import OpenAI

client = OpenAI(base_url={f"{to.url}/v1"!r}, api_key={to.key!r})
answer = client.chat.completions.create(
    model={to.model!r},
    messages=[{{"role": "user", "content": "Say hello."}}],
)
print(answer.choices[0].message.content)
"""


def _ollama_python(to: Target) -> str:
    return f"""\
from ollama import Client

client = Client(host={to.url!r}, headers={{"Authorization": {f"Bearer {to.key}"!r}}})
answer = client.chat(model={to.model!r}, messages=[{{"role": "user", "content": "Say hello."}}])
print(answer.message.content)
"""


def _llama_vim(to: Target) -> str:
    def vim(text: str) -> str:
        return "'" + text.replace("'", "''") + "'"

    return f"""\
let g:llama_config = {{
  \\ 'endpoint_fim': {vim(f"{to.url}/infill")},
  \\ 'endpoint_inst': {vim(f"{to.url}/v1/chat/completions")},
  \\ 'model_fim': {vim(to.model)},
  \\ 'model_inst': {vim(to.model)},
  \\ 'api_key': {vim("" if to.key == NO_KEY else to.key)},
  \\ }}
"""


RECIPES: Final[Mapping[str, Recipe]] = MappingProxyType(
    {
        "aider": Recipe("yaml", "~/.aider.conf.yml, or .aider.conf.yml in a repository", _aider, "tests"),
        "claude-code": Recipe("sh", "the shell that starts `claude`, or its profile", _claude_code, "tests"),
        "codex": Recipe("toml", "~/.codex/config.toml", _codex, "tests"),
        "continue": Recipe("yaml", "~/.continue/config.yaml", _continue, "tests"),
        "llama.vim": Recipe("vim", "~/.vimrc, before the plugin loads; for a model that fills in", _llama_vim, "hand"),
        "ollama-python": Recipe("python", "a program, after `pip install ollama`", _ollama_python, "tests"),
        "open-webui": Recipe("sh", "a shell on this machine; then open http://127.0.0.1:3000", _open_webui, "hand"),
        "openai-python": Recipe("python", "a program, after `pip install openai`", _openai_python, "tests"),
        "zed": Recipe("json", _ZED_PLACE, _zed, "source"),
    }
)
