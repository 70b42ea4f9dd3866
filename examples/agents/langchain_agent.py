"""A LangChain agent with a tool: `pip install langchain langchain-openai`, then `langchain_agent.py [QUESTION]`.

Serve with --reasoning-parser nano_v3 --tool-call-parser qwen3_coder. OPENAI_BASE_URL names another address.
"""

from __future__ import annotations

import os
import sys

from langchain.agents import create_agent
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI
from openai import APIConnectionError, OpenAI
from pydantic import SecretStr

URL = os.environ.get("OPENAI_BASE_URL", "http://localhost:30000/v1")


@tool
def get_weather(location: str) -> str:
    """Get the current weather for a location."""
    return f"21 degrees celsius in {location}"


def main(question: str) -> None:
    """Asks, and prints the answer that comes after the tool's result."""
    model = OpenAI(base_url=URL, api_key="EMPTY").models.list().data[0].id
    chat = ChatOpenAI(model=model, base_url=URL, api_key=SecretStr("EMPTY"), temperature=0.6)
    agent = create_agent(chat, tools=[get_weather], system_prompt="You are a helpful assistant.")
    print(agent.invoke({"messages": [{"role": "user", "content": question}]})["messages"][-1].content)


if __name__ == "__main__":
    try:
        main(" ".join(sys.argv[1:]) or "What is the weather like in Santa Clara, CA?")
    except APIConnectionError:
        remedy = "`sglang serve --model-path MODEL` starts one; OPENAI_BASE_URL names another address"
        sys.exit(f"langchain_agent.py: no server answers at {URL}\n  remedy: {remedy}")
