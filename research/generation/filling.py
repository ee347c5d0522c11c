"""Filling the [MASK]s of an encoder's text."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from models import ModelInputs
from objectives.corruption.rows import read_both_ways
from research.generation.language_model import LanguageModel


def read(
    language_model: LanguageModel,
    params: Any,
    tokens: Int[Array, "B L"],
    is_text: Bool[Array, "B L"],
) -> Float[Array, "B L V"]:
    """Logits of every position, read by the language-model head."""
    model = language_model.modules.merge(params)["model"]
    index = jnp.arange(tokens.shape[1], dtype=jnp.int32)
    inputs = ModelInputs(
        tokens=tokens,
        segment_ids=is_text.astype(jnp.int32),
        positions=jnp.broadcast_to(index[None], tokens.shape),
    )
    inputs = read_both_ways(inputs, language_model.objective.architecture)
    return language_model.logits(params, inputs, model(inputs))


@functools.partial(jax.jit, static_argnums=(0,))
def probabilities(
    language_model: LanguageModel,
    params: Any,
    tokens: Int[Array, "B L"],
    is_text: Bool[Array, "B L"],
) -> Float[Array, "B L V"]:
    """Distribution of every position."""
    return jax.nn.softmax(read(language_model, params, tokens, is_text), axis=-1)


def fill(
    language_model: LanguageModel,
    params: Any,
    tokens: Int[Array, "B L"],
    is_text: Bool[Array, "B L"],
    *,
    count: int,
) -> list[list[list[tuple[int, float]]]]:
    """The `count` best (token, probability) of each mask of each text, best first.

    All masks of a text are hidden at once.
    """
    distribution = probabilities(language_model, params, tokens, is_text)
    best, ids = jax.device_get(jax.lax.top_k(distribution, count))
    is_mask = jax.device_get(tokens) == language_model.objective.vocabulary.mask_id
    return [
        [
            [(int(token), float(p)) for token, p in zip(ids[row, at], best[row, at])]
            for at in is_mask[row].nonzero()[0]
        ]
        for row in range(len(is_mask))
    ]
