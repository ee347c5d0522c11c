"""Pairs of segments: does the second follow the first, or are the two in order?"""

from __future__ import annotations

import dataclasses
import functools
from typing import ClassVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from objectives.base import Objective, row_keys
from objectives.corruption.matching import choose_half, match_rows
from objectives.corruption.pairs import (
    Pairs,
    Segments,
    common_lengths,
    cut_rows,
    frame_pairs,
)
from objectives.heads import PooledClassifier
from objectives.statistics import Statistic
from objectives.types import Example, Lengths, Target, Term
from objectives.validation import check_choice, check_range, check_row_length


@dataclasses.dataclass(frozen=True, kw_only=True)
class NextSentence(Objective):
    """Next-sentence prediction (Devlin et al. 2019, section 3.1, task 2) and its heirs.

    A row gives two consecutive segments A and B of one document, cut at a sentence end
    chosen at random. Half of the rows keep their B (label 0); the others take the B
    of a row of another document (label 1):

        row i     the cat sat . it purred .     A = the cat sat .   B = it purred .
        row j     rain fell . all day it ...    A = rain fell .     B = all day it ...
        label 0   [CLS] the cat sat . [SEP] it purred [SEP]     row i, its own B
        label 1   [CLS] the cat sat . [SEP] all day   [SEP]     row i, the B of row j
        types     0     0   0   0   0 0     1   1     1

    Rows are matched in pairs of different documents whose B are about equally long.
    Both B are cut to one length, whatever the label, and a pair swaps them or does
    not. It is the largest length at which both end alike (with a full stop or not,
    with a whole word or not, with their text or before its end): an A and a B of the
    same document have lengths that add up, so whether B was cut would otherwise tell
    whose it is. So the rows that count have exactly half of each label (an odd one
    goes either way), no text is used twice, and neither A alone nor B alone nor both
    lengths and the end of B together say anything about the label (boosted trees on
    these: 50.2% +- 0.4): only whether A and B belong together does. The reference
    (create_pretraining_data.py) yields 54 to 62% random pairs that are 10 to 22 tokens
    shorter than true ones.

    With negatives 'swapped' it is sentence-order prediction (Lan et al. 2020, section
    3.1): two consecutive segments in order (0) or swapped (1). Both begin with a
    sentence and are cut to one length at which they end alike, as above: A is followed
    by text and B perhaps by the end of the document, so uncut ones would tell the
    order. Cuts near the middle are preferred, to leave out little.

        row       it rained . the cat sat . it purred and slept .
        label 0   [CLS] the cat sat [SEP] it purred and [SEP]
        label 1   [CLS] it purred and [SEP] the cat sat [SEP]

    Of the documents in a row the longest that can be cut is used. What cannot be
    done is left out of the loss (weight 0, label 0) and counted in the metrics, each
    a mean over rows:

    ====================  ==============================================================
    nsp_one_sentence      no document of the row has a sentence end inside: the longest
                          one is [CLS] A [SEP], for a masking stage to use
    nsp_no_partner        all rows are of one document, or the partner's B has no end
                          in common with it: the row keeps its own B
    nsp_unused            share of the row's tokens in neither segment
    ====================  ==============================================================

    Attributes:
      loss_weight: weight of the term 'nsp' ('sop' for swapped segments).
      negatives: what label 1 is: 'other_document' (BERT) or 'swapped' (ALBERT).
    """

    name: ClassVar[str] = "next_sentence"
    architectures: ClassVar[tuple[str, ...]] = ("encoder",)
    produces: ClassVar[str] = "framed"
    row_wise: ClassVar[bool] = False
    head = functools.partial(PooledClassifier, num_classes=2)

    loss_weight: float
    negatives: str

    def __post_init__(self):
        # A token for each segment.
        check_row_length(self, 2)
        check_range(self, "loss_weight", above=0)
        check_choice(self, "negatives", ("other_document", "swapped"))
        self.vocabulary.require(
            self.name, "cls_id", "sep_id", "eod_id", "is_sentence_end"
        )

    @property
    def term(self) -> str:
        """Name of the loss term."""
        return {"other_document": "nsp", "swapped": "sop"}[self.negatives]

    @property
    def terms(self) -> dict[str, Term]:
        names = {"nsp": ("next", "random"), "sop": ("in order", "swapped")}
        term = Term(
            weight=self.loss_weight,
            predicts="labels",
            label_names=names[self.term],
        )
        return {self.term: term}

    @property
    def lengths(self) -> Lengths:
        return Lengths(
            inputs=self.row_length + 3,
            targets={self.term: 1},
        )

    def corrupt(self, rng: Array, example: Example) -> Example:
        """Cuts every row in two and gives half of them the wrong second segment."""
        row_rng, batch_rng = jax.random.split(rng)
        keys = jax.vmap(jax.random.split)(row_keys(row_rng, example.row_ids))
        cut_at = jax.vmap(lambda key: jax.random.uniform(key, (self.row_length,)))
        scores = jax.vmap(jax.random.uniform)(keys[:, 1])
        swapped = self.negatives == "swapped"
        pairs = cut_rows(cut_at(keys[:, 0]), example, self.vocabulary, halves=swapped)
        build = self._swap if swapped else self._exchange
        first, second, labels, counts = build(batch_rng, scores, pairs)
        used = (first.lengths + second.lengths) / self.row_length
        metrics = {
            f"{self.term}_one_sentence": (~pairs.exists).astype(jnp.float32),
            f"{self.term}_unused": 1.0 - used,
        }
        if not swapped:
            no_partner = pairs.exists & ~counts
            metrics[f"{self.term}_no_partner"] = no_partner.astype(jnp.float32)
        target = Target(
            values=labels.astype(jnp.int32)[:, None],
            loss_weights=counts.astype(jnp.float32)[:, None],
            positions=jnp.zeros((labels.shape[0], 1), jnp.int32),
        )
        framed = frame_pairs(example, first, second, self.vocabulary)
        return framed.replace(
            targets={**example.targets, self.term: target},
            metrics={**example.metrics, **metrics},
        )

    def _exchange(
        self, rng: Array, scores: Float[Array, " B"], pairs: Pairs
    ) -> tuple[Segments, Segments, Bool[Array, " B"], Bool[Array, " B"]]:
        """A and B' of every row, the label, and whether it counts."""
        own = jnp.arange(scores.shape[0], dtype=jnp.int32)
        partners = match_rows(pairs.second.lengths, pairs.documents, pairs.exists)
        others = jax.tree.map(lambda values: values[partners], pairs.second)
        # Cut whatever the label, so that the cut does not give it away.
        cut = common_lengths(pairs.ends, pairs.second, others)
        counts = (partners != own) & (cut > 0)
        labels = choose_half(rng, scores, partners, counts)
        second = Segments(
            rows=jnp.where(labels, others.rows, own),
            starts=jnp.where(labels, others.starts, pairs.second.starts),
            lengths=jnp.where(counts, cut, pairs.second.lengths),
        )
        return pairs.first, second, labels, counts

    def _swap(
        self, rng: Array, scores: Float[Array, " B"], pairs: Pairs
    ) -> tuple[Segments, Segments, Bool[Array, " B"], Bool[Array, " B"]]:
        """The two segments in either order, the label, and whether it counts."""
        own = jnp.arange(scores.shape[0], dtype=jnp.int32)
        cut = common_lengths(pairs.ends, pairs.first, pairs.second)
        counts = pairs.exists & (cut > 0)
        labels = choose_half(rng, scores, own, counts)

        def pick(yes: Segments, no: Segments) -> Segments:
            chosen = jax.tree.map(lambda y, n: jnp.where(labels, y, n), yes, no)
            lengths = jnp.where(counts, cut, chosen.lengths)
            return dataclasses.replace(chosen, lengths=lengths)

        first = pick(pairs.second, pairs.first)
        return first, pick(pairs.first, pairs.second), labels, counts

    def statistics(self, rng: Array, example: Example) -> dict[str, Statistic]:
        """Labels of the rows that count, and lengths, which must not tell them."""
        example = self.corrupt(rng, example)
        target = example.targets[self.term]
        types, text = example.inputs.token_type_ids, example.document_ids >= 0
        classes = jnp.arange(2)[None]
        is_class = (target.values == classes) * target.loss_weights
        names = self.terms[self.term].label_names
        counts = target.loss_weights[:, 0]
        result = {
            f"{self.term} label": Statistic(
                totals=is_class, counts=counts, nominal=(0.5, 0.5), classes=names
            )
        }
        for segment, name in enumerate("AB"):
            size = (text & (types == segment)).sum(1).astype(jnp.float32)
            for label, label_name in enumerate(names):
                result[f"tokens of {name}, {label_name}"] = Statistic(
                    totals=size * is_class[:, label], counts=is_class[:, label]
                )
        return result
