"""Chat templates are rendered as their authors expect, and can do no harm."""

from __future__ import annotations

import re
from typing import Any

import pytest

from swapd.errors import InvalidRequest
from swapd.generation import GenerationRequest, Message, Role, Tool, ToolCall, ToolChoice
from swapd.worker import sandbox
from swapd.worker.chat import ChatTemplate, Turn
from swapd.worker.toolcalls.formats import Thinking

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


# --- tools, thinking, and what a template does not know

ADD = Tool("add", "Adds.", '{"type": "object", "properties": {"a": {"type": "integer"}}}')
CALLED = Message(Role.ASSISTANT, "", calls=(ToolCall("call_1", "add", '{"a": 1}'),))
RESULT = Message(Role.TOOL, "two", call_id="call_1", name="add")

KNOWING = (
    "{% if tools %}{% for tool in tools %}<tool_call>{{ tool | tojson }}\n{% endfor %}{% endif %}"
    "{% for m in messages %}[{{ m.role }}]{% if m.reasoning_content %}<think>{{ m.reasoning_content }}</think>"
    "{% endif %}{{ m.content }}{% for call in m.tool_calls or [] %}"
    "<tool_call>{{ call.function.name }} {{ call.function.arguments | tojson }}{% endfor %}\n{% endfor %}"
    "{% if add_generation_prompt %}[assistant]{% if enable_thinking is defined and not enable_thinking %}"
    "<think></think>{% endif %}{% endif %}"
)
ALTERNATING = (
    "{% for m in messages %}{% if m.role == 'system' or (m.role == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('roles must alternate') }}{% endif %}[{{ m.role }}]{{ m.content }}{% endfor %}"
)


def turn(template: str | None, *messages: Message, **more: Any) -> Turn:
    return ChatTemplate(template, "<s>", "</s>").render(GenerationRequest("a", messages, **more))


def test_a_template_that_knows_tools_gets_them_with_calls_and_results() -> None:
    found = turn(KNOWING, *HELLO, CALLED, RESULT, tools=(ADD,))
    assert found.form.name == "hermes"
    assert '"name": "add", "description": "Adds."' in found.text
    assert '<tool_call>add {"a": 1}' in found.text
    assert found.text.endswith("[tool]two[assistant]")


def test_arguments_are_text_for_a_template_that_writes_them_as_they_are() -> None:
    template = KNOWING.replace("{{ call.function.arguments | tojson }}", "{{ call.function.arguments + ';' }}")
    assert '<tool_call>add {"a": 1};' in turn(template, *HELLO, CALLED, tools=(ADD,)).text


def test_content_is_missing_for_a_template_that_looks_for_that() -> None:
    template = (
        "{% for m in messages %}{% if m.content is none %}{{ m.tool_calls[0].function.arguments | tojson }}"
        "{% else %}{{ m.content }}{% endif %}{% endfor %}{{ tools }}"
    )
    assert '{"a": 1}' in turn(template, *HELLO, CALLED, tools=(ADD,)).text


def test_content_is_in_parts_for_a_template_that_sees_nothing_else() -> None:
    template = "{% for m in messages %}{% for part in m.content %}{{ part.text }}{% endfor %}{% endfor %}"
    assert turn(template, *HELLO).text == HELLO[0].content


@pytest.mark.parametrize("template", [None, "{% for m in messages %}[{{ m.role }}]{{ m.content }}\n{% endfor %}"])
def test_tools_are_explained_to_a_model_whose_template_knows_none(template: str | None) -> None:
    found = turn(template, Message(Role.SYSTEM, "Be brief."), *HELLO, CALLED, RESULT, tools=(ADD,))
    assert found.form.name == "generic"
    system, rest = found.text.split(HELLO[0].content)
    assert "Be brief.\n\nYou can call these tools" in system
    assert '"properties": {"a": {"type": "integer"}}' in system
    assert '{"name": "NAME", "arguments": {"ARGUMENT": "VALUE"}}' in system
    assert '{"name": "add", "arguments": {"a": 1}}' in rest
    assert "Result of add: two" in rest
    assert "tool]" not in rest


def test_tools_that_must_not_be_called_are_not_told() -> None:
    assert "add" not in turn(None, *HELLO, tools=(ADD,), tool_choice=ToolChoice.NONE).text


def test_a_system_message_is_the_users_where_the_template_has_none() -> None:
    found = turn(ALTERNATING, Message(Role.SYSTEM, "Be brief."), Message(Role.USER, "Hi"))
    assert found.text == "[user]Be brief.\n\nHi"


def test_neighbours_of_one_role_are_one_where_the_template_wants_turns() -> None:
    found = turn(ALTERNATING, Message(Role.USER, "One"), Message(Role.USER, "Two"), Message(Role.ASSISTANT, "3"))
    assert found.text == "[user]One\n\nTwo[assistant]3"
    with pytest.raises(InvalidRequest, match="roles must alternate"):
        turn(ALTERNATING, Message(Role.ASSISTANT, "I begin"))


def test_ids_fit_where_a_template_counts_their_letters() -> None:
    template = (
        "{% for m in messages %}{% for c in m.tool_calls or [] %}"
        "{% if c.id | length != 9 %}{{ raise_exception('nine') }}{% endif %}[{{ c.id }}]"
        "{{ c.function.arguments | tojson }}{% endfor %}({{ m.tool_call_id }}){{ m.content }}{% endfor %}{{ tools }}"
    )
    text = turn(template, *HELLO, CALLED, RESULT, tools=(ADD,)).text
    found = re.search(r"\[(\w{9})\]", text)
    assert found is not None
    assert f"({found.group(1)})two" in text


@pytest.mark.parametrize(("thinking", "end"), [(None, "[assistant]"), (False, "<think></think>")])
def test_whether_to_think_is_told(thinking: bool | None, end: str) -> None:
    found = turn(KNOWING, *HELLO, thinking=thinking)
    assert found.text.endswith(end)
    assert found.thinking == Thinking("<think>", "</think>")


def test_effort_and_more_names_reach_the_template() -> None:
    template = "{{ reasoning_effort }} {{ mood }} {{ enable_thinking }}"
    more: dict[str, Any] = {"effort": "high", "template_values": '{"mood": "calm", "enable_thinking": 3}'}
    assert turn(template, *HELLO, thinking=True, **more).text == "high calm 3"


def test_thoughts_that_the_prompt_opens_are_known() -> None:
    assert turn("{{ messages[0].content }}<think>\n{# </think> #}", *HELLO).primer == "<think>\n"
    assert turn("{{ messages[0].content }}{# </think> #}", Message(Role.USER, "<think>"), *HELLO).primer == "<think>"
    assert turn("{{ messages[0].content }}<think></think>", *HELLO).primer == ""


def test_the_assistants_last_words_are_gone_on_from() -> None:
    found = turn(KNOWING, *HELLO, Message(Role.ASSISTANT, "The answer"), continues=True)
    assert found.text.endswith("[assistant]<think></think>The answer")
    thought = turn(KNOWING, *HELLO, Message(Role.ASSISTANT, "", thinking="Well, "), continues=True)
    assert thought.text.endswith("[assistant]<think>Well, ")
    assert thought.primer == "<think>Well,"
    harmony = "<|channel|><|message|>{{ messages[0].content }}<|start|>assistant"
    begun = turn(harmony, *HELLO, Message(Role.ASSISTANT, "Four", thinking="Hm"), continues=True)
    assert begun.text.endswith(
        "<|start|>assistant<|channel|>analysis<|message|>Hm<|end|><|start|>assistant<|channel|>final<|message|>Four"
    )


def test_a_request_may_bring_its_own_template() -> None:
    request = GenerationRequest("a", HELLO, template="own {{ messages | length }}")
    assert ChatTemplate("model", "", "").render(request).text == "own 1"


def test_a_second_template_is_for_tools() -> None:
    both = ChatTemplate("plain", "", "", tool_use="with {{ tools[0].function.name }}")
    assert both.render(GenerationRequest("a", HELLO)).text == "plain"
    assert both.render(GenerationRequest("a", HELLO, tools=(ADD,))).text == "with add"
