"""A byte-level BPE tokenizer with the real special tokens at their real ids: a vocabulary size comes in, files go out.

Text outside the tags is split into bytes and a handful of merges; ids above 1255 are not those of the published one.
"""

from __future__ import annotations

import json
from typing import Any

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

from sglang_nemotron.checkpoint.spec import MIN_VOCAB, NUM_RESERVED

NAMED_TOKENS = {
    0: "<unk>",
    1: "<s>",
    2: "</s>",
    10: "<|im_start|>",
    11: "<|im_end|>",
    12: "<think>",
    13: "</think>",
    14: "<tool_call>",
    15: "</tool_call>",
    18: "<image>",
    19: "<img>",
    20: "</img>",
    27: "<so_embedding>",
    28: "<so_start>",
    29: "<so_end>",
}

# added tokens that are not "special": parsers of reasoning and tool calls read these tags in the decoded text, so
# decoding with skip_special_tokens must keep them
TEXT_TAGS = (12, 13, 14, 15)

# frequent pairs of English, most general first; "Ġ" is byte-level BPE's picture of a space
_MERGES = (
    ("Ġ", "t"),
    ("h", "e"),
    ("Ġt", "he"),
    ("i", "n"),
    ("Ġ", "a"),
    ("r", "e"),
    ("o", "n"),
    ("e", "r"),
    ("Ġ", "s"),
    ("a", "t"),
    ("n", "d"),
    ("o", "u"),
    ("Ġ", "w"),
    ("i", "s"),
    ("e", "n"),
    ("Ġ", "o"),
    ("i", "t"),
    ("o", "r"),
    ("e", "s"),
    ("Ġ", "c"),
    ("in", "g"),
    ("Ġa", "nd"),
    ("Ġ", "b"),
    ("l", "l"),
)

_CONSONANTS = "bdfghjklmnprstvwz"
_VOWELS = "aeiou"
_SYLLABLES = [c + v for c in _CONSONANTS for v in _VOWELS]


def byte_pictures() -> list[str]:
    """The printable character by which byte-level BPE (GPT-2's tokenizer format) writes each byte, indexed by byte."""
    shown = [*range(33, 127), *range(161, 173), *range(174, 256)]
    hidden = [byte for byte in range(256) if byte not in shown]
    return [chr(byte) if byte in shown else chr(256 + hidden.index(byte)) for byte in range(256)]


def token_names(vocab_size: int) -> list[str]:
    """The text of every id: reserved tokens, bytes, results of merges, then made-up words that no text encodes to."""
    names = [NAMED_TOKENS.get(i, f"<SPECIAL_{i}>") for i in range(NUM_RESERVED)]
    names += byte_pictures()
    names += ["".join(pair) for pair in _MERGES][: vocab_size - MIN_VOCAB]
    names += [_word(number) for number in range(vocab_size - len(names))]
    return names


def _word(number: int) -> str:
    """A word of three syllables, distinct for each number; decoding random ids then gives something readable."""
    base = len(_SYLLABLES)
    assert number < base**3
    # stepping by a number coprime to base^3 keeps neighbouring ids from looking alike
    number = number * 104729 % base**3
    return "Ġ" + _SYLLABLES[number % base] + _SYLLABLES[number // base % base] + _SYLLABLES[number // base**2]


def build_tokenizer(vocab_size: int) -> Tokenizer:
    """The tokenizer object. No token is added at the start of a text: the chat template begins with <|im_start|>."""
    vocab = {name: i for i, name in enumerate(token_names(vocab_size))}
    merges = [pair for pair in _MERGES if "".join(pair) in vocab]
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=merges, fuse_unk=False, byte_fallback=False))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    tokenizer.decoder = decoders.ByteLevel()
    # in id order, so that tokenizer.json lists them in that order
    tokenizer.add_tokens([_added(i, name) for i, name in enumerate(token_names(vocab_size)[:NUM_RESERVED])])
    return tokenizer


def tokenizer_files(vocab_size: int, max_length: int) -> dict[str, str]:
    """File name -> text of tokenizer.json, tokenizer_config.json and special_tokens_map.json."""
    roles = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<unk>", "unk_token": "<unk>"}
    config: dict[str, Any] = {
        **roles,
        "added_tokens_decoder": {
            str(i): {
                "content": name,
                "lstrip": False,
                "normalized": False,
                "rstrip": False,
                "single_word": False,
                "special": i not in TEXT_TAGS,
            }
            for i, name in enumerate(token_names(vocab_size)[:NUM_RESERVED])
        },
        "clean_up_tokenization_spaces": False,
        "model_input_names": ["input_ids", "attention_mask"],
        "model_max_length": max_length,
        "tokenizer_class": "PreTrainedTokenizerFast",
    }
    return {
        "tokenizer.json": build_tokenizer(vocab_size).to_str(pretty=vocab_size < 4096),
        "tokenizer_config.json": json.dumps(config, indent=2, ensure_ascii=False) + "\n",
        "special_tokens_map.json": json.dumps(roles, indent=2) + "\n",
    }


def _added(token_id: int, name: str) -> AddedToken:
    return AddedToken(name, special=token_id not in TEXT_TAGS, normalized=False)
