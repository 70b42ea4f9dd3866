"""Which requests are stopped before they reach the scheduler, for our models alone."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from sglang_nemotron.host import requests
from sglang_nemotron.host.names.http import TokenizerManager


@pytest.mark.parametrize("token_ids", [[0], [0, 9], [9] * 5000])
def test_known_ids_pass(token_ids: list[int]) -> None:
    requests.check_token_ids(token_ids, 10)


@pytest.mark.parametrize("token_ids", [[-1], [3, 10], [2**70], [1.0], [True], ["1"], [None], [[1]]])
def test_other_ids_are_named(token_ids: list[Any]) -> None:
    with pytest.raises(ValueError, match="input_ids holds .*; allowed: integers from 0 to 9"):
        requests.check_token_ids(token_ids, 10)


def test_no_ids() -> None:
    with pytest.raises(ValueError, match="the prompt is empty"):
        requests.check_token_ids([], 10)


def test_top_logprobs() -> None:
    for count in (None, 0, 10):
        requests.check_logprobs(count, 10)
    for count in (-1, 11):
        with pytest.raises(ValueError, match=f"top_logprobs is {count}; allowed: 0 to 10"):
            requests.check_logprobs(count, 10)


def test_number_of_answers() -> None:
    for params in (None, [], {}, {"n": 1}, {"n": requests.MAX_ANSWERS}):
        requests.check_num_answers(params)
    for count in (100000, 0, -1):
        with pytest.raises(ValueError, match=f"n is {count}; allowed: 1 to 1024"):
            requests.check_num_answers({"n": count})


@pytest.mark.parametrize(("architecture", "stopped"), [("NemotronHForCausalLM", True), ("LlamaForCausalLM", False)])
def test_other_models_are_untouched(architecture: str, stopped: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    monkeypatch.setattr(TokenizerManager, "_validate_one_request", lambda self, obj, ids: asked.append(ids))
    requests.REQUESTS.open()
    requests.REQUESTS.open()
    config = SimpleNamespace(hf_config=SimpleNamespace(architectures=[architecture]), vocab_size=10)
    manager = SimpleNamespace(model_config=config)
    request = SimpleNamespace(top_logprobs_num=0)
    TokenizerManager._validate_one_request(manager, request, [1])
    # a prompt of embeddings has no ids
    TokenizerManager._validate_one_request(manager, request, None)
    if stopped:
        with pytest.raises(ValueError, match="input_ids holds 10"):
            TokenizerManager._validate_one_request(manager, request, [10])
    else:
        TokenizerManager._validate_one_request(manager, request, [10])
    assert asked == ([[1], None] if stopped else [[1], None, [10]])
