"""An agent of the OpenAI Agents SDK with a tool: `pip install openai-agents`, then `openai_sdk.py [QUESTION]`.

Serve with --reasoning-parser nano_v3 --tool-call-parser qwen3_coder. OPENAI_BASE_URL names another address.
"""

from __future__ import annotations

import os
import sys

from openai import APIConnectionError, AsyncOpenAI, OpenAI

from agents import Agent, OpenAIChatCompletionsModel, Runner, function_tool, set_tracing_disabled

URL = os.environ.get("OPENAI_BASE_URL", "http://localhost:30000/v1")


@function_tool
def get_weather(location: str) -> str:
    """Get the current weather for a location."""
    return f"21 degrees celsius in {location}"


def main(question: str) -> None:
    """Asks, and prints the answer that comes after the tool's result."""
    # traces would go to OpenAI
    set_tracing_disabled(True)
    model = OpenAI(base_url=URL, api_key="EMPTY").models.list().data[0].id
    client = AsyncOpenAI(base_url=URL, api_key="EMPTY")
    agent = Agent(
        name="weather",
        instructions="You are a helpful assistant.",
        model=OpenAIChatCompletionsModel(model=model, openai_client=client),
        tools=[get_weather],
    )
    print(Runner.run_sync(agent, question).final_output)


if __name__ == "__main__":
    try:
        main(" ".join(sys.argv[1:]) or "What is the weather like in Santa Clara, CA?")
    except APIConnectionError:
        remedy = "`sglang serve --model-path MODEL` starts one; OPENAI_BASE_URL names another address"
        sys.exit(f"openai_sdk.py: no server answers at {URL}\n  remedy: {remedy}")
