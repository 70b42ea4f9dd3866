"""Which parser a server gets for what it says on the command line, for our models and for others."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from sglang.srt.arg_groups.overrides import resolving_view
from sglang.srt.parser import template_detection
from sglang.srt.server_args import ServerArgs

from sglang_nemotron.checkpoint.spec import PRESETS
from sglang_nemotron.checkpoint.writer import write_checkpoint
from sglang_nemotron.host import parsers, reply_flags
from sglang_nemotron.host.reply_flags import ALIASES, PARSER

LLAMA = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_attention_heads": 4,
    "num_hidden_layers": 1,
    "num_key_value_heads": 4,
    "vocab_size": 2048,
}


@pytest.fixture(autouse=True, scope="module")
def _open() -> None:
    """As in a server's main process, where whatever SGLang imported first is opened into."""
    reply_flags.FLAGS.open()
    parsers.PARSERS.open()


@pytest.fixture(scope="module")
def nano(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("nano")
    write_checkpoint(PRESETS["toy"], folder, overwrite=True)
    return folder


@pytest.fixture(scope="module")
def llama(nano: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Another model, with the very tokenizer and template of ours."""
    folder = tmp_path_factory.mktemp("llama")
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "special_tokens_map.json"):
        (folder / name).write_text((nano / name).read_text())
    (folder / "config.json").write_text(json.dumps(LLAMA))
    return folder


def chosen(folder: Path, reasoning: str | None = None, tools: str | None = None, **more: Any) -> tuple[Any, Any]:
    """The parsers of a server that is started like this."""
    args = ServerArgs(
        model_path=str(folder), tokenizer_path=str(folder), reasoning_parser=reasoning, tool_call_parser=tools, **more
    )
    template_detection.resolve_auto_parsers(args)
    view = resolving_view(args)
    return view.reasoning_parser, view.tool_call_parser


@pytest.mark.parametrize("name", ["nano_v3", "nemotron_v3", "nemotron_3", "deepseek-r1", "auto", PARSER])
def test_our_model_gets_ours(name: str, nano: Path) -> None:
    assert chosen(nano, reasoning=name) == (PARSER, None)


@pytest.mark.parametrize("name", ["qwen3_coder", "auto", PARSER])
def test_our_model_gets_our_tools(name: str, nano: Path) -> None:
    assert chosen(nano, tools=name) == (None, PARSER)


def test_no_flag_is_no_parser(nano: Path) -> None:
    assert chosen(nano) == (None, None)


def test_a_parser_of_another_format_stays_and_warns(nano: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert chosen(nano, reasoning="glm45", tools="glm45") == ("glm45", "glm45")
    assert "--reasoning-parser glm45 was not made for" in caplog.text
    assert "--tool-call-parser glm45 was not made for" in caplog.text


@pytest.mark.parametrize("name", ["deepseek-r1", "nemotron_3", "qwen3", None])
def test_another_model_keeps_its_own(name: str | None, llama: Path) -> None:
    assert chosen(llama, reasoning=name, tools="qwen3_coder") == (name, "qwen3_coder")


def test_auto_of_another_model_is_sglangs_answer(llama: Path) -> None:
    assert chosen(llama, reasoning="auto", tools="auto") == ("nemotron_3", "qwen3_coder")


@pytest.mark.parametrize("name", [PARSER, *ALIASES])
def test_our_names_are_refused_elsewhere(name: str, llama: Path) -> None:
    with pytest.raises(
        ValueError, match=f"--reasoning-parser {name} .*LlamaForCausalLM.*Allowed for it: auto, .*qwen3"
    ):
        chosen(llama, reasoning=name)


def test_our_tool_name_is_refused_elsewhere(llama: Path) -> None:
    with pytest.raises(ValueError, match=f"--tool-call-parser {PARSER} .*Allowed for it: auto, .*qwen3_coder"):
        chosen(llama, tools=PARSER)


def test_another_family_under_our_name_keeps_its_own(nano: Path, tmp_path: Path) -> None:
    """Super and others share the architecture name."""
    config = json.loads((nano / "config.json").read_text())
    config["mtp_hybrid_override_pattern"] = "*E"
    config["num_nextn_predict_layers"] = 1
    hf_config = SimpleNamespace(**config)
    assert not reply_flags.is_ours(hf_config)
    for name in ("mtp_hybrid_override_pattern", "num_nextn_predict_layers"):
        del config[name]
    assert reply_flags.is_ours(SimpleNamespace(**config))


def test_omni_with_a_nano_inside_is_ours(nano: Path) -> None:
    text = json.loads((nano / "config.json").read_text())
    name = "NemotronH_Nano_Omni_Reasoning_V3"
    assert reply_flags.is_ours(SimpleNamespace(architectures=[name], model_type=name, llm_config=text))
    assert not reply_flags.is_ours(SimpleNamespace(architectures=["LlamaForCausalLM"], model_type="llama"))


# ---- templates


def test_a_template_without_think_tags_is_refused(nano: Path, tmp_path: Path) -> None:
    plain = tmp_path / "plain.jinja"
    plain.write_text("{% for m in messages %}{{ m.content }}{% endfor %}")
    said = "--reasoning-parser nano_v3: the chat template of .* holds no <think> and </think>.*allowed: a template with"
    with pytest.raises(ValueError, match=said):
        chosen(nano, reasoning="nano_v3", chat_template=str(plain))
    # nothing to find: nothing chosen, as SGLang does
    assert chosen(nano, reasoning="auto", tools="auto", chat_template=str(plain)) == (None, None)
    # a tool-call parser needs no think tags
    assert chosen(nano, tools="qwen3_coder", chat_template=str(plain)) == (None, PARSER)


def test_where_the_template_is_read_from(nano: Path, tmp_path: Path) -> None:
    view = SimpleNamespace(model_path=str(tmp_path), tokenizer_path=None, chat_template=None)
    assert reply_flags.chat_template(view) is None
    config = tmp_path / "tokenizer_config.json"
    config.write_text(json.dumps({"chat_template": "one"}))
    assert reply_flags.chat_template(view) == "one"
    named = [{"name": "tool_use", "template": "two"}, {"name": "default", "template": "three"}]
    config.write_text(json.dumps({"chat_template": named}))
    assert reply_flags.chat_template(view) == "three"
    (tmp_path / "chat_template.jinja").write_text("four")
    assert reply_flags.chat_template(view) == "four"
    view.chat_template = "chatml"
    assert reply_flags.chat_template(view) is None


# ---- the door


def test_the_command_line_takes_our_names() -> None:
    parser = argparse.ArgumentParser()
    ServerArgs.add_cli_args(parser)
    for name in (PARSER, *ALIASES):
        assert parser.parse_args(["--model-path", "m", "--reasoning-parser", name]).reasoning_parser == name


def test_an_unknown_name_is_answered_with_the_known(capsys: pytest.CaptureFixture[str]) -> None:
    parser = argparse.ArgumentParser()
    ServerArgs.add_cli_args(parser)
    with pytest.raises(SystemExit):
        parser.parse_args(["--model-path", "m", "--reasoning-parser", "nano_v4"])
    said = capsys.readouterr().err
    assert "'nano_v4'" in said and "nano_v3" in said and "qwen3" in said


def test_the_proof_fails_where_nobody_asks_us(monkeypatch: pytest.MonkeyPatch) -> None:
    assert reply_flags.FLAGS.is_ours() is None
    with monkeypatch.context() as patch:
        patch.setattr(template_detection, "resolve_auto_parsers", lambda args: None)
        assert "does not ask for our choice" in str(reply_flags.FLAGS.is_ours())
    with monkeypatch.context() as patch:
        patch.setattr(reply_flags, "reasoning_parser_names", ["qwen3"])
        assert "lacks ['nemotron_nano', 'nano_v3', 'nemotron_v3']" in str(reply_flags.FLAGS.is_ours())
