"""Token ids as readable text, coloured by the part of each token."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterable, Sequence
from typing import Protocol

import numpy as np
from rich.text import Text

from objectives.vocabulary import Vocabulary

# Part of a token -> its style, and its words in the legend.
STYLES = {
    "text": ("", ""),
    "second": ("cyan", "second segment"),
    "both ways": ("underline", "seen from both sides"),
    "masked": ("bold white on red", "target, masked"),
    "random": ("bold black on yellow", "target, shown as another token"),
    "kept": ("bold black on green", "target, shown as it is"),
    "sentinel": ("bold magenta", "stands for a span"),
    "special": ("dim", ""),
}
# White space as shown inside a cell.
_VISIBLE = {"\n": "↵", "\t": "⇥", "\r": "␍", " ": "␣"}


class Decoder(Protocol):
    """The part of a tokenizer that is needed here."""

    def decode(self, ids: Sequence[int]) -> str: ...

    def token(self, number: int) -> str: ...


@dataclasses.dataclass(frozen=True)
class Pieces:
    """Writes token ids as text.

    Attributes:
      tokenizer: of the ids.
      vocabulary: its special ids and word starts.
    """

    tokenizer: Decoder
    vocabulary: Vocabulary

    def cell(self, number: int) -> str:
        """One token by itself; '+' marks one that continues a word.

        'the', '+ing', '[MASK]', '↵'
        """
        if self.is_named(number):
            return self.tokenizer.token(number)
        text = self.tokenizer.decode([number])
        if "\N{REPLACEMENT CHARACTER}" in text or not text:
            return self.tokenizer.token(number)
        bare = text.strip() or text
        shown = "".join(_VISIBLE.get(character, character) for character in bare)
        starts = self.vocabulary.is_word_start
        continues = starts is not None and not starts[number]
        return "+" + shown.removeprefix("##") if continues else shown

    def is_named(self, number: int) -> bool:
        """Whether an id is shown by its name: special ones, but not [UNK] in text."""
        return bool(self.vocabulary.is_special[number])

    def flow(self, ids: Iterable[int], parts: Iterable[str]) -> Text:
        """Running text, each token in the style of its part."""
        text = Text()
        known = list(zip(map(int, ids), parts, strict=True))
        for (part, named), group in itertools.groupby(
            known, key=lambda pair: (pair[1], self.is_named(pair[0]))
        ):
            numbers = [number for number, _ in group]
            if named:
                written = " ".join(map(self.tokenizer.token, numbers))
            else:
                written = self.tokenizer.decode(numbers)
            starts = self.vocabulary.is_word_start
            apart = named or starts is None or bool(starts[numbers[0]])
            if apart and text and not text.plain[-1].isspace():
                text.append(" ")
            # Spaces are not highlighted, and a line break would break the column.
            written = written.lstrip(" ").replace("\n", "↵ ")
            text.append(written, STYLES[part][0])
        return text


def parts_of(
    tokens: np.ndarray,
    vocabulary: Vocabulary,
    *,
    token_types: np.ndarray | None = None,
    bidirectional: np.ndarray | None = None,
    hidden: dict[int, int] | None = None,
) -> list[str]:
    """The part of each token, a key of STYLES.

    Args:
      tokens: ids.
      vocabulary: special ids and sentinels.
      token_types: 1 for the second segment.
      bidirectional: which positions the earlier ones see.
      hidden: position -> the id to be predicted there.
    """
    hidden = hidden or {}
    sentinels = set(vocabulary.sentinel_ids)

    def part(index: int, number: int) -> str:
        if index in hidden:
            if number == vocabulary.mask_id:
                return "masked"
            return "kept" if number == hidden[index] else "random"
        if number in sentinels:
            return "sentinel"
        if vocabulary.is_special[number]:
            return "special"
        if token_types is not None and token_types[index] == 1:
            return "second"
        return (
            "both ways"
            if bidirectional is not None and bidirectional[index]
            else "text"
        )

    return [part(index, int(number)) for index, number in enumerate(tokens)]
