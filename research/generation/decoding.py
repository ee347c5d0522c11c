"""Sampling, greedy and beam search with a key-value cache, each one jitted program."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from research.generation.language_model import LanguageModel
from research.generation.sampling import next_token

# Below every sum of log-probabilities that occurs, and still exact to add to.
_NEVER = -1.0e9


@dataclasses.dataclass(frozen=True)
class DecodingConfig:
    """How to decode.

    Attributes:
      max_new_tokens: tokens written at most.
      temperature, top_k, top_p: see `sampling.filtered`; temperature 0 = greedy.
      num_beams: beams of beam search; 1 = sampling or greedy.
      length_penalty: a finished beam's score is its log-probability divided by
        its length to this power.

    Raises:
      ValueError: for a value that is not allowed, naming it and what is.
    """

    max_new_tokens: int
    temperature: float
    top_k: int
    top_p: float
    num_beams: int
    length_penalty: float

    def __post_init__(self):
        allowed = {
            "max_new_tokens": (self.max_new_tokens >= 1, ">= 1"),
            "temperature": (self.temperature >= 0, ">= 0 (0 is greedy)"),
            "top_k": (self.top_k >= 0, ">= 0 (0 keeps all tokens)"),
            "top_p": (0 < self.top_p <= 1, "> 0 and <= 1"),
            "num_beams": (self.num_beams >= 1, ">= 1"),
        }
        for field, (holds, rule) in allowed.items():
            if not holds:
                raise ValueError(f"{field} = {getattr(self, field)}: must be {rule}.")
        if self.num_beams > 1 and self.temperature > 0:
            raise ValueError(
                f"num_beams = {self.num_beams} with temperature = {self.temperature}: "
                f"beam search does not sample; set temperature to 0 or num_beams to 1."
            )


@functools.partial(jax.jit, static_argnums=(0, 1))
def generate(
    language_model: LanguageModel,
    config: DecodingConfig,
    params: Any,
    prompts: Int[Array, "B P"],
    is_prompt: Bool[Array, "B P"],
    rng: Array,
) -> Int[Array, "B N"]:
    """Continues every prompt by N = max_new_tokens tokens, the rest padding.

    Args:
      language_model: the network as functions of `params`.
      config: how to decode.
      params: {'model': ..., 'heads': ...}.
      prompts: padded on the left.
      is_prompt: where they are not padding.
      rng: key of the samples.
    """
    if config.num_beams > 1:
        return _beam_search(language_model, config, params, prompts, is_prompt)
    return _sample(language_model, config, params, prompts, is_prompt, rng)


def _stops(language_model: LanguageModel, tokens: Int[Array, " *shape"]):
    stops = jnp.zeros(tokens.shape, bool)
    for stop_id in language_model.stop_ids:
        stops |= tokens == stop_id
    return stops


class _SampleState(NamedTuple):
    written: Int[Array, ""]
    logits: Float[Array, "B V"]
    cache: Any
    positions: Int[Array, " B"]
    done: Bool[Array, " B"]
    output: Int[Array, "B N"]


def _sample(language_model, config, params, prompts, is_prompt, rng):
    length = config.max_new_tokens
    logits, cache, positions = language_model.start(params, prompts, is_prompt, length)
    batch = prompts.shape[0]
    state = _SampleState(
        written=jnp.zeros((), jnp.int32),
        logits=logits,
        cache=cache,
        positions=positions,
        done=jnp.zeros((batch,), bool),
        output=jnp.full((batch, length), language_model.pad_id, jnp.int32),
    )

    def unfinished(state):
        return (state.written < length) & ~state.done.all()

    def step(state):
        tokens = next_token(
            jax.random.fold_in(rng, state.written),
            state.logits,
            temperature=config.temperature,
            top_k=config.top_k,
            top_p=config.top_p,
        )
        tokens = jnp.where(state.done, language_model.pad_id, tokens)
        logits, cache = language_model.step(
            params, tokens, state.positions, state.cache
        )
        return _SampleState(
            written=state.written + 1,
            logits=logits,
            cache=cache,
            positions=state.positions + 1,
            done=state.done | _stops(language_model, tokens),
            output=state.output.at[:, state.written].set(tokens),
        )

    return jax.lax.while_loop(unfinished, step, state).output


class _BeamState(NamedTuple):
    """Beams of every row, K = num_beams; scores are sums of log-probabilities.

    `improvable` rows may still finish a better beam than those they have; the rule
    takes the best running beam at its present length (transformers' default).
    """

    written: Int[Array, ""]
    logits: Float[Array, "B K V"]
    cache: Any
    positions: Int[Array, " BK"]
    running: Int[Array, "B K N"]
    running_scores: Float[Array, "B K"]
    finished: Int[Array, "B K N"]
    finished_scores: Float[Array, "B K"]
    is_finished: Bool[Array, "B K"]
    improvable: Bool[Array, "B 1"]


def _beam_search(language_model, config, params, prompts, is_prompt):
    beams, length = config.num_beams, config.max_new_tokens
    batch = prompts.shape[0]
    logits, cache, positions = language_model.start(params, prompts, is_prompt, length)
    state = _first_beams(language_model, config, logits, cache, positions)

    def unfinished(state):
        return (state.written < length) & state.improvable.any()

    def step(state):
        scores, tokens, origins, texts = _candidates(state)
        ends = _stops(language_model, tokens) | (state.written + 1 == length)
        state = _finish(state, config, scores, texts, ends)
        # The best candidates that go on.
        running_scores, chosen = jax.lax.top_k(
            jnp.where(ends, scores + _NEVER, scores), beams
        )
        tokens, origins = _take(tokens, chosen), _take(origins, chosen)
        cache = _reorder(state.cache, origins)
        logits, cache = language_model.step(
            params, tokens.reshape(-1), state.positions, cache
        )
        return state._replace(
            written=state.written + 1,
            logits=logits.reshape(batch, beams, -1),
            cache=cache,
            positions=state.positions + 1,
            running=_take(texts, chosen),
            running_scores=running_scores,
            improvable=_improvable(state, config, running_scores),
        )

    state = jax.lax.while_loop(unfinished, step, state)
    any_finished = state.is_finished.any(axis=1)
    return jnp.where(any_finished[:, None], state.finished[:, 0], state.running[:, 0])


def _first_beams(language_model, config, logits, cache, positions) -> _BeamState:
    """All beams begin alike, so only the first of them counts."""
    beams, batch = config.num_beams, logits.shape[0]
    shape = (batch, beams)

    def repeat(x):
        return jnp.repeat(x, beams, axis=0) if x.ndim else x

    empty = jnp.full((*shape, config.max_new_tokens), language_model.pad_id, jnp.int32)
    first = jnp.arange(beams)[None] == 0
    return _BeamState(
        written=jnp.zeros((), jnp.int32),
        logits=repeat(logits).reshape(*shape, -1),
        cache=jax.tree.map(repeat, cache),
        positions=repeat(positions),
        running=empty,
        running_scores=jnp.broadcast_to(jnp.where(first, 0.0, _NEVER), shape),
        finished=empty,
        finished_scores=jnp.full(shape, _NEVER),
        is_finished=jnp.zeros(shape, bool),
        improvable=jnp.ones((batch, 1), bool),
    )


def _candidates(state: _BeamState):
    """The 2K best continuations: enough for K to go on if K of them end."""
    batch, beams, vocab_size = state.logits.shape
    log_probs = jax.nn.log_softmax(state.logits, axis=-1)
    total = (log_probs + state.running_scores[..., None]).reshape(batch, -1)
    scores, indices = jax.lax.top_k(total, 2 * beams)
    origins, tokens = indices // vocab_size, (indices % vocab_size).astype(jnp.int32)
    texts = _take(state.running, origins).at[:, :, state.written].set(tokens)
    return scores, tokens, origins, texts


def _finish(state: _BeamState, config, scores, texts, ends) -> _BeamState:
    """Keeps the K best finished texts; only the K best candidates may finish."""
    beams = config.num_beams
    among_best = jnp.arange(2 * beams)[None] < beams
    finishes = ends & among_best
    new_length = (state.written + 1).astype(jnp.float32)
    scores = scores / new_length**config.length_penalty
    scores = jnp.where(finishes & state.improvable, scores, scores + _NEVER)
    merged_scores = jnp.concatenate([state.finished_scores, scores], axis=1)
    merged_scores, best = jax.lax.top_k(merged_scores, beams)
    merged = jnp.concatenate([state.finished, texts], axis=1)
    is_finished = jnp.concatenate([state.is_finished, finishes], axis=1)
    return state._replace(
        finished=_take(merged, best),
        finished_scores=merged_scores,
        is_finished=_take(is_finished, best),
    )


def _improvable(state: _BeamState, config, running_scores) -> Bool[Array, "B 1"]:
    new_length = (state.written + 1).astype(jnp.float32)
    best_running = running_scores[:, :1] / new_length**config.length_penalty
    worst = jnp.where(
        state.is_finished, state.finished_scores.min(axis=1, keepdims=True), _NEVER
    )
    return state.improvable & (best_running > worst).any(axis=1, keepdims=True)


def _take(x: Array, indices: Int[Array, "B M"]) -> Array:
    """x[b, indices[b, m]] for x [B, K, ...]."""
    expanded = indices.reshape(indices.shape + (1,) * (x.ndim - 2))
    return jnp.take_along_axis(x, expanded, axis=1)


def _reorder(cache: Any, origins: Int[Array, "B K"]) -> Any:
    """The cache of every beam's origin, a beam of the same row."""
    batch, beams = origins.shape
    first = jnp.arange(batch, dtype=origins.dtype)[:, None] * beams
    return cache.take((first + origins).reshape(-1))
