"""Frameworks that people build agents with, unchanged: two tools, five turns, streams and outputs of a given form.

Importing one takes seconds, so `make test` runs one of them and `make test-all` all.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Generator
from typing import Any

import openai
import pytest
from pydantic import BaseModel

from tests.server.clients.agent import ANSWER, QUESTION, RESULTS, STEPS, TOOLS, add, serve_agent, weather
from tests.server.running_server import MODEL, RunningServer

pytestmark = pytest.mark.filterwarnings("ignore")
"""Of the frameworks themselves."""
MOST_TURNS = 8


class Place(BaseModel):
    """An output of a given form."""

    city: str
    degrees: int


@pytest.fixture(scope="module")
def agent() -> Generator[RunningServer, None, None]:
    with serve_agent() as running:
        yield running


def schema(name: str) -> dict[str, Any]:
    """A tool as OpenAI has it."""
    kinds = {"city": "string"} if name == "weather" else {"a": "integer", "b": "integer"}
    properties = {field: {"type": kind} for field, kind in kinds.items()}
    parameters = {"type": "object", "properties": properties, "required": list(kinds)}
    return {"type": "function", "function": {"name": name, "description": "x", "parameters": parameters}}


def test_a_plain_loop(agent: RunningServer) -> None:
    messages: list[Any] = [{"role": "user", "content": QUESTION}]
    with openai.OpenAI(base_url=f"{agent.url}/v1", api_key="x", max_retries=0) as client:
        for _ in range(MOST_TURNS):
            answer = client.chat.completions.create(
                model=MODEL, messages=messages, tools=[schema(one) for one in TOOLS]
            )
            message = answer.choices[0].message
            messages.append(message)
            if not message.tool_calls:
                break
            for call in message.tool_calls:
                assert call.type == "function"
                result = TOOLS[call.function.name](**json.loads(call.function.arguments))
                messages.append({"role": "tool", "tool_call_id": call.id, "content": result})
    assert messages[-1].content == ANSWER
    assert [one["content"] for one in messages[2::2]] == list(RESULTS)


def langchain_openai(url: str) -> None:
    from langchain_openai import ChatOpenAI

    _langchain(ChatOpenAI(model=MODEL, base_url=f"{url}/v1", api_key="x", max_retries=0))  # type: ignore[arg-type]


def langchain_responses(url: str) -> None:
    from langchain_openai import ChatOpenAI

    model = ChatOpenAI(model=MODEL, base_url=f"{url}/v1", api_key="x", max_retries=0, use_responses_api=True)  # type: ignore[arg-type]
    _langchain(model)


def langchain_anthropic(url: str) -> None:
    from langchain_anthropic import ChatAnthropic

    _langchain(ChatAnthropic(model=MODEL, base_url=url, api_key="x", max_retries=0))  # type: ignore[call-arg, arg-type]


def _langchain(model: Any) -> None:
    from langchain_core.messages import HumanMessage, ToolMessage
    from langchain_core.tools import tool

    tools = {function.__name__: tool(function) for function in (weather, add)}
    bound = model.bind_tools(list(tools.values()))
    messages: list[Any] = [HumanMessage(QUESTION)]
    for _ in range(MOST_TURNS):
        messages.append(bound.invoke(messages))
        if not messages[-1].tool_calls:
            break
        calls = messages[-1].tool_calls
        messages += [ToolMessage(tools[call["name"]].invoke(call["args"]), tool_call_id=call["id"]) for call in calls]
    assert messages[-1].text == ANSWER
    assert [one.content for one in messages if isinstance(one, ToolMessage)] == list(RESULTS)
    chunks = list(model.stream("say:one two three"))
    assert "".join(chunk.text for chunk in chunks) == "one two three"
    assert len(chunks) > 1
    place = model.with_structured_output(Place, method="json_schema").invoke('say:{"city":"Rom","degrees":19}')
    assert place == Place(city="Rom", degrees=19)


def litellm(url: str) -> None:
    import os

    os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"
    from litellm import completion, text_completion

    common: dict[str, Any] = {"model": f"openai/{MODEL}", "api_base": f"{url}/v1", "api_key": "x"}
    messages: list[Any] = [{"role": "user", "content": QUESTION}]
    for _ in range(MOST_TURNS):
        message = completion(messages=messages, tools=[schema(one) for one in TOOLS], **common).choices[0].message
        messages.append(message)
        if not message.tool_calls:
            break
        for call in message.tool_calls:
            result = TOOLS[call.function.name](**json.loads(call.function.arguments))
            messages.append({"role": "tool", "tool_call_id": call.id, "content": result})
    assert messages[-1].content == ANSWER
    say = [{"role": "user", "content": "say:one two"}]
    chunks = completion(messages=say, stream=True, **common)
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == "one two"
    claude: dict[str, Any] = {"model": f"anthropic/{MODEL}", "api_base": url, "api_key": "x"}
    assert completion(messages=say, max_tokens=50, **claude).choices[0].message.content == "one two"
    text: dict[str, Any] = {**common, "model": f"text-completion-openai/{MODEL}"}
    assert text_completion(prompt="say:three", **text).choices[0].text == "three"


def openai_agents(url: str) -> None:
    from agents import (
        Agent,
        OpenAIChatCompletionsModel,
        OpenAIResponsesModel,
        Runner,
        function_tool,
        set_tracing_disabled,
    )

    set_tracing_disabled(True)

    async def run(kind: Any) -> None:
        async with openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="x", max_retries=0) as client:
            tools = [function_tool(function) for function in (weather, add)]
            model = kind(model=MODEL, openai_client=client)
            agent = Agent(name="Agent", instructions="Use the tools.", model=model, tools=tools)
            result = await Runner.run(agent, QUESTION, max_turns=len(STEPS) + 1)
            assert result.final_output == ANSWER
            streamed = Runner.run_streamed(agent, QUESTION, max_turns=len(STEPS) + 1)
            kinds = [event.type async for event in streamed.stream_events()]
            assert kinds.count("run_item_stream_event") >= 2 * len(STEPS) + 1
            assert streamed.final_output == ANSWER

    for kind in (OpenAIChatCompletionsModel, OpenAIResponsesModel):
        asyncio.run(run(kind))


@pytest.mark.sample(every=5)
@pytest.mark.parametrize(
    "framework", [langchain_openai, langchain_responses, langchain_anthropic, litellm, openai_agents]
)
def test_frameworks(agent: RunningServer, framework: Callable[[str], None]) -> None:
    framework(agent.url)
