"""Configuration for other programs: every text is of its form, and says where the daemon is and which model."""

from __future__ import annotations

import ast
import json
import shutil
import subprocess
import tomllib
from typing import TYPE_CHECKING, Any

import pytest
import yaml  # type: ignore[import-untyped]

from swapd.ctl.__main__ import main
from swapd.ctl.arguments import build_parser
from swapd.ctl.client import Exit
from swapd.ctl.clients import RECIPES, Target

if TYPE_CHECKING:
    from tests.ctl.conftest import Daemon, Script

URL = "http://10.0.0.5:11435"
ODD = """it's a "model": $HOME #1 {x}"""
PROMISED = {
    "continue",
    "aider",
    "open-webui",
    "zed",
    "claude-code",
    "codex",
    "openai-python",
    "ollama-python",
    "llama.vim",
}


def read(form: str, text: str) -> list[str]:
    """Every text in it, read as its program would."""
    match form:
        case "json":
            return leaves(json.loads(text))
        case "yaml":
            return leaves(yaml.safe_load(text))
        case "toml":
            return leaves(tomllib.loads(text))
        case "python":
            constants = [node.value for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Constant)]
            return [value for value in constants if isinstance(value, str)]
        case "sh":
            return shell_words(text)
        case "vim":
            assert text.startswith("let g:llama_config = {\n")
            quoted = [line.partition(": ")[2].rstrip(",") for line in text.splitlines()[1:-1]]
            assert all(value.startswith("'") and value.endswith("'") for value in quoted)
            return [value[1:-1].replace("''", "'") for value in quoted]
        case _:
            raise AssertionError(f"nobody reads {form}")


def leaves(value: Any) -> list[str]:
    if isinstance(value, dict):
        return [leaf for inner in value.values() for leaf in leaves(inner)]
    if isinstance(value, list):
        return [leaf for inner in value for leaf in leaves(inner)]
    return [str(value)]


def shell_words(text: str) -> list[str]:
    """What a shell makes of it: the words that each command is given, and where it comes after a `=`."""
    script = "docker() { printf '%s\\n' \"$@\"; }\nexport() { printf '%s\\n' \"$@\"; }\n" + text
    bash = shutil.which("bash")
    assert bash
    done = subprocess.run([bash, "-uc", script], capture_output=True, text=True, check=True, env={})
    words = done.stdout.splitlines()
    return [*words, *(word.partition("=")[2] for word in words)]


def test_every_promised_program_is_known_and_named_in_the_help() -> None:
    assert set(RECIPES) == PROMISED
    help_of = next(action for action in build_parser()._actions if action.dest == "command").choices
    assert help_of is not None
    page = " ".join(dict(help_of)["clients"].format_help().split())
    assert f"NAME is {', '.join(list(RECIPES)[:-1])} or {list(RECIPES)[-1]}." in page


@pytest.mark.parametrize("name", RECIPES)
@pytest.mark.parametrize("model", ["qwen3.5:9b", ODD])
def test_a_text_is_of_its_form_and_names_daemon_and_model(name: str, model: str) -> None:
    recipe = RECIPES[name]
    said = read(recipe.form, recipe.text(Target(URL, model, 4096, "sk-1")))
    assert any(text.startswith(URL) for text in said)
    assert any(text in (model, f"openai/{model}") for text in said)
    if name != "zed":  # which keeps keys elsewhere
        assert any(text in ("sk-1", "Bearer sk-1") for text in said)


def test_the_text_goes_to_stdout_alone(daemon: Daemon, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["clients", "codex", "--model", "chat"]) == 0
    out, err = capsys.readouterr()
    document = tomllib.loads(out)
    assert document["model"] == "chat"
    assert document["model_context_window"] == 4096
    assert document["model_providers"]["swapd"]["base_url"] == "http://127.0.0.1:11435/v1"
    assert "~/.codex/config.toml" in err


def test_a_model_that_is_loaded_is_the_default(daemon: Daemon, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["clients", "zed", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert (document["client"], document["form"]) == ("zed", "json")
    assert "smollm2-135m" in document["text"]


def test_zed_finds_what_it_reads_where_it_reads_it() -> None:
    """Under these keys, by the types that Zed 1.14 reads its settings into; any other it passes over in silence."""
    of_the_model = {"name": "qwen3.5:9b", "display_name": "qwen3.5:9b", "max_tokens": 4096}
    assert json.loads(RECIPES["zed"].text(Target(URL, "qwen3.5:9b", 4096))) == {
        "language_models": {
            "openai_compatible": {"swapd": {"api_url": f"{URL}/v1", "available_models": [of_the_model]}}
        },
        "agent": {"default_model": {"provider": "swapd", "model": "qwen3.5:9b"}},
    }


@pytest.mark.parametrize("sees", [True, False])
def test_zed_is_told_which_model_sees(
    daemon: Daemon, script: type[Script], capsys: pytest.CaptureFixture[str], sees: bool
) -> None:
    able = ["completion", "tools", *(["vision"] if sees else [])]
    shown = {"details": {"context_length": 512}, "capabilities": able}
    daemon.replies[("POST", "/api/show")] = script.Reply(shown)
    assert main(["clients", "zed"]) == 0
    (model,) = json.loads(capsys.readouterr().out)["language_models"]["openai_compatible"]["swapd"]["available_models"]
    told = {"tools": True, "images": True, "parallel_tool_calls": False, "prompt_cache_key": False}
    assert model.get("capabilities") == (told if sees else None)


def test_what_was_tried_in_parts_only_says_so(daemon: Daemon, capsys: pytest.CaptureFixture[str]) -> None:
    for name, recipe in RECIPES.items():
        assert main(["clients", name]) == 0
        assert (f"tried with {name}'s own code, not in its window" in capsys.readouterr().err) is (
            recipe.tried == "source"
        )


def test_an_unknown_program_lists_those_that_are_known(daemon: Daemon, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["clients", "emacs"]) == Exit.USAGE
    assert f"'emacs' is not known here; {', '.join(RECIPES)} are" in capsys.readouterr().err
    assert not daemon.requests


def test_without_any_model_it_says_so(daemon: Daemon, script: type[Script], capsys: pytest.CaptureFixture[str]) -> None:
    daemon.replies[("GET", "/swapd/models")] = script.Reply({"models": []})
    assert main(["clients", "zed"]) == Exit.NOT_FOUND
    assert "[catalog] dirs" in capsys.readouterr().err
