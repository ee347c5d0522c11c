"""Roles of special tokens ('mask', 'eod', ...) and the names that vocabularies give them."""

from __future__ import annotations

import re
from collections.abc import Mapping

# Names a role goes by in other vocabularies, ours first; the first one present counts.
NAMES: dict[str, tuple[str, ...]] = {
    "pad": ("[PAD]", "<pad>", "<|pad|>"),
    "unk": ("[UNK]", "<unk>"),
    "cls": ("[CLS]",),
    "sep": ("[SEP]",),
    "mask": ("[MASK]", "<mask>"),
    "bos": ("[BOS]", "<s>", "<|begin_of_text|>", "<|startoftext|>", "<|endoftext|>"),
    "eos": ("[EOS]", "</s>", "<|end_of_text|>", "<|endoftext|>"),
    # Separates documents. A vocabulary without one of its own has the end of a text.
    "eod": ("[EOD]", "<|endoftext|>", "<|end_of_text|>", "</s>", "[SEP]"),
}
# RoBERTa and BART put <s> .. </s> around a text. Vocabularies of decoders and of T5 have
# the same names, but no <mask> and no frame.
FRAMES = {"cls": "<s>", "sep": "</s>"}
SENTINEL = re.compile(r"<extra_id_(\d+)>")
UNUSED = re.compile(r"\[unused\d+\]")

# Files of a saved tokenizer.
TOKENIZER_FILE = "tokenizer.json"
SPECIALS_FILE = "special_tokens_map.json"
COUNTS_FILE = "unigram_counts.npy"


def special_ids(
    vocabulary: Mapping[str, int], names: Mapping[str, str]
) -> dict[str, int]:
    """The id of each role, -1 where there is none.

    Args:
      vocabulary: ids of all tokens.
      names: the token of some roles, before those in NAMES.
    """
    ids = {}
    for role, known in NAMES.items():
        candidates = [names[role]] if role in names else []
        candidates += known
        if "<mask>" in vocabulary and role in FRAMES:
            candidates.append(FRAMES[role])
        ids[role] = next((vocabulary[n] for n in candidates if n in vocabulary), -1)
    if ids["unk"] in (ids["eos"], ids["eod"]):
        # GPT-2's files name the end of a text; it never stands for text.
        ids["unk"] = -1
    if ids["pad"] < 0:
        # Padding is never read, so any id that is no text will do.
        ids["pad"] = ids["eod"]
    return ids


def sentinel_ids(vocabulary: Mapping[str, int]) -> tuple[int, ...]:
    """Ids of <extra_id_0>, <extra_id_1>, ... in this order."""
    found = {
        int(match[1]): number
        for token, number in vocabulary.items()
        if (match := SENTINEL.fullmatch(token))
    }
    return tuple(found[i] for i in sorted(found))


def sentinels(count: int) -> list[str]:
    """Names of `count` sentinels in the order of their ids: the first has the last id."""
    return [f"<extra_id_{i}>" for i in reversed(range(count))]
