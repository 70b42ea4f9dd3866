"""A batch without a server: SGLang's engine in this program, with this package's model classes.

`engine_offline.py [MODEL]`, a folder or an id; without one, a tiny checkpoint of random weights, whose words mean
nothing. SGLang starts processes that import this file again, so what runs must stand behind `if __name__`.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import sglang as sgl

from sglang_nemotron.checkpoint.spec import PRESETS
from sglang_nemotron.checkpoint.writer import write_checkpoint

QUESTIONS = ("What is a mixture of experts?", "Write a haiku about GPUs.", "What is the derivative of x^3 sin(x)?")


def answers(model: str) -> list[str]:
    """One answer to each question, all of them in one batch."""
    engine = sgl.Engine(model_path=model, log_level="error")
    try:
        tokenizer = engine.tokenizer_manager.tokenizer
        prompts = [
            tokenizer.apply_chat_template(
                [{"role": "user", "content": question}],
                tokenize=False,
                add_generation_prompt=True,
                enable_thinking=False,
            )
            for question in QUESTIONS
        ]
        replies = engine.generate(prompts, {"temperature": 0, "max_new_tokens": 32})
        return [reply["text"] for reply in replies]
    finally:
        engine.shutdown()


def main() -> int:
    """Returns 0, or 1 if there is no such model."""
    with tempfile.TemporaryDirectory(prefix="engine-offline-") as folder:
        model = sys.argv[1] if len(sys.argv) > 1 else folder
        if len(sys.argv) == 1:
            write_checkpoint(PRESETS["tiny"], Path(folder), overwrite=True)
        # an id is for SGLang to find
        if Path(model).is_absolute() and not Path(model).is_dir():
            return _fail(f"there is no folder {model}")
        try:
            said = answers(model)
        except (ValueError, OSError) as error:
            return _fail(f"{model}: {' '.join(str(error).split())}")
    for question, answer in zip(QUESTIONS, said, strict=True):
        print(f"{question}\n  {answer}")
    return 0


def _fail(reason: str) -> int:
    remedy = "give the folder or the id of a checkpoint, or nothing for a tiny one"
    print(f"engine_offline.py: {reason}\n  remedy: {remedy}", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
