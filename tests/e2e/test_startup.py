"""Starts that a user may try: what is served gives the tokens of a plain server, what is not ends with the reason."""

from __future__ import annotations

import dataclasses
import json
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from sglang_nemotron.checkpoint.spec import PRESETS
from sglang_nemotron.checkpoint.writer import write_checkpoint
from sglang_nemotron.cli.server import ServerFailed, ServerProcess
from support.serving import Served, Servers
from support.waiting import NET_S

TOY = PRESETS["toy"]
FLOAT32 = ("--dtype", "float32")
PLAIN = Served(TOY, FLOAT32)
PROMPTS = [[1001], [1001, 1002, 1003, 1004, 1005], [1000 + i % 200 for i in range(70)]]

pytestmark = [pytest.mark.server, pytest.mark.matrix]

_plain: list[list[int]] = []


def post(server: ServerProcess, path: str, body: dict[str, Any]) -> dict[str, Any]:
    request = urllib.request.Request(server.url + path, json.dumps(body).encode(), {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=NET_S) as reply:
        return json.load(reply)


def greedy(server: ServerProcess) -> list[list[int]]:
    sampling = {"temperature": 0, "max_new_tokens": 12, "ignore_eos": True}
    return [post(server, "/generate", {"input_ids": ids, "sampling_params": sampling})["output_ids"] for ids in PROMPTS]


@pytest.fixture
def plain(servers: Servers) -> list[list[int]]:
    """The tokens of a server without any further flag."""
    if not _plain:
        _plain.extend(greedy(servers.get(PLAIN)))
    return _plain


@pytest.mark.parametrize(
    "served",
    [
        Served(TOY, (*FLOAT32, "--tokenizer-worker-num", "2")),
        Served(TOY, (*FLOAT32, "--tp-size", "2")),
        Served(TOY, (*FLOAT32, "--pp-size", "2")),
        Served(TOY, (*FLOAT32, "--trust-remote-code")),
    ],
    ids=lambda served: served.args[2],
)
def test_same_tokens(served: Served, plain: list[list[int]], servers: Servers) -> None:
    assert greedy(servers.get(served)) == plain


def test_entry_point_disabled(plain: list[list[int]], servers: Servers) -> None:
    # SGLang's own config class then: its convolution state is bfloat16 unless told otherwise
    env = (
        ("SGLANG_EXTERNAL_MODEL_PACKAGE", "sglang_nemotron.models"),
        ("SGLANG_PLUGINS", "nemotron_cpu"),
        ("SGLANG_MAMBA_CONV_DTYPE", "float32"),
    )
    server = servers.get(Served(TOY, FLOAT32, env))
    assert greedy(server) == plain
    assert "state pools: conv torch.float32" in server.log_text()


HIDDEN = Served(
    TOY, (*FLOAT32, "--enable-return-hidden-states", "--max-running-requests", "1024", "--enable-mixed-chunk")
)


def test_hidden_states_and_weight_update(plain: list[list[int]], servers: Servers) -> None:
    server = servers.get(HIDDEN)
    assert greedy(server) == plain
    assert "max_running_requests is capped" in server.log_text()

    sampling = {"temperature": 0, "max_new_tokens": 3, "ignore_eos": True}
    body = {"input_ids": [1100, 1101, 1102, 1103], "sampling_params": sampling, "return_hidden_states": True}
    prefill, *decode = post(server, "/generate", body)["meta_info"]["hidden_states"]
    assert [len(row) for row in prefill] == [TOY.hidden_size] * 4
    assert [len(row) for row in decode] == [TOY.hidden_size] * 2

    folder = str(servers.checkpoint(TOY))
    assert post(server, "/update_weights_from_disk", {"model_path": folder})["success"]
    assert greedy(server) == plain
    with pytest.raises(urllib.error.HTTPError) as refused:
        post(server, "/update_weights_from_disk", {"model_path": folder + "-not-there"})
    assert refused.value.code == 400
    assert greedy(server) == plain


def test_other_weights_give_other_tokens(plain: list[list[int]], servers: Servers) -> None:
    # what makes the comparison above mean something
    other = servers.checkpoint(dataclasses.replace(TOY, seed=99))
    server = servers.get(HIDDEN)
    assert post(server, "/update_weights_from_disk", {"model_path": str(other)})["success"]
    assert greedy(server) != plain
    servers.stop(HIDDEN)


@pytest.mark.parametrize("quantization", ["fp8", "nvfp4", "mixed"])
def test_quantised_checkpoint_starts(quantization: str, servers: Servers) -> None:
    spec = dataclasses.replace(TOY, quantization=quantization)
    server = servers.get(Served(spec, FLOAT32))
    assert all(len(tokens) == 12 for tokens in greedy(server))
    assert "weights are dequantised while loading" in server.log_text()


REFUSED = {
    "--tp-size 3": "mamba_num_heads=8 cannot be split over tp_size=3",
    "--kv-cache-dtype fp8_e4m3": "--kv-cache-dtype fp8_e4m3 needs a GPU",
    "--speculative-algorithm NGRAM": "--speculative-algorithm NGRAM is not supported",
    "--mamba-backend flashinfer": "--mamba-backend flashinfer is not supported by sglang-nemotron",
    "--tp-size 5": "mamba_num_heads=8 cannot be split over tp_size=5",
    "--tp-size 16": "mamba_num_heads=8 cannot be split over tp_size=16",
    "--tp-size 8": "num_attention_heads=4 cannot be split over tp_size=8",
    "--tp-size 2 --ep-size 2": "--ep-size 2 is not supported on a CPU by sglang-nemotron",
    "--tp-size 2 --dp-size 2 --enable-dp-attention": "--attn-dp-size 2 is not supported on a CPU by sglang-nemotron",
}


@pytest.mark.parametrize("flags", REFUSED)
def test_refused_flag_is_the_last_line(flags: str, servers: Servers) -> None:
    assert_refused(servers.checkpoint(TOY), flags.split(), REFUSED[flags], servers)


def test_broken_checkpoint_is_the_last_line(servers: Servers, tmp_path: Path) -> None:
    write_checkpoint(TOY, tmp_path)
    (file,) = tmp_path.glob("*.safetensors")
    file.write_bytes(file.read_bytes()[:-10])
    assert_refused(tmp_path, [], "is truncated", servers)


def assert_refused(checkpoint: Path, flags: list[str], reason: str, servers: Servers) -> None:
    server = ServerProcess(checkpoint, flags, log_path=servers.log_path(), time_limit_s=NET_S)
    with pytest.raises(ServerFailed) as failed:
        server.start()
    assert failed.value.returncode == 1
    assert reason in server.log_text().rstrip().splitlines()[-1]
    assert "server_args=" not in server.log_text()
