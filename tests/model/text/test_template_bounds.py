"""A chat template is a program out of a file: whatever it tries, it ends soon and takes little memory."""

from __future__ import annotations

import json

import jinja2
import pytest

from shoal.errors import InvalidRequest, ModelLoadError
from shoal.model.text.chat_template import ChatTemplate
from tests.model.text.hostile_templates import ENDLESS, EVERYDAY

MESSAGES = [{"role": "user", "content": "Hello"}]


@pytest.mark.parametrize("name", ENDLESS)
def test_hostile_template(name: str) -> None:
    """Refused when it is loaded, or over every message: that these tests are quick is what they prove."""
    with pytest.raises((ModelLoadError, InvalidRequest), match="the model's chat template") as refusal:
        ChatTemplate(ENDLESS[name], {}).render(MESSAGES)
    assert "\n" not in str(refusal.value)


def test_endless_template_refuses_the_model() -> None:
    with pytest.raises(ModelLoadError, match="does not finish for one message: it takes too many steps"):
        ChatTemplate(ENDLESS["two loops"], {})


def test_template_that_is_quick_over_the_sample_only() -> None:
    source = "{% if messages | length > 1 %}" + ENDLESS["two loops"] + "{% endif %}"
    template = ChatTemplate(source, {})
    assert template.render(MESSAGES) == ""
    with pytest.raises(InvalidRequest, match="too many steps"):
        template.render(MESSAGES * 2)


def test_template_that_raises_over_the_sample_is_kept() -> None:
    source = "{% if messages | length < 2 %}{{ raise_exception('two,\n please') }}{% endif %}ok"
    template = ChatTemplate(source, {})
    assert template.render(MESSAGES * 2) == "ok"
    with pytest.raises(InvalidRequest, match="two, please"):
        template.render(MESSAGES)


def test_budget_is_one_renderings() -> None:
    template = ChatTemplate("{% for i in range(9000) %}{% set x = i * 2 %}{% endfor %}done", {})
    for _ in range(8):
        assert template.render(MESSAGES) == "done"


def test_long_conversation_fits() -> None:
    source = (
        "{% for m in messages %}{% if m.role == 'user' and (loop.first or messages[loop.index0 - 1].role != m.role) %}"
        "{{ '<|' + m.role + '|>' + m.content | default('', true) | trim + '\\n' }}"
        "{% else %}{{ m['role'] ~ m.content.strip() }}{% endif %}"
        "{% if loop.last and add_generation_prompt and messages | length > 3 %}<|assistant|>{% endif %}{% endfor %}"
    )
    messages = [{"role": role, "content": "word " * 100} for role in ("user", "assistant") * 2000]
    assert ChatTemplate(source, {}).render(messages).endswith("<|assistant|>")
    gathering = (
        "{% set n = namespace(x='') %}{% for m in messages %}{% set n.x = n.x ~ m.content %}{% endfor %}{{ n.x }}"
    )
    assert len(ChatTemplate(gathering, {}).render(messages[:600])) == 300_000
    long = [{"role": "user", "content": "word " * 500_000}]
    assert len(ChatTemplate(source, {}).render(long)) > 2_490_000


@pytest.mark.parametrize("source", EVERYDAY)
def test_everyday_templates_are_as_in_transformers(source: str) -> None:
    messages = [{"role": "user", "content": "Hello"}, {"role": "assistant", "content": "é\n'<x>'"}, *MESSAGES]
    tools = [{"type": "function", "function": {"name": "f", "parameters": {"a": [1, None, "ü"]}}}]
    judge = pytest.importorskip("transformers.utils.chat_template_utils")
    (theirs,), _ = judge.render_jinja_template(
        [messages], tools=tools, chat_template=source, add_generation_prompt=True, documents=None
    )
    assert ChatTemplate(source, {}).render(messages, tools) == theirs


def test_lists_that_hold_each_other_are_no_messages() -> None:
    """What JSON can say has no cycles; this is for whoever calls the tokenizer otherwise."""
    content: list[object] = []
    content.append(content)
    with pytest.raises(InvalidRequest, match="too many steps"):
        ChatTemplate("{{ messages }}", {}).render([{"role": "user", "content": content}])


def test_jinja_has_no_filter_or_test_that_nobody_looked_at() -> None:
    """Another version of Jinja may have new ones: each is to be metered, or left out on purpose."""
    from jinja2.filters import FILTERS

    from shoal.model.text.template.filters import metered_filters

    left_out = set(FILTERS) - set(metered_filters())
    assert left_out == {
        "attr", "filesizeformat", "forceescape", "pprint", "random", "striptags", "urlencode", "urlize", "wordwrap",
        "xmlattr",
    }  # fmt: skip
    assert jinja2.__version__.startswith("3.")
    assert json.loads(ChatTemplate("{{ messages | tojson }}", {}).render(MESSAGES)) == MESSAGES
