"""Fill-in-the-middle: causal LM over documents whose middle comes last."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Int

from objectives.base import row_keys
from objectives.causal_lm import CausalLM
from objectives.corruption import rows
from objectives.statistics import Statistic, mean, share
from objectives.types import Example
from objectives.validation import check_range


@dataclasses.dataclass(frozen=True, kw_only=True)
class FillInTheMiddle(CausalLM):
    """Bavarian et al. 2022 (sections 2 and 3): a decoder learns to fill gaps.

    Each document of a row, or the part of one that the row holds, is rearranged with
    probability `fim_rate`: two cuts, uniform over its token boundaries, make a prefix,
    a middle and a suffix. The first three sentinels P, S and M mark them, in one of two
    orders; ``[EOD]`` stays last, and every token is a target as in causal LM:

        clean  a b c d e f [EOD]          cuts 2 and 4
        PSM    P a b S e f M c d [EOD]
        SPM    P S e f M a b c d [EOD]

    Rows keep their length: what the sentinels push over the end is dropped, at most
    three tokens a document. Cuts fall between tokens, where the paper's fall between
    characters.

    Attributes:
      fim_rate: share of the documents that are rearranged: 0.5.
      spm_rate: share of these in the order SPM: 0.5.
    """

    name: ClassVar[str] = "fill_in_the_middle"

    fim_rate: float
    spm_rate: float

    def __post_init__(self):
        super().__post_init__()
        check_range(self, "fim_rate", "spm_rate", at_least=0, at_most=1)
        if len(self.vocabulary.sentinel_ids) < 3:
            raise ValueError(
                f"Objective {self.name!r} marks three parts with sentinels, and the "
                f"tokenizer has {len(self.vocabulary.sentinel_ids)}: set "
                f"data.tokenizer.num_sentinels to 3 or more."
            )

    def corrupt(self, rng: Array, example: Example) -> Example:
        """Rearranges documents, then shifts tokens left by one."""
        return super().corrupt(rng, self._rearranged(rng, example))

    def _rearranged(self, rng: Array, example: Example) -> Example:
        inputs, ids = example.inputs, example.document_ids
        real = inputs.segment_ids > 0
        number = jnp.where(real, ids - ids[:, :1], inputs.tokens.shape[1])
        tokens, number, real = jax.vmap(self._rearrange_row)(
            row_keys(rng, example.row_ids), inputs.tokens, number, real
        )
        return example.replace(
            inputs=dataclasses.replace(
                inputs, tokens=tokens, segment_ids=real.astype(jnp.int32)
            ),
            document_ids=jnp.where(real, ids[:, :1] + number, -1),
        )

    def _rearrange_row(
        self,
        rng: Array,
        tokens: Int[Array, " L"],
        number: Int[Array, " L"],
        real: Bool[Array, " L"],
    ) -> tuple[Int[Array, " L"], Int[Array, " L"], Bool[Array, " L"]]:
        """Tokens, numbers of their documents in the row, and what is no padding.

        All tokens and three sentinels for each document are sorted by (document, part,
        place); what is drawn for document d stands at d in arrays of length L.
        """
        length = tokens.shape[0]
        index = jnp.arange(length)
        is_end = tokens == self.vocabulary.eod_id
        documents = jnp.where(real, number, length)
        size = jnp.zeros(length, jnp.int32).at[documents].add(~is_end, mode="drop")
        fim_rng, spm_rng, cut_rng = jax.random.split(rng, 3)
        moves = jax.random.uniform(fim_rng, (length,)) < self.fim_rate
        moves &= size > 0
        is_spm = jax.random.uniform(spm_rng, (length,)) < self.spm_rate
        u = jax.random.uniform(cut_rng, (2, length))
        first, second = jnp.sort(
            jnp.floor(u * (size + 1)[None]).astype(jnp.int32), axis=0
        )

        start = jnp.full(length, length).at[documents].min(index, mode="drop")
        place = index - start.at[documents].get(mode="clip")
        own = documents.clip(0, length - 1)
        # P 0; PSM: prefix 1, S 2, suffix 3, M 4, middle 5; SPM: S 1, suffix 2, M 3,
        # prefix 4, middle 5; the end of the document 6.
        in_prefix = place < first[own]
        in_suffix = place >= second[own]
        prefix, suffix = jnp.where(is_spm[own], 4, 1), jnp.where(is_spm[own], 2, 3)
        part = jnp.where(in_prefix, prefix, jnp.where(in_suffix, suffix, 5))
        part = jnp.where(is_end, 6, jnp.where(moves[own], part, 1))
        marks = jnp.stack([jnp.zeros_like(size), 2 - is_spm, 4 - is_spm])

        sentinels = jnp.array(self.vocabulary.sentinel_ids[:3], jnp.int32)
        all_tokens = jnp.concatenate([tokens, jnp.repeat(sentinels, length)])
        unused = jnp.tile(jnp.where(moves, index, length), 3)
        all_documents = jnp.concatenate([documents, unused])
        all_parts = jnp.concatenate([part, marks.reshape(-1)])
        all_places = jnp.concatenate([place, jnp.zeros(3 * length, place.dtype)])
        all_real = jnp.concatenate([real, jnp.tile(moves, 3)])
        order = jnp.lexsort((all_places, all_parts, all_documents))[:length]
        is_real = all_real[order]
        new = jnp.where(is_real, all_tokens[order], self.vocabulary.pad_id)
        return new, all_documents[order], is_real

    def statistics(self, rng: Array, example: Example) -> dict[str, Statistic]:
        """Share of documents rearranged, and tokens dropped."""
        after = self._rearranged(rng, example).inputs.tokens
        starts = after == self.vocabulary.sentinel_ids[0]
        clean, eod = example.inputs, self.vocabulary.eod_id
        # Documents with a token of their own besides [EOD].
        begins = rows.document_starts(example) & (clean.tokens != eod)
        real = (clean.segment_ids > 0).sum(1)
        kept = (~jnp.isin(after, jnp.array(self.vocabulary.sentinel_ids[:3]))).sum(1)
        kept = jnp.minimum(kept, real)
        return {
            "rearranged / documents": share(starts, begins, self.fim_rate),
            "tokens dropped a row": mean(real - kept),
        }
