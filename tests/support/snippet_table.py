"""What is done with each snippet: rules for commands by their form, tables for blocks and exceptions.

`SHOWN` is the one list of what no test runs, each with the reason. A key is a command on one line, or for a block
`PLACE: how it begins`. tests/test_snippets.py fails for a snippet that is in no class or in two, and for a key or a
rule that fits nothing any more.
"""

from __future__ import annotations

_DOWNLOADS = "downloads gigabytes from the index"
_DOCKER = "needs a Docker daemon, a base image and a GPU; tests/test_deploy.py holds the files to each other"
_DRAWING = "a drawing; the files that it names are looked up by tests/test_docs.py"
_PLAIN = "needs an environment of its own, without this package"

SHOWN: dict[str, str] = {
    "pip install '.[omni]'": _DOWNLOADS,
    "pip install sglang-nemotron": _DOWNLOADS + ", where this package is not yet",
    "pip install sglang": _DOWNLOADS,
    "pip install 'matplotlib>=3.9'": "downloads from the index; the lock has it",
    "pip install openai-agents": _DOWNLOADS,
    "pip install smg": "`make matrix` does it, in the version of requirements/router.txt",
    "pip install langchain langchain-openai": _DOWNLOADS,
    "pip install": "names lines of the Dockerfile: " + _DOCKER,
    "python3.12 -m venv plain && plain/bin/pip install sglang==0.5.23": _DOWNLOADS,
    "docs/evidence-omni.md: $ plain/bin/python -c": _PLAIN,
    "docker build -t sglang-nemotron .": _DOCKER,
    "docker run --gpus all --shm-size 16g -p 127.0.0.1:30000:30000 -v models:/models sglang-nemotron": _DOCKER,
    "docker run ... sglang-nemotron --model-path nvidia/... --tp 2": _DOCKER,
    "docker compose up": _DOCKER,
    "docker compose --profile watch up": _DOCKER,
    "MODEL=nvidia/NVIDIA-Nemotron-3-Nano-30B-A3B-FP8 docker compose --profile watch up": _DOCKER,
    "sh .ci/release": _DOWNLOADS + "; .github/workflows/release.yml runs it for each tag",
    "docs/route.md: sglang serve --model-path DIR": _DRAWING,
    "docs/route.md: client            POST /v1/chat/completions": _DRAWING,
}

# a test that does it already, or a name of a command rather than a command
_NAMED = "tests/test_docs.py::test_commands_exist"
_ROUTED = "tests/e2e/test_replicas.py::test_the_next_turn_reaches_the_replica_with_its_prefix"
_COMMAND = "tests/cli/test_command.py::test_on_stdout_there_is_the_command_alone"
ELSEWHERE: dict[str, str] = {
    "sglang-nemotron bench": _NAMED,
    "sglang-nemotron demo": "tests/e2e/test_demo.py::test_demo_shows_every_request_and_cleans_up",
    "sglang-nemotron parity": _NAMED,
    "sglang-nemotron plan": _NAMED,
    "sglang-nemotron verify": _NAMED,
    "sglang-nemotron command": _COMMAND,
    "sglang serve": "tests/e2e/test_ids.py::test_the_readmes_command",
    "smg launch --worker-urls http://127.0.0.1:30001 http://127.0.0.1:30002 --policy cache_aware --host 127.0.0.1 "
    "--port 30000 --prometheus-host 127.0.0.1 --health-check-interval-secs 5 --health-failure-threshold 1": _ROUTED,
    "sh .ci/contract": "tests/test_habits.py::test_contract_is_checked_with_the_installed_sglang",
    "sh .ci/tag-ready": "tests/test_habits.py::test_what_may_be_tagged",
    "docs/forks.md: name: nemotron parity": "tests/test_habits.py::test_what_forks_paste_is_what_runs_here",
}

BLOCKS: dict[str, tuple[str, ...]] = {
    # held against what `curl` brings
    "answer": ('README.md: {"id": ',),
    "module": ("docs/forks.md: from sglang_nemotron.models import nemotron_h",),
    "program": ("docs/evidence-omni.md: import sys", "docs/evidence-omni.md: import sglang.cli.serve"),
    # what a program of the line above printed
    "printed": (
        "docs/evidence-omni.md: $ plain/bin/python arch_tables_h100.py omni",
        "docs/evidence-omni.md: $ plain/bin/python cache.py",
    ),
    # what the first plan of the page prints
    "planned": ("docs/plan.md: nvidia/NVIDIA-Nemotron-3-Nano-30B-A3B-FP8 on H200",),
    # what a 400 says
    "refusals": ("docs/media.md: image 2: not an image",),
}

RULES: dict[str, str] = {
    "checkpoint": r"sglang-nemotron make-checkpoint [^&]+",
    "make": r"(?:PYTHON=\S+ )?make [a-z -]+",
    "fragment": r"(?:make-checkpoint|parity) --.+",
    "benchmark": r"(?:\S*python )?benchmarks/\S+\.py.*",
    "tests": r"(?:\S+/python -m )?pytest .+",
    "hook": r"\.venv/bin/pre-commit install",
    "doctor": r"sglang-nemotron doctor.*",
    "launch": r"sglang-nemotron command .+",
    "plan": r"sglang-nemotron plan .+",
    "serve": r"(?:[A-Z_]+=\S+ )?sglang serve .+",
    "curl": r"curl .+",
    # of a server that runs, and with one that the command starts itself
    "asking": r"sglang-nemotron (?:verify|parity) .*(?:http|URL).*",
    "bench": r"sglang-nemotron bench (?:speed|accuracy) .*http.*",
    "compared": r"sglang-nemotron bench compare .+",
    "parity": r"(?:sglang-nemotron make-checkpoint \S+(?: --omni)? && )?sglang-nemotron parity (?!.*http).+",
}
