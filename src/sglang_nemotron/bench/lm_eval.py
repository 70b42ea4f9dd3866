"""The same prompts and scoring through EleutherAI's lm-eval, as a program with a task file of our own.

A set comes in; the task's files and the command go out, and what it wrote comes in again. It is never imported.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from sglang_nemotron.bench.questions import Set
from sglang_nemotron.bench.server import Server
from sglang_nemotron.verify.server import Unfit

TASK = "nemotron_bench"
# what a reply's answer looks like, which of them counts, and what is ignored when it is compared: as of scoring.py
_FILTERS = {"number": (r"(\d[\d,]*)", -1), "letter": (r"\A\s*(\S)", 0)}


def write_task(asked: Set, folder: Path) -> None:
    """A task whose prompts are the set's, whole. Raises ValueError for a set that lm-eval is not asked to score."""
    if asked.rule not in _FILTERS:
        raise ValueError(f"lm-eval is given GSM8K and MMLU; {asked.title} is neither\n  remedy: leave --lm-eval out")
    data = folder / "questions.jsonl"
    data.write_text("".join(json.dumps({"prompt": one.prompt, "target": one.answers[0]}) + "\n" for one in asked.items))
    pattern, which = _FILTERS[asked.rule]
    task = {
        "task": TASK,
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": str(data)}},
        "test_split": "test",
        "output_type": "generate_until",
        "doc_to_text": "{{prompt}}",
        "doc_to_target": "{{target}}",
        "num_fewshot": 0,
        "generation_kwargs": {
            # it wants one at least; no reply holds this one
            "until": [*asked.stops] or ["<|separator|>"],
            "do_sample": False,
            "temperature": 0.0,
            "max_gen_toks": asked.max_tokens,
        },
        "filter_list": [
            {
                "name": "answer",
                "filter": [
                    {"function": "regex", "regex_pattern": pattern, "group_select": which},
                    {"function": "take_first"},
                ],
            }
        ],
        "metric_list": [
            {"metric": "exact_match", "aggregation": "mean", "higher_is_better": True, "regexes_to_ignore": [","]}
        ],
        "metadata": {"version": 1.0},
    }
    # YAML takes JSON for what it is
    (folder / f"{TASK}.yaml").write_text(json.dumps(task, indent=1))


def command(python: str, server: Server, folder: Path, parallel: int) -> list[str]:
    """Without a tokenizer: prompts go as text."""
    model = {
        "model": server.model,
        "base_url": f"{server.url}/v1/completions",
        "num_concurrent": str(parallel),
        "max_retries": "1",
        "tokenized_requests": "False",
        "tokenizer_backend": "None",
    }
    return [
        *(python, "-m", "lm_eval", "--model", "local-completions"),
        *("--model_args", ",".join(f"{name}={value}" for name, value in model.items())),
        *("--tasks", TASK, "--include_path", str(folder), "--output_path", str(folder / "out"), "--log_samples"),
    ]


def accuracy(folder: Path) -> float:
    """What the program wrote. Raises Unfit if it wrote nothing."""
    for file in sorted((folder / "out").rglob("results_*.json")):
        said = json.loads(file.read_text())["results"][TASK]
        return next(value for name, value in said.items() if name.startswith("exact_match,"))
    raise Unfit("lm-eval wrote no result\n  remedy: see what it said above")


def last_words(output: str, count: int = 12) -> str:
    """The end of what it said."""
    lines: Sequence[str] = [line for line in output.splitlines() if line.strip()]
    return "\n".join(lines[-count:])
