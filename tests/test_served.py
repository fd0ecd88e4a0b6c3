"""What the owner wants of requests that do not say."""

from __future__ import annotations

import pytest

from swapd.generation import GenerationRequest, Message, Role, Sampling
from swapd.served import ModelEntry, Preset

HI = Message(Role.USER, "hi")
KIND = Message(Role.SYSTEM, "Be kind.")
OWN = ModelEntry(
    sampling=Sampling(temperature=0.7, top_k=10),
    max_tokens=100,
    stop=("END",),
    system="Be kind.",
    template="{{ messages }}",
    presets=(("precise", Preset(Sampling(temperature=0.1), system="Be exact.")), ("short", Preset(max_tokens=5))),
)


def test_the_owners_word_holds_where_the_request_says_nothing() -> None:
    applied = OWN.applied(GenerationRequest("a", messages=(HI,)), Sampling(top_k=40, top_p=0.9))
    assert applied == GenerationRequest(
        "a",
        messages=(KIND, HI),
        sampling=Sampling(temperature=0.7, top_k=10, top_p=0.9),
        max_tokens=100,
        stop=("END",),
        template="{{ messages }}",
    )


def test_the_requests_own_word_comes_first() -> None:
    wanted = GenerationRequest(
        "a",
        messages=(HI,),
        sampling=Sampling(temperature=0, top_k=1),
        max_tokens=1,
        stop=("x",),
        template="{{ bos_token }}",
    )
    applied = OWN.applied(wanted, Sampling())
    assert applied.sampling == Sampling(temperature=0, top_k=1)
    assert (applied.max_tokens, applied.stop, applied.template) == (1, ("x",), "{{ bos_token }}")


@pytest.mark.parametrize("role", [Role.SYSTEM, Role.DEVELOPER])
def test_a_conversation_with_a_system_prompt_keeps_it(role: Role) -> None:
    turns = (Message(role, "Be brief."), HI)
    assert OWN.applied(GenerationRequest("a", messages=turns), Sampling()).messages == turns


def test_a_plain_prompt_gets_neither_system_prompt_nor_template() -> None:
    applied = OWN.applied(GenerationRequest("a", prompt="Once"), Sampling())
    assert (applied.prompt, applied.messages, applied.template) == ("Once", (), "")


def test_a_preset_comes_before_the_model_and_leaves_it_the_rest() -> None:
    precise = OWN.with_preset("Precise")
    assert precise is not None
    assert precise.sampling == Sampling(temperature=0.1, top_k=10)
    assert (precise.system, precise.max_tokens, precise.stop) == ("Be exact.", 100, ("END",))
    short = OWN.with_preset("short")
    assert short is not None
    assert (short.system, short.max_tokens) == ("Be kind.", 5)
    assert OWN.with_preset("other") is None
