"""Pictures as each dialect sends them: what the gateway is asked, and what is refused and how."""

from __future__ import annotations

import base64
import struct
from typing import Any

import pytest

from swapd.generation import GenerationRequest
from tests.api.conftest import Client, ScriptedGateway
from tests.gguf_models import picture

RED, BLUE = picture((220, 20, 20)), picture((20, 20, 220))
B64 = base64.b64encode(RED).decode()
URL = f"data:image/png;base64,{B64}"
CHAT, RESPONSES, MESSAGES = "/v1/chat/completions", "/v1/responses", "/v1/messages"
OLLAMA, GENERATE, COMPLETION = "/api/chat", "/api/generate", "/completion"


def a_picture(path: str, given: str, text: str = "What is this?") -> dict[str, Any]:
    """A request of each dialect with one picture before its question; `given` is the base64."""
    url = given if given.startswith(("http", "data:")) else f"data:image/png;base64,{given}"
    source = {"type": "base64", "media_type": "image/png", "data": given}
    bodies: dict[str, dict[str, Any]] = {
        CHAT: {
            "messages": [
                {
                    "role": "user",
                    "content": [{"type": "image_url", "image_url": {"url": url}}, {"type": "text", "text": text}],
                }
            ]
        },
        RESPONSES: {
            "input": [
                {
                    "role": "user",
                    "content": [{"type": "input_image", "image_url": url}, {"type": "input_text", "text": text}],
                }
            ]
        },
        MESSAGES: {
            "max_tokens": 8,
            "messages": [
                {"role": "user", "content": [{"type": "image", "source": source}, {"type": "text", "text": text}]}
            ],
        },
        OLLAMA: {"stream": False, "messages": [{"role": "user", "content": text, "images": [given]}]},
        GENERATE: {"stream": False, "prompt": text, "images": [given]},
        COMPLETION: {"prompt": {"prompt_string": f"<__media__>{text}", "multimodal_data": [given]}},
    }
    return {"model": "tiny", **bodies[path]}


ALL = (CHAT, RESPONSES, MESSAGES, OLLAMA, GENERATE, COMPLETION)


def asked(gateway: ScriptedGateway) -> GenerationRequest:
    return gateway.asks[-1].request


def shown(request: GenerationRequest) -> str:
    """The text that is asked about, each picture as its first bytes' colour."""
    text = request.messages[-1].content if request.messages else str(request.prompt)
    for image in request.pictures:
        assert text.count(image.marker) == 1
        text = text.replace(image.marker, {RED: "{red}", BLUE: "{blue}"}[image.data])
    return text


@pytest.mark.parametrize("path", ALL)
async def test_a_picture_comes_with_its_place_in_the_text(client: Client, gateway: ScriptedGateway, path: str) -> None:
    response = await client.post(path, json=a_picture(path, B64))
    assert response.status == 200, await response.text()
    assert shown(asked(gateway)) == "{red}What is this?"


@pytest.mark.parametrize("path", ALL)
async def test_nobodys_own_words_are_taken_for_a_picture(client: Client, gateway: ScriptedGateway, path: str) -> None:
    """Not even the marker of the request before."""
    await client.post(path, json=a_picture(path, B64))
    (image,) = asked(gateway).pictures
    words = f"{image.marker} <__media__> <image> [img-0]".replace("<__media__> " if path == COMPLETION else "\0", "")
    await client.post(path, json=a_picture(path, B64, words))
    assert shown(asked(gateway)) == f"{{red}}{words}"
    assert asked(gateway).pictures[0].marker not in words


async def test_texts_and_pictures_keep_their_order(client: Client, gateway: ScriptedGateway) -> None:
    blue = f"data:image/png;base64,{base64.b64encode(BLUE).decode()}"
    parts = [
        {"type": "text", "text": "First"},
        {"type": "text", "text": "this:"},
        {"type": "image_url", "image_url": {"url": URL}},
        {"type": "image_url", "image_url": blue},
        {"type": "text", "text": "And?"},
    ]
    await client.post(CHAT, json={"model": "tiny", "messages": [{"role": "user", "content": parts}]})
    assert shown(asked(gateway)) == "First\nthis:{red}{blue}And?"


async def test_results_of_tools_may_be_pictures(client: Client, gateway: ScriptedGateway) -> None:
    source = {"type": "base64", "media_type": "image/png", "data": B64}
    result = {"type": "tool_result", "tool_use_id": "t1", "content": [{"type": "image", "source": source}]}
    call = {"type": "tool_use", "id": "t1", "name": "look", "input": {}}
    messages = [
        {"role": "user", "content": "Look."},
        {"role": "assistant", "content": [call]},
        {"role": "user", "content": [result]},
    ]
    response = await client.post(MESSAGES, json={"model": "tiny", "max_tokens": 8, "messages": messages})
    assert response.status == 200
    assert shown(asked(gateway)) == "{red}"


def png_of(width: int, height: int) -> bytes:
    return RED[:16] + struct.pack(">II", width, height) + RED[24:]


def encoded(data: bytes) -> str:
    return base64.b64encode(data).decode()


@pytest.mark.parametrize("path", ALL)
@pytest.mark.parametrize(
    ("given", "words"),
    [
        ("not base64!", "not in base64"),
        ("", "empty"),
        (encoded(b"RIFF\0\0\0\0WEBPVP8 "), "WebP; PNG, JPEG, GIF and BMP are read"),
        (encoded(b"\0\0\0 ftypavif"), "HEIF or AVIF"),
        (encoded(b"GIF89a"), "cut off"),
        (encoded(RED[:18]), "cut off"),
        (encoded(b"\xff\xd8\xff\xe0\0\x10JFIF"), "cut off"),
        (encoded(b"hello, world"), "of no kind that is known"),
        (encoded(png_of(20_000, 20_000)), "20000 x 20000 pixels; at most 50 million"),
        (encoded(png_of(40_000, 1)), "32768 on a side"),
        (encoded(png_of(0, 7)), "no pixels"),
    ],
)
async def test_what_is_no_picture_is_refused_in_the_dialects_own_shape(
    client: Client, gateway: ScriptedGateway, path: str, given: str, words: str
) -> None:
    response = await client.post(path, json=a_picture(path, given))
    answer = await response.json()
    assert response.status == 400
    error = answer["error"]
    assert words in (error if isinstance(error, str) else error["message"])
    assert gateway.asks == []


@pytest.mark.parametrize(
    ("path", "body"),
    [
        (CHAT, a_picture(CHAT, "https://example.org/cat.png")),
        (CHAT, a_picture(CHAT, "http://169.254.169.254/latest/meta-data")),
        (RESPONSES, a_picture(RESPONSES, "https://example.org/cat.png")),
        (
            MESSAGES,
            {
                "model": "tiny",
                "max_tokens": 8,
                "messages": [
                    {"role": "user", "content": [{"type": "image", "source": {"type": "url", "url": "https://x.org"}}]}
                ],
            },
        ),
    ],
)
async def test_nothing_is_fetched(client: Client, gateway: ScriptedGateway, path: str, body: dict[str, Any]) -> None:
    response = await client.post(path, json=body)
    assert response.status == 400
    assert "images are not fetched" in await response.text()
    assert gateway.asks == []


@pytest.mark.parametrize(
    ("path", "body", "words"),
    [
        (OLLAMA, {"messages": [{"role": "user", "content": "x", "images": [B64] * 33}]}, "at most 32 images"),
        (OLLAMA, {"messages": [{"role": "user", "content": "x", "images": [B64] * 17}] * 2}, "at most 32 images"),
        (OLLAMA, {"messages": [{"role": "user", "content": "x", "images": B64}]}, "a list of images"),
        (GENERATE, {"prompt": "x", "images": [B64], "suffix": "y"}, "no place with a suffix"),
        (GENERATE, {"prompt": "x", "images": [B64], "context": [1]}, "no place with 'context'"),
        (COMPLETION, {"prompt": {"prompt_string": "x", "multimodal_data": [B64]}}, "has 0 of the markers"),
        (COMPLETION, {"prompt": {"prompt_string": "<__media__>"}}, "'multimodal_data' 0 images"),
        (COMPLETION, {"prompt": {"multimodal_data": [B64]}}, "an object of 'prompt_string'"),
        (RESPONSES, {"input": [{"content": [{"type": "input_image", "file_id": "f"}], "role": "user"}]}, "'file_id'"),
    ],
)
async def test_limits_and_what_does_not_go_together(
    client: Client, path: str, body: dict[str, Any], words: str
) -> None:
    response = await client.post(path, json={"model": "tiny", "stream": False, **body})
    assert response.status == 400
    assert words in await response.text()


async def test_a_jpegs_size_is_found_behind_what_cameras_write_before_it(
    client: Client, gateway: ScriptedGateway
) -> None:
    frame = struct.pack(">BHHB", 8, 30_000, 30_000, 3)
    head = b"\xff\xd8\xff\xe1" + struct.pack(">H", 102) + bytes(100) + b"\xff\xff\xc0" + struct.pack(">H", 17) + frame
    response = await client.post(CHAT, json=a_picture(CHAT, encoded(head + bytes(20))))
    assert response.status == 400
    assert "30000 x 30000 pixels" in await response.text()
