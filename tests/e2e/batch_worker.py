"""Runs batches of our model in SGLang's ModelRunner without a server: imports SGLang once, then forks per checkpoint.

Jobs come as JSON lines on stdin: {model_dir, args, prompts, cut, new_tokens, out}. For each, `out` gets the logits
[prompts, 1 + new_tokens, vocabulary], the greedy tokens and the model's class (torch.save), and stdout a line: "ok" or
"failed".
The batch itself (requests, slots, pages) is SGLang's benchmark.one_batch, imported, not copied.
"""

from __future__ import annotations

import json
import logging
import os
import sys
import traceback
from array import array
from typing import Any

import torch
from sglang.srt.plugins import load_plugins

load_plugins()

from sglang.benchmark import one_batch  # noqa: E402
from sglang.srt.managers.schedule_batch import Req  # noqa: E402
from sglang.srt.models import registry  # noqa: E402, F401 - every child would import all models anew
from sglang.srt.runtime_context import SpawnRanks, publish  # noqa: E402
from sglang.srt.sampling.sampling_params import SamplingParams  # noqa: E402
from sglang.srt.server_args import PortArgs, prepare_server_args  # noqa: E402


def run(job: dict[str, Any]) -> None:
    """One job, in a process of its own: SGLang keeps its configuration in globals."""
    server_args = prepare_server_args(["--model-path", job["model_dir"], *job["args"]])
    server_args.resolve_once()
    one_batch._set_envs_and_config(server_args)
    publish(
        server_args,
        role="scheduler",
        ranks=SpawnRanks(world_rank=one_batch.spawn_world_rank(server_args, tp_rank=0, pp_rank=0), gpu_id=0),
    )
    one_batch._init_process_global_configs()
    logging.basicConfig(level=logging.INFO, stream=sys.stderr)
    runner, _ = one_batch.load_model(server_args, PortArgs.init_new(server_args), 0, 0)
    requests = [_request(i, prompt, job["cut"]) for i, prompt in enumerate(job["prompts"])]
    if job["cut"]:
        # the first chunk alone; the rest of each prompt continues from its state
        runner.extend(requests)
        for request, prompt in zip(requests, job["prompts"], strict=True):
            request.full_untruncated_fill_ids.extend(array("q", prompt[job["cut"] :]))
            request.prefix_len = job["cut"]
            request.logprob_start_len = -1
            request.extend_end = len(prompt)
    tokens_B, logits_BV, batch = runner.extend(requests)
    tokens, logits = [tokens_B.clone()], [logits_BV.clone()]
    for _ in range(job["new_tokens"]):
        tokens_B, logits_BV = runner.decode(tokens_B, batch)
        tokens.append(tokens_B.clone())
        logits.append(logits_BV.clone())
    model = type(runner.torch_runner.model)
    torch.save(
        {
            "tokens": torch.stack(tokens, 1),
            "logits": torch.stack(logits, 1),
            "model": f"{model.__module__}.{model.__qualname__}",
        },
        job["out"],
    )


def _request(index: int, prompt: list[int], cut: int) -> Req:
    ids = array("q", prompt[:cut] if cut else prompt)
    request = Req(
        rid=index,
        origin_input_text="",
        origin_input_ids=ids,
        sampling_params=SamplingParams(temperature=0, max_new_tokens=1),
    )
    request.full_untruncated_fill_ids = ids
    request.logprob_start_len = -1
    request.extend_end = len(ids)
    return request


def main() -> None:
    # the answer channel; whatever SGLang prints goes to stderr
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    print("ready", file=answers)
    for line in sys.stdin:
        pid = os.fork()
        if pid == 0:
            code = 0
            try:
                run(json.loads(line))
            except BaseException:
                traceback.print_exc()
                code = 1
            sys.stderr.flush()
            os._exit(code)
        _, status = os.waitpid(pid, 0)
        print("ok" if status == 0 else "failed", file=answers)


if __name__ == "__main__":
    main()
