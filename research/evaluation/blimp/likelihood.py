"""How likely a sentence is to any pretrained model, whatever its objective.

A decoder gives the log-likelihood of the sentence's tokens after the start token:

    [EOD] the cat sat           log p(the) + log p(cat | the) + log p(sat | the cat)

An encoder gives the pseudo-log-likelihood (Salazar et al. 2020): each token is masked
alone and predicted from all others.

    [CLS] [MASK] cat sat [SEP] , [CLS] the [MASK] sat [SEP] , [CLS] the cat [MASK] [SEP]

Sequence-to-sequence objectives give the log-likelihood of what their targets hold when
everything that they may hide is hidden: the whole sentence as one span (span
corruption, text infilling), or all but the first token (prefix LM).

    encoder  S0 $        decoder  ^ S0 the cat sat      counted: the, cat, sat
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, cast

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, Int

from models.backbone import BackboneConfig
from models.inputs import ModelInputs
from objectives.base import Objective
from objectives.corruption.rows import indices
from objectives.corruption.streams import Stream
from objectives.sequence_to_sequence import SequenceToSequence
from objectives.types import Example, Target
from research.config.sections import RunConfig
from research.errors import UserError
from research.evaluation.finetuning import batching
from research.training import state as state_lib

if TYPE_CHECKING:
    from objectives.composed import Composed
    from research.training.trained_run import Backbone

# Logits held at a time, over all rows of a batch.
_LOGITS = {"cpu": 2**24, "gpu": 2**29, "tpu": 2**29}
_MAX_ROWS = 512
# Special tokens around a sentence, at most.
_FRAME = 3
# Few shapes, for every one is compiled; close where most sentences are.
_BUCKETS = (6, 8, 10, 12, 14, 16, 20, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512)

Arranged = tuple[ModelInputs, Target]
# (stage, tokens [B, L], lengths [B]) -> what the model reads and which tokens count.
Arrange = Callable[[Any, Int[Array, "B L"], Int[Array, " B"]], Arranged]


def log_likelihoods(backbone: Backbone, rows: Sequence[np.ndarray]) -> np.ndarray:
    """Log-likelihood, or pseudo-log-likelihood, of each row of tokens, in nats.

    Args:
      rows: token ids of each sentence, without special tokens.

    Returns:
      float64 [rows].

    Raises:
      UserError: if the objective defines no likelihood, or a row is too long.
    """
    reason = refusal(backbone.config)
    if reason:
        raise UserError(reason)
    scorer = _Scorer(backbone)
    longest = max(len(row) for row in rows)
    limit = backbone.model_config.max_length
    if limit is not None and longest > limit - _FRAME:
        raise UserError(
            f"a sentence of {longest} tokens is longer than the {limit - _FRAME} that "
            f"model.max_seq_len = {limit} leaves room for."
        )
    if scorer.is_pseudo:
        return _pseudo(scorer, rows)
    return _left_to_right(scorer, rows)


def refusal(config: RunConfig) -> str:
    """Why a run's model gives no likelihood of a sentence, or ''."""
    names = config.objective.name
    if any(name in _ARRANGEMENTS or name in _PSEUDO for name in names):
        return ""
    known = ", ".join(sorted((*_ARRANGEMENTS, *_PSEUDO)))
    return (
        f"objective {' + '.join(names)} defines no likelihood of a sentence; these do: "
        f"{known}."
    )


class _Scorer:
    """The compiled side: log-probabilities of a batch's targets."""

    def __init__(self, backbone: Backbone):
        self.backbone = backbone
        self.vocabulary = backbone.vocabulary
        objective = cast("Composed", backbone.objective)
        self.stage = next(
            stage
            for stage in objective.stages
            if stage.name in _ARRANGEMENTS or stage.name in _PSEUDO
        )
        self.is_pseudo = self.stage.name in _PSEUDO
        self._score = _compiled(backbone.model_config, objective, self.stage)

    def left_to_right(self, tokens: np.ndarray, lengths: np.ndarray) -> Array:
        """Log-likelihood of padded rows. [B]"""
        return self._score(self.backbone.params, tokens, lengths)

    def pseudo(
        self, tokens: np.ndarray, lengths: np.ndarray, hidden: np.ndarray
    ) -> Array:
        """Log-probability of the token at index `hidden` of each padded row. [B]"""
        return self._score(self.backbone.params, tokens, lengths, hidden)

    def batch_size(self, length: int) -> int:
        """Rows that keep the logits of a batch within bounds."""
        targets = 1 if self.is_pseudo else length + _FRAME
        vocab_size = self.vocabulary.vocab_size
        rows = _LOGITS[jax.default_backend()] // (targets * vocab_size)
        # A power of two, the same for rows of about the same length.
        return 2 ** max(0, min(_MAX_ROWS, rows).bit_length() - 1)


@functools.lru_cache(maxsize=8)
def _compiled(
    config: BackboneConfig, objective: Objective, stage: Any
) -> Callable[..., Float[Array, " B"]]:
    """(params, tokens, lengths[, hidden]) -> log-probabilities, for all equal runs."""
    modules = state_lib.create_modules(config, objective)
    arrange = _masked if stage.name in _PSEUDO else _ARRANGEMENTS[stage.name]

    def score(params, *rows: Array) -> Float[Array, " B"]:
        inputs, target = arrange(stage, *rows)
        model, heads = modules.merge(params)
        head = getattr(heads, stage.name)
        return _target_log_probs(stage, head, model, inputs, target)

    return jax.jit(score)


def _target_log_probs(
    stage: Objective,
    heads: nnx.Module,
    model: Any,
    inputs: ModelInputs,
    target: Target,
) -> Float[Array, " B"]:
    """Sum of the log-probabilities of a row's weighted targets, in float32."""
    (term,) = [name for name in stage.terms if name in _TOKEN_TERMS]
    hidden_states = model(inputs, at=stage.read_at(term, target), deterministic=True)
    features, table, bias = stage.readout(
        term, heads, hidden_states, target, model.embedding
    )
    logits = jax.lax.dot_general(
        features,
        table.astype(features.dtype),
        (((2,), (1,)), ((), ())),
        preferred_element_type=jnp.float32,
    )
    if bias is not None:
        logits = logits + bias.astype(jnp.float32)[None, None]
    chosen = jnp.take_along_axis(logits, target.values[..., None], axis=-1)[..., 0]
    log_probs = chosen - jax.nn.logsumexp(logits, axis=-1)
    return jnp.where(target.loss_weights > 0, log_probs, 0.0).sum(-1)


def _left_to_right(scorer: _Scorer, rows: Sequence[np.ndarray]) -> np.ndarray:
    lengths = np.array([len(row) for row in rows])
    buckets = batching.usable_buckets(_BUCKETS, int(lengths.max()))
    result = np.zeros(len(rows))
    pending = []
    for length, size, chosen in _batches(scorer, lengths, buckets):
        tokens, real = _padded([rows[i] for i in chosen], length, size)
        pending.append((chosen, scorer.left_to_right(tokens, real)))
    for chosen, values in pending:
        result[chosen] = np.asarray(values)[: len(chosen)]
    return result


def _pseudo(scorer: _Scorer, rows: Sequence[np.ndarray]) -> np.ndarray:
    lengths = np.array([len(row) for row in rows])
    sentence = np.repeat(np.arange(len(rows)), lengths)
    hidden = np.concatenate([np.arange(length) for length in lengths])
    buckets = batching.usable_buckets(_BUCKETS, int(lengths.max()))
    result = np.zeros(len(rows))
    pending = []
    for length, size, chosen in _batches(scorer, lengths[sentence], buckets):
        tokens, real = _padded([rows[i] for i in sentence[chosen]], length, size)
        which = np.zeros(size, np.int32)
        which[: len(chosen)] = hidden[chosen]
        pending.append((chosen, scorer.pseudo(tokens, real, which)))
    for chosen, values in pending:
        # Summed in a fixed order, in double precision.
        np.add.at(
            result, sentence[chosen], np.asarray(values, np.float64)[: len(chosen)]
        )
    return result


def _batches(
    scorer: _Scorer, lengths: np.ndarray, buckets: tuple[int, ...]
) -> Iterator[tuple[int, int, np.ndarray]]:
    """(length, size, rows of at most that many), of all rows by bucket.

    A bucket has one size: a whole batch, or less if it has few rows.
    """
    bucket_of = np.searchsorted(buckets, lengths)
    for index, length in enumerate(buckets):
        rows = np.flatnonzero(bucket_of == index)
        size = min(scorer.batch_size(length), 2 ** max(len(rows) - 1, 0).bit_length())
        for start in range(0, len(rows), size):
            yield length, size, rows[start : start + size]


def _padded(
    rows: Sequence[np.ndarray], length: int, count: int
) -> tuple[np.ndarray, np.ndarray]:
    """Tokens int32 [count, length] and lengths [count]; filler rows have length 1."""
    tokens = np.zeros((count, length), np.int32)
    lengths = np.ones(count, np.int32)
    for index, row in enumerate(rows):
        tokens[index, : len(row)] = row
        lengths[index] = len(row)
    return tokens, lengths


def _causal(stage: Any, tokens: Array, lengths: Array) -> Arranged:
    """[EOD] and the sentence; with documents isolated, the sentence alone.

    A model of isolated documents has never seen anything before a first token, and
    does not predict it.
    """
    vocabulary = stage.vocabulary
    start = () if stage.isolate_documents else (vocabulary.eod_id,)
    inputs, count = _framed(tokens, lengths, start, ())
    index = indices(inputs)
    values = jnp.roll(inputs, -1, axis=1)
    weights = (index < count[:, None] - 1).astype(jnp.float32)
    return _one_segment(inputs, count), Target(values=values, loss_weights=weights)


def _masked(stage: Any, tokens: Array, lengths: Array, hidden: Array) -> Arranged:
    """[CLS] sentence [SEP] with the token at index `hidden` masked."""
    vocabulary = stage.vocabulary
    framed, count = _framed(tokens, lengths, (vocabulary.cls_id,), (vocabulary.sep_id,))
    position = (hidden + 1)[:, None].astype(jnp.int32)
    values = jnp.take_along_axis(framed, position, axis=1)
    inputs = jnp.where(indices(framed) == position, vocabulary.mask_id, framed)
    target = Target(
        values=values,
        loss_weights=jnp.ones(values.shape, jnp.float32),
        positions=position,
    )
    return _one_segment(inputs, count), target


def _span(stage: Any, tokens: Array, lengths: Array) -> Arranged:
    """The whole sentence behind the first sentinel."""
    sentinel, end = stage.vocabulary.sentinel_ids[0], stage.vocabulary.eos_id
    inputs = _constant_rows(tokens.shape[0], (sentinel, end))
    targets, count = _framed(tokens, lengths, (sentinel,), ())
    return _arranged(stage, inputs, targets, count, first=1)


def _infilled(stage: Any, tokens: Array, lengths: Array) -> Arranged:
    """The whole sentence behind one mask."""
    vocabulary = stage.vocabulary
    start, end = vocabulary.bos_id, vocabulary.eos_id
    inputs = _constant_rows(tokens.shape[0], (start, vocabulary.mask_id, end))
    targets, count = _framed(tokens, lengths, (start,), ())
    return _arranged(stage, inputs, targets, count, first=1)


def _after_prefix(stage: Any, tokens: Array, lengths: Array) -> Arranged:
    """The sentence after its first token, which is the prefix."""
    if stage.architecture == "decoder":
        index = indices(tokens)
        inputs = dataclasses.replace(
            _one_segment(tokens, lengths),
            bidirectional=(index == 0) if stage.bidirectional_inputs else None,
        )
        values = jnp.roll(tokens, -1, axis=1)
        weights = (index < lengths[:, None] - 1).astype(jnp.float32)
        return inputs, Target(values=values, loss_weights=weights)
    inputs_stream = Stream(
        tokens=tokens[:, :1],
        segment_ids=jnp.ones_like(tokens[:, :1]),
        document_ids=jnp.zeros_like(tokens[:, :1]),
    )
    return _arranged(stage, inputs_stream, tokens[:, 1:], lengths - 1, first=0)


def _arranged(
    stage: SequenceToSequence,
    inputs: Stream,
    targets: Array,
    count: Array,
    *,
    first: int,
) -> Arranged:
    """The stage's own arrangement; targets count from index `first` on."""
    index = indices(targets)
    real = (index < count[:, None]).astype(jnp.int32)
    stream = Stream(
        tokens=targets, segment_ids=real, document_ids=jnp.zeros_like(targets)
    )
    empty = Example(
        inputs=_one_segment(inputs.tokens, jnp.full_like(count, 1)),
        targets={},
        row_ids=jnp.arange(targets.shape[0], dtype=jnp.int32),
        document_ids=inputs.document_ids,
    )
    example = stage.arrange(empty, inputs, stream)
    target = example.targets[stage.name]
    weights = jnp.where(index >= first, target.loss_weights, 0.0)
    return example.inputs, dataclasses.replace(target, loss_weights=weights)


def _constant_rows(count: int, ids: tuple[int, ...]) -> Stream:
    tokens = jnp.broadcast_to(jnp.array(ids, jnp.int32)[None], (count, len(ids)))
    return Stream(
        tokens=tokens,
        segment_ids=jnp.ones_like(tokens),
        document_ids=jnp.zeros_like(tokens),
    )


def _framed(
    tokens: Array, lengths: Array, start: tuple[int, ...], end: tuple[int, ...]
) -> tuple[Array, Array]:
    """Rows with tokens put before and behind; and their lengths."""
    batch_size = tokens.shape[0]

    def columns(ids: tuple[int, ...]) -> Array:
        row = jnp.array(ids, jnp.int32).reshape(1, -1)
        return jnp.broadcast_to(row, (batch_size, len(ids)))

    rows = jnp.concatenate(
        [columns(start), tokens, jnp.zeros((batch_size, len(end)), jnp.int32)], axis=1
    )
    count = (lengths + len(start)).astype(jnp.int32)
    for token in end:
        rows = jnp.where(indices(rows) == count[:, None], token, rows)
        count = count + 1
    return rows, count


def _one_segment(tokens: Array, lengths: Array) -> ModelInputs:
    index = indices(tokens)
    return ModelInputs(
        tokens=tokens,
        segment_ids=(index < lengths[:, None]).astype(jnp.int32),
        positions=index,
    )


_ARRANGEMENTS: dict[str, Arrange] = {
    "causal_lm": _causal,
    "prefix_lm": _after_prefix,
    "span_corruption": _span,
    "text_infilling": _infilled,
}
# Objectives whose model predicts a masked token from both sides.
_PSEUDO = ("masked_lm", "span_boundary")
# Terms that predict tokens of the text, of the stages above.
_TOKEN_TERMS = ("clm", "mlm", "prefix_lm", "span_corruption", "text_infilling")
