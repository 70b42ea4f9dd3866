"""The servers of the examples keep sampled replies to words, and leave greedy ones alone."""

from __future__ import annotations

from pathlib import Path

import pytest

from e2e.wordy.wordy_model import UNLIKELY
from sglang_nemotron.cli.server import ServerProcess
from sglang_nemotron.parity.client import Client
from support.scripted import SCRIPTED
from support.serving import OMNI, TEXT_EXAMPLES

END = 11


def _end(server: ServerProcess, temperature: float) -> float:
    """The logprob of a reply that is over before its first word."""
    body = {
        "input_ids": [1001, 1002, 1003],
        "sampling_params": {"temperature": temperature, "max_new_tokens": 1},
        "return_logprob": True,
        "token_ids_logprob": [END],
    }
    reply = Client(server.url).post("/generate", body)
    (((logprob, token, _),),) = reply["meta_info"]["output_token_ids_logprobs"]
    assert token == END
    return logprob


@pytest.mark.parametrize(
    "kind",
    [
        pytest.param(TEXT_EXAMPLES, marks=[pytest.mark.server(TEXT_EXAMPLES), pytest.mark.matrix]),
        *(pytest.param(kind, marks=pytest.mark.server(kind)) for kind in (SCRIPTED, OMNI)),
    ],
    ids=str,
)
def test_sampled_replies_are_words_and_greedy_ones_whatever_the_weights_say(kind: object, server: ServerProcess):
    assert _end(server, 0.6) < -UNLIKELY / 2
    assert -100 < _end(server, 0) < 0


def test_special_tokens_are_where_the_plugin_looks_for_them(tmp_path: Path):
    from transformers import AutoTokenizer

    from sglang_nemotron.checkpoint.spec import NUM_RESERVED, PRESETS
    from sglang_nemotron.checkpoint.writer import write_checkpoint

    write_checkpoint(PRESETS["tiny"], tmp_path)
    assert sorted(AutoTokenizer.from_pretrained(tmp_path).added_tokens_decoder) == list(range(NUM_RESERVED))
