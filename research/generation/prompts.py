"""From texts to prompts of a few static shapes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from objectives.types import PromptFrame
from objectives.vocabulary import Vocabulary
from research.data.tokenizer import Tokenizer

# Prompts are padded to a multiple of this, so that few programs are compiled.
MULTIPLE = 32
MASK = "[MASK]"


def encode(
    texts: Sequence[str],
    tokenizer: Tokenizer,
    vocabulary: Vocabulary,
    frame: PromptFrame,
) -> list[list[int]]:
    """Token ids of every text in its frame.

    Names of special tokens in a text are those tokens; ``[MASK]`` is the mask token,
    however the tokenizer spells it.

    Raises:
      ValueError: for a prompt without any token, where the decoder has no token to
        begin from.
    """
    if vocabulary.mask_id >= 0:
        spelled = tokenizer.token(vocabulary.mask_id)
        texts = [text.replace(MASK, spelled) for text in texts]
    encoded = tokenizer.encode_batch(texts, parse_specials=True)
    framed = [[*frame.before, *ids, *frame.after] for ids in encoded]
    # An empty prompt continues the end of the document before it.
    first = vocabulary.bos_id if vocabulary.eod_id < 0 else vocabulary.eod_id
    if first < 0 and not all(framed):
        raise ValueError(
            "A prompt is empty, and this tokenizer has neither [EOD] nor [BOS] to begin "
            "from: give at least one word."
        )
    return [ids or [first] for ids in framed]


def pad(
    prompts: Sequence[Sequence[int]], pad_id: int, *, left: bool
) -> tuple[np.ndarray, np.ndarray]:
    """Tokens int32 [B, P] and where they are no padding, bool [B, P].

    left=True     [PAD] [PAD]  The  cat
                   A    very   old  dog
    """
    longest = max(len(prompt) for prompt in prompts)
    length = -(-longest // MULTIPLE) * MULTIPLE
    tokens = np.full((len(prompts), length), pad_id, np.int32)
    is_prompt = np.zeros(tokens.shape, bool)
    for row, prompt in enumerate(prompts):
        where = slice(length - len(prompt), length) if left else slice(len(prompt))
        tokens[row, where] = prompt
        is_prompt[row, where] = True
    return tokens, is_prompt
