"""From texts to prompts of a few static shapes."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from objectives.base import Objective
from objectives.composed import Composed
from objectives.prefix_lm import PrefixLM
from objectives.sequence_to_sequence import SequenceToSequence
from objectives.vocabulary import Vocabulary
from research.data.tokenizer import Tokenizer

# Prompts are padded to a multiple of this, so that few programs are compiled.
MULTIPLE = 32
MASK = "[MASK]"


@dataclasses.dataclass(frozen=True)
class Frame:
    """What stands around a prompt.

    Attributes:
      before, after: token ids.
    """

    before: tuple[int, ...]
    after: tuple[int, ...]


def frame(objective: Objective, *, begin: tuple[int, ...]) -> Frame:
    """Prompts as the objective's network was trained to read them.

        encoder                          [CLS] text [SEP]
        encoder of an encoder-decoder    text EOS
        decoder                          text
        decoder over inputs and targets  text EOS start

    Args:
      objective: of the network.
      begin: what a published decoder's texts begin with (Llama: BOS).
    """
    vocabulary = objective.vocabulary
    if objective.architecture == "encoder":
        return Frame((vocabulary.cls_id,), (vocabulary.sep_id,))
    end = (vocabulary.eos_id,) if vocabulary.eos_id >= 0 else ()
    if objective.architecture == "encoder_decoder":
        return Frame((), end)
    return Frame(begin, (*end, objective.start_id) if _has_targets(objective) else ())


def num_after_prefix(objective: Objective) -> int | None:
    """How many tokens at the end of a decoder's framed prompt are no prefix.

    The prefix is visible to itself in both directions; None = there is no prefix.
    """
    for stage in _stages(objective):
        if isinstance(stage, SequenceToSequence) and stage.bidirectional_inputs:
            decoder = objective.architecture == "decoder"
            return int(_has_targets(objective)) if decoder else None
    return None


def _has_targets(objective: Objective) -> bool:
    """Whether a decoder reads inputs, then targets that begin with a start token."""
    return any(
        isinstance(stage, SequenceToSequence) and not isinstance(stage, PrefixLM)
        for stage in _stages(objective)
    )


def _stages(objective: Objective) -> tuple[Objective, ...]:
    return objective.stages if isinstance(objective, Composed) else (objective,)


def encode(
    texts: Sequence[str], tokenizer: Tokenizer, vocabulary: Vocabulary, frame: Frame
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
