"""Text infilling and sentence permutation: BART's objective.

Lewis et al. 2020, "BART: Denoising Sequence-to-Sequence Pre-training" (arXiv:
1910.13461), section 2.2; the procedure follows the reference, fairseq's
denoising_dataset.
"""

from __future__ import annotations

import dataclasses
import math
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from objectives.base import row_keys
from objectives.corruption import rows as rows_lib
from objectives.corruption import selection, streams
from objectives.corruption.streams import Stream
from objectives.scoring import Scoring, framed
from objectives.sequence_to_sequence import SequenceToSequence
from objectives.types import Example, PromptFrame
from objectives.validation import check_choice, check_range

# Span lengths rarer than this have no place in the table (the reference's bound).
_RAREST = 1e-7


@dataclasses.dataclass(frozen=True, kw_only=True)
class TextInfilling(SequenceToSequence):
    """Spans of words become one mask each; the targets are the whole text.

        row       a  b  c  d  e  f  g  h          one word each
        spans     1 word at b, 3 words at e, and one of length 0
        inputs    <s>  a  M  c  d  M  h  M  </s>  (the last one was inserted)
        targets   <s>  a  b  c  d  e  f  g  h  </s>
        decoder   </s> <s>  a  b  c  d  e  f  g  h

    1. Budget: ceil(noise_density * words of the row), a word of more tokens than this
       share of a row being cut into several.
    2. Span lengths are drawn from a Poisson distribution until they sum to the budget;
       the last one is cut to fit.
    3. Spans of at least one word begin at different random words. A span that meets
       the end of its document ends there. Spans may overlap, so fewer words than the
       budget are hidden; a span that begins inside another leaves no mask.
    4. A span's first token becomes the mask, or with `random_prob` a random token; its
       others are deleted.
    5. Spans of length 0 are inserted as masks at random places between <s> and </s>;
       of n inserted tokens ceil(random_prob * n) are random, so a single one always is
       (the reference's rounding).

    With `permute_sentences` a share of each document's sentences first changes places
    with one another (all of them in the published recipe).

    The inputs have room for the whole framed row. Insertions beyond that, which only
    rows that lost next to nothing can have, are left out, so nothing is ever cut.
    Unlike the reference, random tokens are never special ones, spans and permutations
    stay within a document, and `[EOD]` is kept in its place.

    Attributes:
      noise_density: share of the words to hide.
      mean_noise_span_length: mean of the Poisson distribution, in words.
      random_prob: share of masks that are random tokens instead.
      unit: what spans consist of, 'word' or 'token'.
      permute_sentences: share of the sentences that change places.

    Raises:
      ValueError: a setting out of range, or a tokenizer without the tables it needs.
    """

    name: ClassVar[str] = "text_infilling"

    noise_density: float
    mean_noise_span_length: float
    random_prob: float
    unit: str
    permute_sentences: float

    def __post_init__(self):
        super().__post_init__()
        name = self.name
        check_range(self, "noise_density", above=0, below=1)
        check_range(self, "mean_noise_span_length", above=0, at_most=self.row_length)
        check_range(self, "random_prob", "permute_sentences", at_least=0, at_most=1)
        check_choice(self, "unit", ("word", "token"))
        self.vocabulary.require(name, "bos_id", "mask_id")
        if self.unit == "word":
            self.vocabulary.require(name, "is_word_start")
        if self.permute_sentences:
            self.vocabulary.require(name, "is_sentence_end")

    @property
    def stream_lengths(self) -> tuple[int, int]:
        return self.row_length + 2, self.row_length + 2

    @property
    def start_id(self) -> int:
        return self.vocabulary.eos_id

    def corrupt(self, rng: Array, example: Example) -> Example:
        rows = self.rows(example)
        permute_rngs, infill_rngs = jnp.unstack(
            jax.vmap(jax.random.split)(row_keys(rng, example.row_ids)), axis=1
        )
        text = rows
        if self.permute_sentences:
            ends = rows_lib.sentence_ends(rows.tokens, self.vocabulary)
            text = jax.vmap(self._permute)(permute_rngs, rows, ends)
        inputs = dataclasses.replace(example.inputs, tokens=text.tokens)
        eligible = rows_lib.eligible(inputs, self.vocabulary)
        starts = eligible
        if self.unit == "word":
            longest = selection.ceil_share(self.row_length, self.noise_density)
            starts = rows_lib.word_starts(
                text.tokens, eligible, self.vocabulary, longest
            )
        corrupted = jax.vmap(self._infill)(infill_rngs, text, eligible, starts)
        return self.arrange(example, corrupted, jax.vmap(self._frame)(rows))

    def _frame(self, row: Stream) -> Stream:
        vocabulary = self.vocabulary
        return streams.append(
            streams.prepend(row, vocabulary.bos_id),
            vocabulary.eos_id,
            vocabulary.pad_id,
        )

    def _permute(self, rng: Array, row: Stream, ends: Bool[Array, " R"]) -> Stream:
        """Shuffles a share of each document's sentences over each other's places."""
        index = jnp.arange(self.row_length, dtype=jnp.int32)
        fixed = (row.tokens == self.vocabulary.eod_id) | (row.segment_ids == 0)
        # A fixed token is a sentence by itself, and the text before it ends there.
        ends = ends | fixed | jnp.append(fixed[1:], True)
        sentences = jnp.cumsum(ends, dtype=jnp.int32) - ends
        last_tokens = jnp.zeros_like(index).at[sentences].max(index)
        # Documents follow each other, so their changes number them.
        changes = jnp.diff(row.document_ids, prepend=row.document_ids[:1]) != 0
        documents = jnp.cumsum(changes, dtype=jnp.int32)
        # What stays has a group to itself, above all documents.
        alone = self.row_length + index
        stays = fixed[last_tokens] | (index > sentences[-1])
        groups = jnp.where(stays, alone, documents[last_tokens])
        if self.permute_sentences < 1.0:
            share_rng, rng = jax.random.split(rng)
            chosen = choose_share(share_rng, groups, self.permute_sentences)
            groups = jnp.where(chosen, groups, alone)
        places = streams.shuffle_places(rng, groups)
        source = jnp.argsort(places[sentences], stable=True)
        return Stream(
            tokens=row.tokens[source],
            segment_ids=row.segment_ids,
            document_ids=row.document_ids[source],
        )

    def _infill(
        self,
        rng: Array,
        row: Stream,
        eligible: Bool[Array, " R"],
        starts: Bool[Array, " R"],
    ) -> Stream:
        """Masks spans, deletes the rest of each, frames the row and inserts masks."""
        draws, slots = self._num_draws, self._num_slots
        length, framed = self.row_length, self.row_length + 2
        uniform_rng, values_rng = jax.random.split(rng)
        # One draw for all purposes: a generator call each would take longer to
        # compile than everything else.
        u = jax.random.uniform(uniform_rng, (draws + 2 * length + framed,))
        u_lengths, u_starts, u_kinds, u_places = jnp.split(
            u, [draws, draws + length, draws + 2 * length]
        )
        ordinary = jnp.asarray(np.flatnonzero(~self.vocabulary.is_special), jnp.int32)
        chosen = jax.random.randint(values_rng, (length + slots,), 0, ordinary.size)
        values = ordinary[chosen]

        budget = selection.ceil_share(starts.sum(dtype=jnp.int32), self.noise_density)
        lengths, num_insertions = self._span_lengths(u_lengths, budget)
        _, places = jax.lax.top_k(jnp.where(starts, u_starts, -1.0), slots)
        masked, deleted = cover(places, lengths, eligible, starts)
        masks = jnp.where(
            u_kinds < self.random_prob, values[:length], self.vocabulary.mask_id
        )
        masked_row = Stream(
            tokens=jnp.where(masked, masks, row.tokens),
            # The frame's packing keeps what lies in a segment.
            segment_ids=jnp.where(deleted, 0, row.segment_ids),
            document_ids=jnp.where(masked, -1, row.document_ids),
        )
        return self._insert(
            u_places, values[length:], self._frame(masked_row), num_insertions
        )

    @property
    def _num_draws(self) -> int:
        """Poisson draws that reach any budget."""
        return max_draws(
            self.row_length, self.noise_density, self.mean_noise_span_length
        )

    @property
    def _num_slots(self) -> int:
        """M, room for spans, and for insertions."""
        return min(self._num_draws, self.row_length)

    def _span_lengths(
        self, u: Float[Array, " N"], budget: Int[Array, ""]
    ) -> tuple[Int[Array, " M"], Int[Array, ""]]:
        """Lengths of the spans that sum to the budget, and the number of empty ones.

        Empty spans are taken out; dead slots at the end have length 0.
        """
        table = jnp.asarray(poisson_table(self.mean_noise_span_length))
        drawn = jnp.searchsorted(table, u, side="right").astype(jnp.int32)
        before = jnp.cumsum(drawn) - drawn
        used = before < budget
        drawn = jnp.where(used, jnp.minimum(drawn, budget - before), 0)
        slots = jnp.where(drawn > 0, jnp.cumsum(drawn > 0) - 1, u.shape[0])
        lengths = jnp.zeros(self._num_slots, jnp.int32)
        lengths = lengths.at[slots].set(drawn, mode="drop")
        return lengths, (used & (drawn == 0)).sum(dtype=jnp.int32)

    def _insert(
        self,
        u: Float[Array, " L"],
        values: Int[Array, " M"],
        row: Stream,
        count: Int[Array, ""],
    ) -> Stream:
        """Inserts `count` masks between the first and the last token, if they fit."""
        length = (row.segment_ids > 0).sum(dtype=jnp.int32)
        size = row.tokens.shape[0]
        room = jnp.where(length > 0, size - length, 0)
        count = jnp.minimum(count, jnp.minimum(room, values.shape[0]))
        index = jnp.arange(size)
        between = (index > 0) & (index < length + count - 1)
        _, places = jax.lax.top_k(jnp.where(between, u, -1.0), values.shape[0])
        order = jnp.arange(places.shape[0])
        # The ranking is random, so its first places may hold the random tokens.
        is_random = order < selection.ceil_share(count, self.random_prob)
        values = jnp.where(is_random, values, self.vocabulary.mask_id)
        places = jnp.where(order < count, places, size)
        inserted = jnp.zeros(size, bool).at[places].set(True, mode="drop")
        source = jnp.cumsum(~inserted) - 1
        return Stream(
            tokens=row.tokens[source].at[places].set(values, mode="drop"),
            segment_ids=row.segment_ids[source],
            document_ids=jnp.where(inserted, -1, row.document_ids[source]),
        )

    @property
    def prompt(self) -> PromptFrame:
        """As in other arrangements, the text behind <s>."""
        return dataclasses.replace(super().prompt, before=(self.vocabulary.bos_id,))

    def scoring(self) -> Scoring:
        """Log-likelihood of the whole text behind one mask."""
        return Scoring(kind="exact", arrange=self._arrange_text)

    def _arrange_text(
        self, tokens: Array, lengths: Array, hidden: Array | None
    ) -> Example:
        vocabulary = self.vocabulary
        start, end = vocabulary.bos_id, vocabulary.eos_id
        targets, count = framed(tokens, lengths, (start,), ())
        inputs = (start, vocabulary.mask_id, end)
        return self.arrange_text(inputs, targets, count, first=1)


def cover(
    places: Int[Array, " M"],
    lengths: Int[Array, " M"],
    eligible: Bool[Array, " R"],
    starts: Bool[Array, " R"],
) -> tuple[Bool[Array, " R"], Bool[Array, " R"]]:
    """Tokens that become masks, and tokens that disappear.

        row        a  b  ##b c  d  [EOD] e  f
        starts     1  1  .   1  1  .     1  1
        spans      2 words at b, 1 at c, 3 at d
        masked     .  1  .   .  1  .     .  .     (c's span began inside b's)
        deleted    .  .  1   1  .  .     .  .     (d's stopped before [EOD])

    Args:
      places: tokens where spans begin, distinct word starts.
      lengths: words of each span; 0 = a dead slot.
      eligible: tokens that belong to words; spans end before any other.
      starts: tokens that begin a word.
    """
    size = eligible.shape[0]
    words = jnp.cumsum(starts, dtype=jnp.int32)
    # Words up to the end of the run of eligible tokens that a token lies in.
    reach = jax.lax.cummin(jnp.where(eligible, words[-1], words), reverse=True)
    first = words[places] - 1
    end = jnp.minimum(first + lengths, reach[places])
    live = (lengths > 0).astype(jnp.int32)
    changes = jnp.zeros(size + 1, jnp.int32)
    changes = changes.at[first].add(live, mode="drop").at[end].add(-live, mode="drop")
    spans = jnp.where(eligible & (words > 0), jnp.cumsum(changes)[words - 1], 0)
    begins = jnp.zeros(size, bool).at[places].max(live > 0)
    masked = begins & (spans == 1)
    return masked, (spans > 0) & ~masked


def choose_share(
    rng: Array, groups: Int[Array, " L"], share: float
) -> Bool[Array, " L"]:
    """ceil(share * size) random members of every group; members are neighbours."""
    size = groups.shape[0]
    rank = streams.shuffle_places(rng, groups)
    rank = rank - jax.lax.cummax(
        jnp.where(
            streams.first_of_segment(groups), jnp.arange(size, dtype=jnp.int32), 0
        )
    )
    sizes = streams.segment_lengths(groups, 2 * size)[groups]
    return rank < selection.ceil_share(sizes, share)


def poisson_table(mean: float) -> np.ndarray:
    """Distribution function of span lengths 0, 1, ..: cut where it is all but 1.

    Inverting it at a uniform number draws a length; the last one takes the rest.
    """
    largest = math.ceil(mean + 12 * math.sqrt(mean) + 20)
    k = np.arange(largest + 1)
    log_factorial = np.cumsum(np.log(np.maximum(k, 1)))
    probabilities = np.exp(k * math.log(mean) - mean - log_factorial)
    last = np.flatnonzero(probabilities >= _RAREST).max()
    table = np.cumsum(probabilities[: last + 1])
    return (table / table[-1])[:-1].astype(np.float32)


def max_draws(row_length: int, noise_density: float, mean: float) -> int:
    """Poisson draws that sum to the largest budget, six deviations to be safe.

    n draws sum to x = n * mean with deviation sqrt(x); x - 6 sqrt(x) = budget.
    """
    budget = selection.ceil_share(row_length, noise_density)
    return math.ceil((3 + math.sqrt(9 + budget)) ** 2 / mean)
