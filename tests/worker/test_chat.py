"""Chat templates are rendered as their authors expect, and can do no harm."""

from __future__ import annotations

import re

import pytest

from swapd.errors import InvalidRequest
from swapd.generation import GenerationRequest, Message, Role
from swapd.worker import sandbox
from swapd.worker.chat import ChatTemplate

HELLO = (Message(Role.USER, "Hello <you> & 'me'"),)


def render(template: str | None, messages: tuple[Message, ...] = HELLO) -> str:
    return ChatTemplate(template, "<s>", "</s>").render(GenerationRequest("a", messages)).text


def refused(template: str, messages: tuple[Message, ...] = HELLO) -> str:
    """Why the template is refused."""
    with pytest.raises(InvalidRequest) as caught:
        render(template, messages)
    return caught.value.message


def test_a_file_without_a_template_gets_chatml() -> None:
    template = ChatTemplate(None, "", "")
    assert template.source == "chatml"
    request = GenerationRequest("a", (Message(Role.SYSTEM, "Be brief."), Message(Role.USER, "Hi")))
    assert template.render(request).text == (
        "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"
    )


def test_the_names_that_templates_lean_on_are_there() -> None:
    template = (
        "{{ bos_token }}{% for message in messages %}{% if loop.index > 5 %}{% break %}{% endif %}"
        "{{ message['role'] }}:{{ message.content | trim }}{% endfor %}{{ eos_token }}"
        "{% if add_generation_prompt %}!{% endif %}{% if tools is not none %}tools{% endif %}"
    )
    assert render(template) == "<s>user:Hello <you> & 'me'</s>!"


def test_blocks_leave_no_blank_lines() -> None:
    assert render("  {% if true %}\nx\n  {% endif %}\ny") == "x\ny"


def test_json_is_not_escaped_for_html() -> None:
    assert render("{{ {'a': messages[0].content} | tojson }}") == '{"a": "Hello <you> & \'me\'"}'
    assert render("{{ {'b': 'é', 'a': 1} | tojson(indent=1) }}") == '{\n "b": "é",\n "a": 1\n}'


def test_todays_date_is_there() -> None:
    assert re.fullmatch(r"\d{4}-\d\d-\d\d", render("{{ strftime_now('%Y-%m-%d') }}"))


def test_marks_for_training_are_plain_content() -> None:
    assert render("a{% generation %}b{{ bos_token }}{% endgeneration %}c") == "ab<s>c"


def test_developer_is_system() -> None:
    assert render("{{ messages[0].role }}", (Message(Role.DEVELOPER, ""),)) == "system"


def test_a_template_that_refuses_says_why() -> None:
    reason = refused("{{ raise_exception('Conversation roles must alternate') }}")
    assert "Conversation roles must alternate" in reason


@pytest.mark.parametrize("template", ["{% if %}", "{{ 1 / 0 }}", "{{ messages[7].content }}", "{{ nothing() }}"])
def test_a_broken_template_is_the_requests_error(template: str) -> None:
    assert "cannot use the model's chat template" in refused(template)


@pytest.mark.parametrize(
    "template",
    [
        "{{ ''.__class__.__mro__[1].__subclasses__() }}",
        "{{ messages.__init__.__globals__ }}",
        "{{ raise_exception.__globals__['os'].system('true') }}",
        "{{ cycler.__init__.__globals__.os.environ }}",
        "{{ (messages | attr('__class__')).mro() }}",
        "{{ '{0.__class__.__init__.__globals__}'.format(raise_exception) }}",
        "{{ messages.append(1) }}",
        "{{ messages[0].update(role='system') }}",
        "{% include '/etc/passwd' %}",
    ],
)
def test_the_sandbox_holds(template: str) -> None:
    """Whatever these reach is undefined or refused: nothing of Python's comes out."""
    try:
        text = render(template)
    except InvalidRequest:
        return
    assert text == ""


@pytest.mark.parametrize(
    "template",
    [
        "{{ 'a' * 5000000000 }}",
        "{{ '%05000000000d' % 1 }}",
        "{{ 'a'.center(5000000000) }}",
        "{% set n = namespace(s='a') %}{% for i in range(60) %}{% set n.s = n.s ~ n.s %}{% endfor %}",
        "{% for i in range(100000) %}{{ 'aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa' }}{% endfor %}",
        "{{ 9 ** 999999999 }}",
        "{{ range(999999999999) | list }}",
    ],
)
def test_a_template_cannot_eat_the_machine(template: str) -> None:
    refused(template)


def test_a_template_cannot_run_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sandbox, "TIME_LIMIT", 0.2)
    loop = "{% for a in range(100000) %}{% for b in range(100000) %}{% endfor %}{% endfor %}"
    assert "not done after 0.2 s" in refused(loop)
    assert render("x") == "x"
