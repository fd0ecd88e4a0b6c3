"""Every error of the contract's table, in every dialect's shape."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterator

import pytest

from swapd.api.failures import STATUS
from swapd.api.guard import GuardSettings
from swapd.errors import (
    ContextLengthExceeded,
    DoesNotFit,
    InvalidRequest,
    ModelNotFound,
    ModelUnusable,
    Overloaded,
    Stopping,
    SwapdError,
    Unloaded,
    WorkerCrashed,
)
from swapd.units import GiB
from tests.api.conftest import Client, ScriptedGateway, Serve, make_model

OPENAI = ("/v1/chat/completions", {"model": "tiny", "messages": [{"role": "user", "content": "hi"}]})
OLLAMA = ("/api/generate", {"model": "tiny", "prompt": "hi"})
SWAPD: tuple[str, dict[str, object]] = ("/swapd/models/tiny/load", {})

CASES = [
    (InvalidRequest("no", "prompt"), 400, "invalid_request", "invalid_request_error", None, None),
    (ContextLengthExceeded(5000, 4096), 400, "context_length_exceeded", "invalid_request_error", None, None),
    (ModelNotFound("tiny"), 404, "model_not_found", "invalid_request_error", None, None),
    (ModelUnusable("tiny", "it is cut off"), 422, "model_unusable", "invalid_request_error", None, "false"),
    (Overloaded("full", 1.2), 503, "overloaded", "server_error", "2", None),
    (Stopping(), 503, "stopping", "server_error", "5", None),
    (Unloaded("tiny"), 503, "unloaded", "server_error", "1", None),
    (DoesNotFit("tiny", "cuda:0", 8 * GiB, GiB, ("a",)), 507, "does_not_fit", "server_error", None, "false"),
    (WorkerCrashed("tiny", "signal 9"), 502, "worker_crashed", "server_error", "1", None),
    (KeyError("/secret"), 500, "internal_error", "server_error", None, None),
]


@pytest.mark.parametrize(
    ("is_capped", "told"),
    [
        (False, "cannot load 'tiny': it needs 8 GiB on cuda:0, and at most 1 GiB can be made free (pinned: a)"),
        (True, "cannot load 'tiny': it needs 8 GiB on cuda:0, and its max_vram allows 1 GiB there"),
    ],
)
def test_a_model_that_does_not_fit_says_whether_the_card_or_its_own_cap_is_short(is_capped: bool, told: str) -> None:
    assert DoesNotFit("tiny", "cuda:0", 8 * GiB, GiB, ("a",), is_capped).message == told


@pytest.mark.parametrize(("path", "body"), [OPENAI, OLLAMA, SWAPD])
@pytest.mark.parametrize(("error", "status", "code", "kind", "retry_after", "should_retry"), CASES)
async def test_each_case_has_its_status_code_and_shape(
    client: Client,
    gateway: ScriptedGateway,
    path: str,
    body: dict[str, object],
    error: Exception,
    status: int,
    code: str,
    kind: str,
    retry_after: str | None,
    should_retry: str | None,
) -> None:
    gateway.refusal = error
    response = await client.post(path, json=body)
    assert response.status == status
    assert response.headers.get("Retry-After") == retry_after
    assert response.headers.get("x-should-retry") == should_retry
    text = await response.text()
    assert "secret" not in text
    document = json.loads(text)
    assert list(document) == ["error"]
    said = document["error"]
    if path == OPENAI[0]:
        sizes = {"n_prompt_tokens", "n_ctx"} if code == "context_length_exceeded" else set()
        assert set(said) == {"message", "type", "param", "code"} | sizes
        assert (said["code"], said["type"]) == (code, kind)
    elif path == OLLAMA[0]:
        assert isinstance(said, str)
    else:
        assert said["code"] == code
    gateway.refusal = None
    assert (await client.post(path, json=body)).status == 200


async def test_both_numbers_of_a_prompt_that_is_too_long(client: Client, gateway: ScriptedGateway) -> None:
    gateway.refusal = ContextLengthExceeded(5000, 4096)
    response = await client.post(SWAPD[0], json=SWAPD[1])
    error = (await response.json())["error"]
    assert (error["prompt"], error["context"]) == (5000, 4096)


def test_every_error_of_ours_has_a_status() -> None:
    def below(kind: type[SwapdError]) -> Iterator[type[SwapdError]]:
        for child in kind.__subclasses__():
            yield child
            yield from below(child)

    ours = {kind for kind in below(SwapdError) if kind.__module__ == "swapd.errors"}
    assert ours == set(STATUS)


@pytest.mark.parametrize("path", ["/v1/nope", "/api/nope", "/swapd/nope", "/nope", "/v1", "/swapd/models/tiny/nope"])
async def test_unknown_paths_in_the_dialect_of_the_path(client: Client, path: str) -> None:
    response = await client.post(path)
    assert response.status == 404
    error = (await response.json())["error"]
    if path.startswith("/api/"):
        assert path in error
    elif path.startswith("/v1/"):
        assert (error["type"], error["code"]) == ("invalid_request_error", "not_found")
    else:
        assert error["code"] == "not_found"


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("GET", "/v1/chat/completions", "POST"),
        ("DELETE", "/v1/models", "GET, HEAD"),
        ("GET", "/api/generate", "POST"),
        ("POST", "/api/tags", "GET, HEAD"),
        ("GET", "/swapd/reload", "POST"),
    ],
)
async def test_wrong_methods_say_which_are_right(client: Client, method: str, path: str, allowed: str) -> None:
    response = await client.request(method, path)
    assert response.status == 405
    assert response.headers["Allow"] == allowed
    error = (await response.json())["error"]
    assert "takes" in (error if isinstance(error, str) else error["message"])


@pytest.mark.parametrize(("path", "body"), [OPENAI, OLLAMA])
async def test_a_body_over_the_limit_is_refused_by_length_and_by_count(
    serve: Serve, path: str, body: dict[str, object]
) -> None:
    client = await serve(GuardSettings(max_body=1000))

    async def drip() -> AsyncIterator[bytes]:
        for _ in range(20):
            yield b" " * 100

    for data in (b" " * 1001, drip()):
        response = await client.post(path, data=data)
        assert response.status == 413
        said = (await response.json())["error"]
        assert "1000 B" in (said if isinstance(said, str) else said["message"])
    assert (await client.post(path, json=body)).status == 200


async def test_every_answer_carries_a_request_id(client: Client) -> None:
    for path in ("/", "/health", "/nope", "/v1/models/nope"):
        assert len((await client.get(path)).headers["X-Request-Id"]) == 16


@pytest.mark.parametrize(("given", "is_taken"), [("abc-1", True), ("x" * 64, True), ("x" * 65, False), ("a b", False)])
async def test_a_callers_own_request_id_is_kept_if_it_is_short_and_printable(
    client: Client, gateway: ScriptedGateway, given: str, is_taken: bool
) -> None:
    answers = [await client.post(OPENAI[0], json=OPENAI[1], headers={"X-Request-Id": given}) for _ in range(2)]
    for answer in answers:
        assert (answer.headers["X-Request-Id"] == given) is is_taken
    ids = [ask.request.id for ask in gateway.asks]
    assert len(set(ids)) == 2, "what callers repeat is told apart inside"
    assert all(id_.startswith(answer.headers["X-Request-Id"]) for id_, answer in zip(ids, answers, strict=True))


async def test_names_that_no_header_can_carry_are_encoded(client: Client, gateway: ScriptedGateway) -> None:
    gateway.known["é\n"] = make_model("é\n")
    response = await client.post(OPENAI[0], json={**OPENAI[1], "model": "é\n"})
    assert response.headers["X-Swapd-Model"] == "%C3%A9%0A"
