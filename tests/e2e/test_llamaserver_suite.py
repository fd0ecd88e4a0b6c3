"""What llama.cpp's own tests expect of its server, asked of ours: behaviour, with other models and other words.

`tests/llamaserver_suite.py` says which of theirs each test stands for.
"""

from __future__ import annotations

import http.client
import json
import re
import threading
from base64 import b64encode
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from swapd.demo import models
from tests.adapters import write_adapter
from tests.e2e.conftest import GEMMA, SMOL, Daemon
from tests.gguf_models import infilling, picture, tiny_bert

pytestmark = pytest.mark.e2e

CONFIG = """
[catalog]
dirs = ["{folder}"]
[models.plain]
aliases = ["chat", "writer"]
context = 512
slots = 2
lora = {{ odd = "{folder}/odd.lora" }}
[models.coder]
context = 512
slots = 2
[routes]
autocomplete = "coder"
rerank = "ranker"
embedding = "bert"
completion = "plain"
"""
PICTURE = b64encode(picture((0, 0, 255))).decode()
STORY = "The lighthouse keeper counted the ships that passed before dawn"
CHAT: list[dict[str, str]] = [
    {"role": "system", "content": "Answer in a few words."},
    {"role": "user", "content": "Name a fruit."},
]
NO_MESSAGES: list[Any] = [None, "text", [7], [{}], [{"role": 7}], [{"role": "user", "content": 7}], [CHAT[0], {}]]
SUM = {"name": "sum", "parameters": {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}}


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    folder = tmp_path_factory.mktemp("models")
    smol = Path(models.folder()) / f"{SMOL}.gguf"
    infilling(smol, folder / "coder.gguf")
    tiny_bert(folder / "bert.gguf")
    tiny_bert(folder / "ranker.gguf", ranks=True)
    write_adapter(folder / "odd.lora", 0)
    (folder / "plain.gguf").symlink_to(smol)
    (folder / f"{GEMMA}.gguf").symlink_to(Path(models.folder()) / f"{GEMMA}.gguf")
    daemon = Daemon(tmp_path_factory.mktemp("daemon"), CONFIG.format(folder=folder), {}, common="")
    try:
        yield daemon.wait_ready()
    finally:
        daemon.close()


def ok(daemon: Daemon, path: str, body: object) -> Any:
    status, document = daemon.call(path, body)
    assert status == 200, document
    return document


def bad(daemon: Daemon, path: str, body: object) -> Any:
    status, document = daemon.call(path, body)
    assert status == 400, document
    return document["error"]


def complete(daemon: Daemon, **more: Any) -> Any:
    return ok(daemon, "/completion", {"prompt": STORY, "n_predict": 8, "temperature": 0} | more)


def chat(daemon: Daemon, **more: Any) -> Any:
    about = {"model": "plain", "messages": CHAT, "max_tokens": 8, "temperature": 0}
    return ok(daemon, "/v1/chat/completions", about | more)


def sums(daemon: Daemon, model: str) -> dict[str, float]:
    """Tokens of the model so far, by kind."""
    pattern = rf'swapd_tokens_total{{model="{model}",kind="(\w+)"}} (\S+)'
    return {kind: float(value) for kind, value in re.findall(pattern, daemon.call("/metrics")[1])}


@contextmanager
def opened(daemon: Daemon, path: str, body: dict[str, Any]) -> Iterator[http.client.HTTPResponse]:
    connection = http.client.HTTPConnection("127.0.0.1", daemon.port, timeout=90)
    try:
        connection.request("POST", path, json.dumps(body | {"stream": True}), {"Content-Type": "application/json"})
        yield connection.getresponse()
    finally:
        connection.close()


def events(daemon: Daemon, path: str, **body: Any) -> list[Any]:
    with opened(daemon, path, body) as response:
        text = response.read().decode()
    assert response.status == 200, text
    data = [line.removeprefix("data: ") for line in text.splitlines() if line.startswith("data: ")]
    return [json.loads(line) for line in data if line != "[DONE]"]


class TestBasics:
    def test_the_server_tells_of_itself(self, daemon: Daemon) -> None:
        for path in ("/health", "/v1/health"):
            assert daemon.call(path) == (200, {"status": "ok"})
        props = daemon.call("/props?model=plain")[1]
        assert props["model_path"].endswith(".gguf")
        assert props["total_slots"] == 2
        assert props["default_generation_settings"]["n_ctx"] == 512
        assert {"seed", "temperature", "samplers", "dry_base", "mirostat"} <= set(
            props["default_generation_settings"]["params"]
        )

    def test_models_are_listed_with_their_aliases(self, daemon: Daemon) -> None:
        for path in ("/models", "/v1/models"):
            listed = {model["id"]: model for model in daemon.call(path)[1]["data"]}
            assert set(listed["plain"]["aliases"]) == {"chat", "writer"}
            assert listed["plain"]["meta"]["n_ctx"] == 512
            assert listed["plain"]["meta"]["n_params"] > 10**8

    def test_slots_are_listed_and_idle_after_an_answer(self, daemon: Daemon) -> None:
        complete(daemon)
        status, slots = daemon.call("/slots?model=plain")
        assert status == 200
        assert [(slot["n_ctx"], slot["is_processing"]) for slot in slots] == [(512, False)] * 2

    @pytest.mark.parametrize("path", ["/slots/0?action=save", "/slots/1?action=erase", "/props", "/lora-adapters"])
    def test_what_it_does_by_itself_is_refused_with_the_reason(self, daemon: Daemon, path: str) -> None:
        status, document = daemon.call(path, {"filename": "a.bin"})
        assert status == 501
        assert document["error"]["type"] == "not_supported_error"
        assert document["error"]["message"]


class TestTokens:
    def test_a_text_comes_back_from_its_tokens(self, daemon: Daemon) -> None:
        tokens = ok(daemon, "/tokenize", {"content": STORY})["tokens"]
        assert len(tokens) > 5
        assert ok(daemon, "/detokenize", {"tokens": tokens})["content"].strip() == STORY

    def test_the_beginning_of_a_text_is_marked_where_that_is_asked_for(self, daemon: Daemon) -> None:
        plain = ok(daemon, "/tokenize", {"model": GEMMA, "content": STORY})["tokens"]
        special = ok(daemon, "/tokenize", {"model": GEMMA, "content": STORY, "add_special": True})["tokens"]
        assert special[1:] == plain
        assert ok(daemon, "/detokenize", {"model": GEMMA, "tokens": special[:1]})["content"] == "<bos>"

    def test_every_token_has_its_piece(self, daemon: Daemon) -> None:
        text = "Grüße, 日本 and 🦉"
        told = ok(daemon, "/tokenize", {"content": text, "with_pieces": True})["tokens"]
        pieces = [piece.encode() if isinstance(piece := token["piece"], str) else bytes(piece) for token in told]
        assert all(token["id"] > 0 for token in told)
        assert all(pieces)
        assert b"".join(pieces).decode() == text


class TestTemplates:
    def test_a_conversation_is_written_as_the_template_has_it(self, daemon: Daemon) -> None:
        template = "{% for m in messages %}[{{ m.role }}]{{ m.content }}{% endfor %}"
        body = {"messages": CHAT, "chat_template": template}
        assert ok(daemon, "/apply-template", body)["prompt"] == "[system]Answer in a few words.[user]Name a fruit."

    @pytest.mark.parametrize("opens", [None, True, False])
    def test_the_assistants_turn_is_begun_unless_told_otherwise(self, daemon: Daemon, opens: bool | None) -> None:
        prompt = ok(daemon, "/apply-template", {"messages": CHAT, "add_generation_prompt": opens})["prompt"]
        assert prompt.endswith("<|im_start|>assistant\n") is (opens is not False)

    @pytest.mark.parametrize("more", [{}, {"add_generation_prompt": False, "continue_final_message": True}])
    @pytest.mark.parametrize("words", ["An ap", [{"type": "text", "text": "An ap"}]], ids=["text", "parts"])
    def test_an_answer_goes_on_from_the_assistants_words(
        self, daemon: Daemon, words: object, more: dict[str, bool]
    ) -> None:
        body = {"messages": [*CHAT, {"role": "assistant", "content": words}], **more}
        assert ok(daemon, "/apply-template", body)["prompt"].endswith("<|im_start|>assistant\nAn ap")

    def test_going_on_and_beginning_anew_exclude_each_other(self, daemon: Daemon) -> None:
        body = {"messages": CHAT, "add_generation_prompt": True, "continue_final_message": True}
        assert "continue_final_message" in bad(daemon, "/apply-template", body)["message"]
        assert "continue_final_message" in bad(daemon, "/chat/completions", {"model": "plain", **body})["message"]


class TestCompletion:
    @pytest.mark.parametrize("names_tokens", [False, True])
    def test_an_answer_tells_its_costs_and_its_tokens_where_asked(self, daemon: Daemon, names_tokens: bool) -> None:
        answer = complete(daemon, n_predict=12, return_tokens=names_tokens)
        timings = answer["timings"]
        assert timings["predicted_n"] == answer["tokens_predicted"] == 12
        assert timings["prompt_n"] + timings["cache_n"] == answer["tokens_evaluated"] > 5
        assert answer["truncated"] is False
        assert isinstance(answer["has_new_line"], bool)
        assert answer["content"]
        if not names_tokens:
            assert answer["tokens"] == []
        else:
            assert ok(daemon, "/detokenize", {"tokens": answer["tokens"]})["content"] == answer["content"]

    def test_a_stream_says_what_the_whole_answer_does(self, daemon: Daemon) -> None:
        whole = complete(daemon, n_predict=12)
        *pieces, last = events(daemon, "/completion", prompt=STORY, n_predict=12, temperature=0)
        assert "".join(piece["content"] for piece in pieces) == whole["content"]
        assert [piece["stop"] for piece in pieces] == [False] * len(pieces)
        assert all(piece["tokens"] for piece in pieces)
        assert sum(len(piece["tokens"]) for piece in pieces) == 12
        assert (last["stop"], last["stop_type"], last["truncated"], last["content"]) == (True, "limit", False, "")
        settings = last["generation_settings"]
        assert (settings["n_predict"], settings["stream"]) == (12, True)
        assert {"seed", "adaptive_target", "adaptive_decay", "samplers"} <= set(settings)

    def test_a_seed_repeats_itself_and_another_does_not(self, daemon: Daemon) -> None:
        about: dict[str, Any] = {"temperature": 1.5, "cache_prompt": False, "n_predict": 16}
        same = {complete(daemon, seed=42, **about)["content"] for _ in range(2)}
        assert len(same) == 1
        assert len({complete(daemon, seed=seed, **about)["content"] for seed in range(4)}) == 4

    def test_prompts_are_texts_tokens_objects_and_mixtures(self, daemon: Daemon) -> None:
        tokens = ok(daemon, "/tokenize", {"content": STORY, "add_special": True})["tokens"]
        text = complete(daemon)["content"]
        for prompt in (
            tokens,
            {"prompt_string": STORY},
            [*tokens[:3], ok(daemon, "/detokenize", {"tokens": tokens[3:]})["content"]],
        ):
            assert complete(daemon, prompt=prompt)["content"] == text
        several = complete(daemon, prompt=[tokens, STORY, {"prompt_string": STORY}, [STORY]])
        assert [each["index"] for each in several] == [0, 1, 2, 3]
        assert {each["content"] for each in several} == {text}
        assert complete(daemon, prompt=[1, 2, 3, STORY, 4, 5, STORY])["content"]

    def test_media_for_a_model_that_reads_none_are_refused(self, daemon: Daemon) -> None:
        body = {"prompt": {"prompt_string": "<__media__>", "multimodal_data": [PICTURE]}}
        assert "no projector" in bad(daemon, "/completion", body)["message"]
        body["prompt"]["multimodal_data"] = ["AAAA"]
        assert "of no kind that is known" in bad(daemon, "/completion", body)["message"]

    def test_several_answers_to_one_prompt(self, daemon: Daemon) -> None:
        several = complete(daemon, n_cmpl=3, seed=1, temperature=1.5)
        assert len({each["content"] for each in several}) == 3

    @pytest.mark.parametrize("requests", [1, 2, 5])
    def test_all_are_answered_by_two_slots(self, daemon: Daemon, requests: int) -> None:
        def one(number: int) -> Any:
            return complete(daemon, prompt=f"{STORY} for the {number}th time", n_predict=24, ignore_eos=True)

        with ThreadPoolExecutor(requests) as pool:
            answers = list(pool.map(one, range(requests)))
        assert [answer["tokens_predicted"] for answer in answers] == [24] * requests

    def test_only_the_fields_that_were_asked_for(self, daemon: Daemon) -> None:
        fields = ["content", "generation_settings/n_predict", "prompt"]
        answer = complete(daemon, response_fields=fields)
        assert set(answer) == set(fields)
        assert (answer["generation_settings/n_predict"], answer["prompt"]) == (8, STORY)
        assert "generation_settings" in complete(daemon, response_fields=[])

    def test_likelihoods_are_told_of_each_token(self, daemon: Daemon) -> None:
        def check(told: list[Any]) -> None:
            for token in told:
                assert len(token["top_logprobs"]) == 10
                for each in (token, *token["top_logprobs"]):
                    assert each["id"] >= 0
                    assert each["logprob"] <= 0
                    assert bytes(each["bytes"]).decode("utf-8", "replace") == each["token"]

        whole = complete(daemon, n_probs=10, n_predict=5)["completion_probabilities"]
        assert len(whole) == 5
        check(whole)
        pieces = events(daemon, "/completion", prompt=STORY, n_probs=10, n_predict=5, temperature=0)
        streamed = [token for piece in pieces if not piece["stop"] for token in piece["completion_probabilities"]]
        check(streamed)
        assert [token["id"] for token in streamed] == [token["id"] for token in whole]

    def test_probabilities_after_the_filters_are_of_what_could_be_drawn(self, daemon: Daemon) -> None:
        about: dict[str, Any] = {
            "n_probs": 10,
            "n_predict": 5,
            "temperature": 1,
            "seed": 3,
            "post_sampling_probs": True,
        }
        told = complete(daemon, **about)["completion_probabilities"]
        assert len(told) == 5
        for token in told:
            assert all(0 < each["prob"] <= 1 for each in (token, *token["top_probs"]))
            if len(token["top_probs"]) < 10:
                assert sum(each["prob"] for each in token["top_probs"]) == pytest.approx(1, abs=1e-4)

    @pytest.mark.parametrize("as_object", [False, True])
    @pytest.mark.parametrize("as_tokens", [False, True])
    def test_biases_are_pairs_or_an_object_of_tokens_or_texts(
        self, daemon: Daemon, as_tokens: bool, as_object: bool
    ) -> None:
        tokens = complete(daemon, n_predict=1, return_tokens=True)["tokens"]
        word = ok(daemon, "/detokenize", {"tokens": tokens})["content"]
        key = tokens[0] if as_tokens else word
        bias: Any = {str(key): -100} if as_object else [[key, -100]]
        answer = complete(daemon, n_predict=24, logit_bias=bias, return_tokens=True)
        assert tokens[0] not in answer["tokens"]

    def test_a_caller_that_leaves_frees_its_slot(self, daemon: Daemon) -> None:
        with opened(daemon, "/completion", {"prompt": STORY, "n_predict": 400, "ignore_eos": True}) as response:
            assert response.readline()
        daemon.wait_status(lambda status: all(model["slots_busy"] == 0 for model in status["models"]))

    def test_of_alternating_prompts_all_tokens_are_accounted_for(self, daemon: Daemon) -> None:
        for number in (0, 3, 1, 3, 0, 4, 1, 0):
            prompt = f" Owl {number}" * (20 + number)
            count = len(ok(daemon, "/tokenize", {"content": prompt, "add_special": True})["tokens"])
            timings = complete(daemon, prompt=prompt, n_predict=2)["timings"]
            assert timings["prompt_n"] + timings["cache_n"] == count
            assert timings["predicted_n"] <= 2

    def test_without_the_end_it_goes_on_to_the_end_of_the_context(self, daemon: Daemon) -> None:
        answer = complete(daemon, n_predict=-1, ignore_eos=True)
        assert answer["truncated"] is True
        assert answer["stop_type"] == "limit"
        assert answer["tokens_evaluated"] + answer["tokens_predicted"] == 512

    @pytest.mark.parametrize("ignores", [False, True])
    def test_the_bans_of_ignoring_the_end_are_told(self, daemon: Daemon, ignores: bool) -> None:
        biases = complete(daemon, ignore_eos=ignores)["generation_settings"]["logit_bias"]
        assert bool(biases) is ignores
        assert all(entry["bias"] is None for entry in biases)

    @pytest.mark.parametrize("path", ["/completion", "/v1/completions", "/v1/chat/completions"])
    def test_a_prompt_over_the_context_is_refused_with_its_size_also_for_a_stream(
        self, daemon: Daemon, path: str
    ) -> None:
        long = " owl" * 600
        body: dict[str, Any] = {"model": "plain", "prompt": long, "messages": [{"role": "user", "content": long}]}
        for stream in (False, True):
            error = bad(daemon, path, body | {"stream": stream, "cache_prompt": False})
            assert error["n_ctx"] == 512
            assert error["n_prompt_tokens"] >= 600

    def test_timings_are_numbers_and_none_is_negative(self, daemon: Daemon) -> None:
        for count in (1, 8):
            timings = complete(daemon, n_predict=count, cache_prompt=False)["timings"]
            assert all(isinstance(value, (int, float)) and value >= 0 for value in timings.values())
            assert timings["prompt_ms"] > 0

    def test_sums_are_those_of_the_answers(self, daemon: Daemon) -> None:
        complete(daemon)
        before = sums(daemon, "plain")
        timings = [complete(daemon, n_predict=count)["timings"] for count in (1, 4, 16)]
        grown = {kind: value - before[kind] for kind, value in sums(daemon, "plain").items()}
        assert grown["completion"] == sum(each["predicted_n"] for each in timings)
        assert grown["prompt"] == sum(each["prompt_n"] for each in timings)
        assert grown["cached"] == sum(each["cache_n"] for each in timings) > 0

    def test_adapters_are_listed_and_a_request_may_name_one(self, daemon: Daemon) -> None:
        (told,) = daemon.call("/lora-adapters?model=plain")[1]
        assert (told["id"], told["scale"]) == (0, 0.0)
        assert told["path"].endswith("odd.lora")
        scales = (0.0, 1.0, 0.5, 0.0, 1.0, 0.5)
        with ThreadPoolExecutor(6) as pool:
            answers = list(pool.map(lambda scale: complete(daemon, lora=[{"id": 0, "scale": scale}]), scales))
        texts = [answer["content"] for answer in answers]
        assert texts[:3] == texts[3:]
        assert texts[0] == complete(daemon)["content"]
        assert len(set(texts)) == 3
        assert bad(daemon, "/completion", {"prompt": STORY, "lora": [{"id": 1, "scale": 1}]})


class TestChat:
    def test_roles_come_first_and_the_same_id_stays(self, daemon: Daemon) -> None:
        whole = chat(daemon)
        assert "cmpl" in whole["id"]
        assert whole["choices"][0]["message"]["role"] == "assistant"
        about = {"model": "plain", "messages": CHAT, "max_tokens": 8, "temperature": 0}
        told = events(daemon, "/chat/completions", **about, stream_options={"include_usage": True})
        assert len({event["id"] for event in told}) == 1
        deltas = [event["choices"][0]["delta"] for event in told if event["choices"]]
        assert (deltas[0]["role"], deltas[-1]) == ("assistant", {})
        assert not any("role" in delta for delta in deltas[1:])
        text = "".join(delta.get("content") or "" for delta in deltas)
        assert text == whole["choices"][0]["message"]["content"]
        assert told[-1]["usage"] == whole["usage"] | {
            "prompt_tokens_details": told[-1]["usage"]["prompt_tokens_details"]
        }

    def test_what_is_read_again_is_only_what_changed(self, daemon: Daemon) -> None:
        def cached(words: str) -> tuple[int, int]:
            usage = chat(daemon, messages=[CHAT[0], {"role": "user", "content": words}])["usage"]
            return usage["prompt_tokens"], usage["prompt_tokens_details"]["cached_tokens"]

        size, _ = cached("7 8 9 10 11 12")
        assert cached("7 8 9 10 11 12") == (size, size - 1)
        late, early = cached("7 8 9 10 11 13")[1], cached("7 8 1 1 1 1")[1]
        assert 0 < early < late < size - 1

    @pytest.mark.parametrize(
        "more",
        [
            {"response_format": {"type": "json_object", "schema": {"const": "plum"}}},
            {"response_format": {"type": "json_schema", "json_schema": {"schema": {"const": "plum"}}}},
            {"json_schema": {"const": "plum"}},
            {"grammar": 'root ::= "\\"plum\\""'},
        ],
    )
    def test_an_answer_follows_its_schema_or_grammar(self, daemon: Daemon, more: dict[str, Any]) -> None:
        assert chat(daemon, max_tokens=20, **more)["choices"][0]["message"]["content"] == '"plum"'

    @pytest.mark.parametrize(
        "more",
        [
            {"response_format": {"type": "noise"}},
            {"response_format": {"type": "json_object", "schema": 7}},
            {"response_format": {"type": "json_object", "schema": {"type": 7}}},
            {"response_format": {"type": "json_object", "schema": {"type": "cough"}}},
            {"grammar": "root ::= no (such GBNF"},
            *({"messages": messages} for messages in NO_MESSAGES),
        ],
        ids=str,
    )
    def test_what_makes_no_sense_is_refused(self, daemon: Daemon, more: dict[str, Any]) -> None:
        assert bad(daemon, "/chat/completions", {"model": "plain", "messages": CHAT, **more})["message"]

    def test_timings_come_with_each_piece_where_wanted(self, daemon: Daemon) -> None:
        about = {"model": "plain", "messages": CHAT, "max_tokens": 6, "temperature": 0, "timings_per_token": True}
        first, *rest = events(daemon, "/chat/completions", **about)
        assert "timings" not in first
        assert [event["timings"]["predicted_n"] for event in rest][-1] <= 6
        assert all(event["timings"]["predicted_ms"] >= 0 for event in rest)

    @pytest.mark.parametrize(
        ("path", "more"),
        [
            ("/completion", {"prompt": f"{STORY}, and then {{}}. " * 20, "n_predict": 2}),
            ("/chat/completions", {"messages": [{"role": "user", "content": f"{STORY}. {{}} " * 20}], "max_tokens": 2}),
            ("/responses", {"input": f"{STORY}. So {{}} " * 20, "max_output_tokens": 2}),
        ],
    )
    def test_how_far_the_prompt_is_read_is_told_where_wanted(
        self, daemon: Daemon, path: str, more: dict[str, Any]
    ) -> None:
        for is_again in (False, True):
            told = events(daemon, path, model="plain", **more, return_progress=True, timings_per_token=True)
            progress = [event["prompt_progress"] for event in told if "prompt_progress" in event]
            assert progress[0]["processed"] == progress[0]["cache"]
            assert progress[-1]["processed"] == progress[-1]["total"] > 200
            assert {each["total"] for each in progress} == {progress[0]["total"]}
            assert [each["processed"] for each in progress] == sorted({each["processed"] for each in progress})
            assert (progress[0]["cache"] > 200) is is_again
            assert any("timings" in event for event in told)

    def test_several_choices_of_one_slot(self, daemon: Daemon) -> None:
        for _ in range(2):
            assert [choice["finish_reason"] for choice in chat(daemon, n=2, id_slot=0)["choices"]] == ["length"] * 2

    def test_the_likelihoods_of_all_tokens_spell_the_text(self, daemon: Daemon) -> None:
        choice = chat(daemon, logprobs=True, top_logprobs=10)["choices"][0]
        told = choice["logprobs"]["content"]
        assert "".join(token["token"] for token in told) == choice["message"]["content"]
        assert all(token["logprob"] <= 0 and len(token["top_logprobs"]) == 10 for token in told)
        about = {"model": "plain", "messages": CHAT, "max_tokens": 8, "temperature": 0, "logprobs": True}
        pieces = [event["choices"][0] for event in events(daemon, "/chat/completions", **about)][1:-1]
        assert "".join(token["token"] for piece in pieces for token in piece["logprobs"]["content"]) == "".join(
            piece["delta"]["content"] for piece in pieces
        )

    @pytest.mark.parametrize("prefix", ["", "/v1"])
    def test_prompts_are_counted_before_they_are_sent(self, daemon: Daemon, prefix: str) -> None:
        used = chat(daemon)["usage"]["prompt_tokens"]
        assert ok(daemon, f"{prefix}/chat/completions/input_tokens", {"messages": CHAT})["input_tokens"] == used
        body = {"model": "plain", "input": CHAT}
        assert ok(daemon, f"{prefix}/responses/input_tokens", body)["input_tokens"] == used

    @pytest.mark.parametrize("streamed", [False, True])
    @pytest.mark.parametrize(
        "more", [{"tools": []}, {"tools": [{"type": "function", "function": SUM}], "tool_choice": "none"}]
    )
    def test_nothing_is_called_without_tools(self, daemon: Daemon, more: dict[str, Any], streamed: bool) -> None:
        if streamed:
            about = {"model": "plain", "messages": CHAT, "max_tokens": 24, "temperature": 0}
            assert not any("tool_calls" in json.dumps(e) for e in events(daemon, "/chat/completions", **about, **more))
        else:
            assert "tool_calls" not in chat(daemon, max_tokens=24, **more)["choices"][0]["message"]


class TestMessages:
    @pytest.mark.parametrize(
        "more",
        [
            {"system": "Be brief."},
            {"temperature": 0.5},
            {"top_p": 0.9},
            {"top_k": 40},
            {"metadata": {"user_id": "u1"}},
            {"thinking": {"type": "enabled", "budget_tokens": 1024}},
            {
                "messages": [
                    {"role": "user", "content": [{"type": "text", "text": "Name"}, {"type": "text", "text": "it"}]}
                ]
            },
            {"messages": [*CHAT[1:], {"role": "assistant", "content": "Plum."}, *CHAT[1:]]},
        ],
        ids=lambda more: next(iter(more)),
    )
    def test_anthropics_messages_are_answered_with_what_they_bring(self, daemon: Daemon, more: dict[str, Any]) -> None:
        answer = ok(daemon, "/v1/messages", {"model": "plain", "max_tokens": 8, "messages": CHAT[1:], **more})
        assert (answer["type"], answer["role"]) == ("message", "assistant")
        assert answer["stop_reason"] in ("end_turn", "max_tokens")
        assert answer["usage"]["output_tokens"] > 0
        assert answer["usage"]["input_tokens"] + answer["usage"]["cache_read_input_tokens"] > 5
        assert "timings" not in answer

    @pytest.mark.parametrize("is_error", [False, True])
    @pytest.mark.parametrize("beside", [[], [{"type": "text", "text": "Here it is."}]], ids=["alone", "beside text"])
    def test_results_of_tools_are_read(self, daemon: Daemon, beside: list[Any], is_error: bool) -> None:
        result = {"type": "tool_result", "tool_use_id": "t1", "content": "7 plums", "is_error": is_error}
        called = {"type": "tool_use", "id": "t1", "name": "count", "input": {"what": "plums"}}
        turns: list[Any] = [*CHAT[1:], {"role": "assistant", "content": [called]}]
        turns.append({"role": "user", "content": [*beside, result]})
        answer = ok(daemon, "/v1/messages", {"model": "plain", "max_tokens": 8, "messages": turns})
        assert answer["content"][0]["type"] == "text"

    @pytest.mark.parametrize("more", [{}, {"messages": []}])
    def test_without_messages_there_is_no_answer(self, daemon: Daemon, more: dict[str, Any]) -> None:
        assert "messages" in bad(daemon, "/v1/messages", {"model": "plain", "max_tokens": 8, **more})["message"]


INFILL = {"input_prefix": "def area(w, h):\n", "prompt": "    size = ", "input_suffix": "\n    return size\n"}


class TestInfill:
    @pytest.mark.parametrize("extra", [None, [{"filename": "shape.py", "text": "SIDE = 3\n"}]])
    def test_it_fills_in_with_other_files_or_without(self, daemon: Daemon, extra: object) -> None:
        answer = ok(daemon, "/infill", INFILL | {"input_extra": extra, "n_predict": 8})
        assert answer["tokens_predicted"] <= 8

    @pytest.mark.parametrize(
        "extra", [{}, {"filename": "a"}, {"filename": 7}, {"filename": 7, "text": "a"}, {"filename": 7, "text": 8}]
    )
    def test_other_files_need_a_text(self, daemon: Daemon, extra: object) -> None:
        assert "input_extra" in bad(daemon, "/infill", INFILL | {"input_extra": [extra]})["message"]


class TestVectors:
    @pytest.mark.parametrize(
        ("given", "count"),
        [
            ("the cat", 1),
            ([6, 7, 8], 1),
            (["the cat", "a dog"], 2),
            (["the cat", [6, 7, 8]], 2),
            ([[6, 7], [7, 8]], 2),
            ({"prompt_string": "the cat"}, 1),
            ({"content": [{"type": "text", "text": "the cat"}]}, 1),
            (["the cat", {"prompt_string": "a dog"}, {"content": [{"type": "text", "text": "sky"}]}], 3),
        ],
    )
    def test_inputs_are_texts_tokens_and_objects(self, daemon: Daemon, given: object, count: int) -> None:
        found = ok(daemon, "/v1/embeddings", {"model": "bert", "input": given})
        assert [len(entry["embedding"]) for entry in found["data"]] == [32] * count
        assert found["usage"]["prompt_tokens"] == found["usage"]["total_tokens"] > 0

    def test_the_parts_of_an_input_are_one_text(self, daemon: Daemon) -> None:
        parts = {"content": [{"type": "text", "text": "the "}, {"type": "text", "text": "cat"}]}
        found = ok(daemon, "/v1/embeddings", {"model": "bert", "input": ["the cat", parts]})["data"]
        assert found[0]["embedding"] == found[1]["embedding"]

    @pytest.mark.parametrize(
        "given", [[], {"content": "text"}, {"content": [{"type": "smell"}]}, {"content": [{"type": "image_url"}]}]
    )
    def test_other_inputs_are_refused(self, daemon: Daemon, given: object) -> None:
        assert "input" in bad(daemon, "/v1/embeddings", {"model": "bert", "input": given})["message"]

    def test_what_is_embedded_is_counted_as_read(self, daemon: Daemon) -> None:
        before = sums(daemon, "bert").get("prompt", 0)
        used = ok(daemon, "/v1/embeddings", {"model": "bert", "input": ["the cat", "a dog"]})["usage"]["prompt_tokens"]
        after = sums(daemon, "bert")
        assert after["prompt"] - before == used > 0
        assert after.get("completion", 0) == 0

    @pytest.mark.parametrize("given", [[], None, 7, [1, 2]])
    def test_only_texts_are_ranked(self, daemon: Daemon, given: object) -> None:
        assert "documents" in bad(daemon, "/rerank", {"query": "cat", "documents": given})["message"]

    @pytest.mark.parametrize(("top", "count"), [(None, 3), (2, 2), (99, 3)])
    def test_as_many_are_ranked_as_there_are_and_are_wanted(self, daemon: Daemon, top: int | None, count: int) -> None:
        texts = ["the cat sat", "a dog", "blue sky"]
        ranked = ok(daemon, "/rerank", {"query": "cat", "documents": texts, "top_n": top})
        assert len(ranked["results"]) == count
        assert ranked["usage"]["prompt_tokens"] == ranked["usage"]["total_tokens"] > 0
        assert len(ok(daemon, "/rerank", {"query": "cat", "texts": texts, "top_n": top})) == count


class TestSleep:
    def test_a_model_that_sleeps_is_told_of_and_wakes_when_asked(self, daemon: Daemon) -> None:
        complete(daemon, keep_alive=0)
        daemon.wait_status(lambda status: "plain" not in [model["name"] for model in status["models"]])
        assert daemon.call("/health")[0] == 200
        assert daemon.call("/props?model=plain")[1]["is_sleeping"] is True
        listed = {model["id"]: model["status"]["value"] for model in daemon.call("/models")[1]["data"]}
        assert listed["plain"] == "unloaded"
        assert "swapd_tokens_total" in daemon.call("/metrics")[1]
        body = {"model": "plain", "messages": CHAT}
        assert ok(daemon, "/chat/completions/input_tokens", body)["input_tokens"] > 0
        assert ok(daemon, "/v1/messages/count_tokens", body | {"messages": CHAT[1:]})["input_tokens"] > 0
        assert ok(daemon, "/tokenize", {"model": "plain", "content": STORY})["tokens"]
        assert daemon.call("/props?model=plain")[1]["is_sleeping"] is True
        complete(daemon, keep_alive="5m")
        assert daemon.call("/props?model=plain")[1]["is_sleeping"] is False


ROUTER = """
[catalog]
dirs = ["{folder}"]
[scheduler]
max_loaded = {most}
"""
ENTRY = '[models."{name}"]\ncontext = {context}\nslots = 1\n'


@pytest.fixture(scope="module")
def shelf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("shelf")
    for name in "abc":
        (folder / f"{name}.gguf").symlink_to(Path(models.folder()) / f"{SMOL}.gguf")
    return folder


def router(tmp: Path, shelf: Path, most: int) -> Daemon:
    common = "".join(ENTRY.format(name=name, context=512 + 16 * at) for at, name in enumerate("abc"))
    return Daemon(tmp, ROUTER.format(folder=shelf, most=most), {}, common=common).wait_ready()


@pytest.fixture(scope="module")
def one_place(tmp_path_factory: pytest.TempPathFactory, shelf: Path) -> Iterator[Daemon]:
    daemon = router(tmp_path_factory.mktemp("one"), shelf, 1)
    yield daemon
    daemon.close()


@pytest.fixture(scope="module")
def two_places(tmp_path_factory: pytest.TempPathFactory, shelf: Path) -> Iterator[Daemon]:
    daemon = router(tmp_path_factory.mktemp("two"), shelf, 2)
    yield daemon
    daemon.close()


def state(daemon: Daemon, name: str) -> str:
    return next(str(model["status"]["value"]) for model in daemon.call("/models")[1]["data"] if model["id"] == name)


def loaded(daemon: Daemon, name: str) -> None:
    assert daemon.call("/models/load", {"model": name}) == (200, {"success": True})
    daemon.wait_status(lambda _: state(daemon, name) == "loaded")


class Asked(threading.Thread):
    """A short answer wanted of a model, in a thread of its own."""

    def __init__(self, daemon: Daemon, model: str, order: list[str]) -> None:
        super().__init__()
        self._daemon, self._model, self._order = daemon, model, order
        self.status = 0
        self.start()

    def run(self) -> None:
        self.status = self._daemon.call("/completion", {"model": self._model, "prompt": "a", "n_predict": 2})[0]
        self._order.append(self._model)


@contextmanager
def busy(daemon: Daemon, model: str) -> Iterator[http.client.HTTPResponse]:
    """An answer is being given."""
    body = {"model": model, "prompt": STORY, "n_predict": 400, "ignore_eos": True}
    with opened(daemon, "/completion", body) as response:
        assert response.readline()
        yield response


def wait_queue(daemon: Daemon, count: int) -> None:
    daemon.wait_status(lambda status: len(status["queue"]) == count)


class TestRouter:
    def test_a_server_of_several_models_says_that_it_is_one(self, one_place: Daemon) -> None:
        for name in "abc":
            assert one_place.call("/models/unload", {"model": name}) == (200, {"success": True})
        one_place.wait_status(lambda status: not status["models"])
        status, props = one_place.call("/props")
        assert status == 200
        assert (props["role"], props["models_autoload"]) == ("router", True)
        assert props["build_info"]

    def test_a_stream_loads_its_model_and_an_unknown_one_is_refused_before_it_begins(self, one_place: Daemon) -> None:
        told = events(one_place, "/chat/completions", model="a", messages=CHAT, max_tokens=4)
        assert any(event["choices"][0]["delta"].get("content") for event in told if event["choices"])
        status, document = one_place.call("/chat/completions", {"model": "z", "messages": CHAT, "stream": True})
        assert (status, document["error"]["code"]) == (404, "model_not_found")

    def test_models_are_loaded_and_unloaded_by_name(self, one_place: Daemon) -> None:
        loaded(one_place, "a")
        assert one_place.call("/models/unload", {"model": "a"}) == (200, {"success": True})
        one_place.wait_status(lambda _: state(one_place, "a") == "unloaded")
        assert one_place.call("/models/load", {"model": "z"})[0] == 404

    def test_beyond_the_limit_the_one_used_longest_ago_leaves(self, two_places: Daemon) -> None:
        for name in "abc":
            loaded(two_places, name)
        assert [state(two_places, name) for name in "abc"] == ["unloaded", "loaded", "loaded"]

    def test_who_waits_does_not_evict_a_busy_model(self, one_place: Daemon) -> None:
        with busy(one_place, "a") as response:
            waiting = Asked(one_place, "b", [])
            wait_queue(one_place, 1)
            rest = response.read().decode()
            assert '"stop":true' in rest
            assert '"tokens_predicted":400' in rest
        waiting.join(60)
        assert waiting.status == 200
        assert [state(one_place, name) for name in "ab"] == ["unloaded", "loaded"]

    def test_who_wait_for_one_model_cost_one_eviction(self, two_places: Daemon) -> None:
        loaded(two_places, "b")
        loaded(two_places, "a")
        before = two_places.status()["counters"]["evictions"]
        with busy(two_places, "a"):
            waiting = [Asked(two_places, "c", []) for _ in range(3)]
            for each in waiting:
                each.join(60)
        assert [each.status for each in waiting] == [200] * 3
        assert [state(two_places, name) for name in "abc"] == ["loaded", "unloaded", "loaded"]
        assert two_places.status()["counters"]["evictions"] == before + 1

    def test_who_leaves_the_queue_costs_nobody_their_place(self, one_place: Daemon) -> None:
        with busy(one_place, "a"):
            connection = http.client.HTTPConnection("127.0.0.1", one_place.port)
            body = json.dumps({"model": "b", "prompt": "a", "n_predict": 2})
            connection.request("POST", "/completion", body, {"Content-Type": "application/json"})
            wait_queue(one_place, 1)
            connection.close()
            wait_queue(one_place, 0)
        one_place.wait_status(lambda status: all(model["state"] == "ready" for model in status["models"]))
        assert [state(one_place, name) for name in "ab"] == ["loaded", "unloaded"]

    def test_models_come_in_the_order_of_their_requests(self, one_place: Daemon) -> None:
        order: list[str] = []
        with busy(one_place, "a"):
            first = Asked(one_place, "b", order)
            wait_queue(one_place, 1)
            second = Asked(one_place, "c", order)
            wait_queue(one_place, 2)
        for each in (first, second):
            each.join(60)
        assert (first.status, second.status) == (200, 200)
        assert order == ["b", "c"]

    def test_two_who_want_one_place_are_both_served(self, one_place: Daemon) -> None:
        loaded(one_place, "a")
        waiting = [Asked(one_place, name, []) for name in "bc"]
        for each in waiting:
            each.join(60)
        assert [each.status for each in waiting] == [200, 200]
        assert state(one_place, "a") == "unloaded"

    def test_the_configuration_read_again_brings_and_takes_models(self, two_places: Daemon, shelf: Path) -> None:
        more = f'[models.fresh]\npath = "{shelf}/a.gguf"\ncontext = 256\n'
        kept = two_places.config.read_text()
        try:
            two_places.config.write_text(kept + more)
            assert two_places.call("/swapd/reload", {})[0] == 200
            assert "fresh" in {model["id"] for model in two_places.call("/models")[1]["data"]}
        finally:
            two_places.config.write_text(kept)
        assert two_places.call("/swapd/reload", {})[0] == 200
        assert "fresh" not in {model["id"] for model in two_places.call("/models")[1]["data"]}
