"""Agents with a tool, from question to answer: what their libraries send is answered, and the examples run.

The bodies are those that openai-agents 0.24.0 and langchain 1.5.2 sent; the streamed one is of the kind that coding
agents over the AI SDK send (parts of text, a schema with `$schema`, usage at the end).
"""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
from openai import OpenAI

from sglang_nemotron.cli.server import ServerProcess
from support.examples import EXAMPLES, NOWHERE
from support.scripted import SCRIPTED, script
from support.waiting import NET_S

AGENTS = EXAMPLES / "agents"
PROGRAMS = sorted(path.name for path in AGENTS.glob("*.py"))
ANSWER = "It is warm there."
# the tool's result brings its argument back, and with it what the model says next
PLACE = script(f"Warm.</think>{ANSWER}")
CALL = f"<tool_call>\n<function=get_weather>\n<parameter=location>\n{PLACE}\n</parameter>\n</function>\n</tool_call>"
QUESTION = script(f"I look it up.</think>\n{CALL}")

_LOCATION = {"properties": {"location": {"type": "string"}}, "required": ["location"], "type": "object"}
_FUNCTION = {"name": "get_weather", "description": "Get the current weather for a location.", "parameters": _LOCATION}
BODIES: dict[str, dict[str, Any]] = {
    "openai_sdk.py": {
        "messages": [
            {"content": "You are a helpful assistant.", "role": "system"},
            {"role": "user", "content": QUESTION},
        ],
        "tools": [
            {
                "type": "function",
                "function": {
                    **_FUNCTION,
                    "parameters": {**_LOCATION, "title": "get_weather_args", "additionalProperties": False},
                    "strict": True,
                },
            }
        ],
    },
    "langchain_agent.py": {
        "stream": False,
        "messages": [
            {"content": "You are a helpful assistant.", "role": "system"},
            {"content": QUESTION, "role": "user"},
        ],
        "temperature": 0.6,
        "tools": [{"type": "function", "function": _FUNCTION}],
    },
    "coding agents": {
        "stream": True,
        "stream_options": {"include_usage": True},
        "max_tokens": 512,
        "temperature": 0,
        "tool_choice": "auto",
        "messages": [
            {"role": "system", "content": "You are a helpful assistant."},
            {"role": "user", "content": [{"type": "text", "text": "Please:"}, {"type": "text", "text": QUESTION}]},
        ],
        "tools": [
            {
                "type": "function",
                "function": {
                    **_FUNCTION,
                    "parameters": {
                        "$schema": "http://json-schema.org/draft-07/schema#",
                        **_LOCATION,
                        "additionalProperties": False,
                    },
                },
            }
        ],
    },
}


def reply(server: ServerProcess, body: dict[str, Any]) -> tuple[str | None, list[dict[str, Any]]]:
    """Content and calls of an answer, streamed or not."""
    client = OpenAI(base_url=f"{server.url}/v1", api_key="EMPTY", max_retries=0, timeout=NET_S)
    answer = client.chat.completions.create(model=client.models.list().data[0].id, **body)
    if not body.get("stream"):
        message = answer.choices[0].message
        return message.content, [call.model_dump(exclude_none=True) for call in message.tool_calls or []]
    content, calls = "", {}
    for chunk in answer:
        for choice in chunk.choices:
            content += choice.delta.content or ""
            for call in choice.delta.tool_calls or []:
                kept = calls.setdefault(
                    call.index, {"id": call.id, "type": "function", "function": {"name": "", "arguments": ""}}
                )
                kept["function"]["name"] += call.function.name or ""
                kept["function"]["arguments"] += call.function.arguments or ""
    return content or None, list(calls.values())


@pytest.mark.server(SCRIPTED)
@pytest.mark.parametrize("name", sorted(BODIES))
def test_what_agents_send_is_answered(name: str, server: ServerProcess) -> None:
    body = BODIES[name]
    content, calls = reply(server, body)
    # the content is what stands beside a call, if that is more than its line end
    assert not (content or "").strip()
    (call,) = calls
    assert call["id"] and call["function"]["name"] == "get_weather"
    assert json.loads(call["function"]["arguments"]) == {"location": PLACE}

    kept = {"id": call["id"], "type": "function", "function": call["function"]}
    result = {"role": "tool", "tool_call_id": call["id"], "content": f"21 degrees celsius in {PLACE}"}
    asked = {"role": "assistant", "content": None, "tool_calls": [kept]}
    content, calls = reply(server, {**body, "messages": [*body["messages"], asked, result]})
    assert (content, calls) == (ANSWER, [])


def test_every_program_has_a_body() -> None:
    assert sorted(set(BODIES) - {"coding agents"}) == PROGRAMS


def agents_python(name: str) -> str:
    """The Python of an environment that has the program's library; skips where none is named."""
    library = {"openai_sdk.py": "openai-agents", "langchain_agent.py": "langchain langchain-openai"}[name]
    python = os.environ.get("AGENTS_PYTHON")
    if not python:
        pytest.skip(
            f"SGLang pins another openai client than {library}: `python -m venv X && X/bin/pip install {library}`, "
            "then AGENTS_PYTHON=X/bin/python"
        )
    return python


def run_agent(name: str, url: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    # not what this process finds: another environment's packages
    env = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    return subprocess.run(
        [agents_python(name), AGENTS / name, *arguments],
        env={**env, "OPENAI_BASE_URL": f"{url}/v1"},
        capture_output=True,
        text=True,
        timeout=NET_S,
    )


@pytest.mark.server(SCRIPTED)
@pytest.mark.parametrize("name", PROGRAMS)
def test_the_program_answers(name: str, server: ServerProcess) -> None:
    done = run_agent(name, server.url, QUESTION)
    assert (done.returncode, done.stdout) == (0, f"{ANSWER}\n"), done.stderr


@pytest.mark.parametrize("name", PROGRAMS)
def test_the_program_without_a_server(name: str) -> None:
    done = run_agent(name, NOWHERE)
    assert (done.returncode, done.stdout) == (1, "")
    reason, remedy = done.stderr.splitlines()
    assert reason == f"{name}: no server answers at {NOWHERE}/v1" and remedy.startswith("  remedy: `sglang serve")


def test_settings_of_opencode_and_cline_name_what_is_served() -> None:
    settings = json.loads((AGENTS / "opencode.json").read_text())
    provider, _, model = settings["model"].partition("/")
    entry = settings["provider"][provider]
    assert model in entry["models"] and entry["npm"] == "@ai-sdk/openai-compatible"
    root = Path(__file__).parents[2]
    context = json.loads((root / "tests" / "data" / "nano-30b-a3b.config.json").read_text())["max_position_embeddings"]
    assert entry["models"][model]["limit"]["context"] == context
    text = (AGENTS / "README.md").read_text()
    assert f"--model-path {model} " in text and f"| Model ID | `{model}`" in text
    assert f"| Base URL | `{entry['options']['baseURL']}` |" in text and f"| `{context}`, or" in text
