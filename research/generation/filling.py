"""Filling the [MASK]s of an encoder's text."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from models import ModelInputs
from objectives.corruption.rows import read_both_ways
from research.generation.language_model import LanguageModel


@dataclasses.dataclass(frozen=True)
class Candidate:
    """A token that may stand for a mask.

    Attributes:
      token_id: the token.
      probability: by the model, all masks of the text hidden.
    """

    token_id: int
    probability: float


@functools.partial(jax.jit, static_argnums=(0,))
def probabilities(
    language_model: LanguageModel,
    params: Any,
    tokens: Int[Array, "B L"],
    is_text: Bool[Array, "B L"],
) -> Float[Array, "B L V"]:
    """Distribution of every position, read by the language-model head."""
    model = language_model.modules.merge(params)["model"]
    index = jnp.arange(tokens.shape[1], dtype=jnp.int32)
    inputs = ModelInputs(
        tokens=tokens,
        segment_ids=is_text.astype(jnp.int32),
        positions=jnp.broadcast_to(index[None], tokens.shape),
    )
    inputs = read_both_ways(inputs, language_model.objective.architecture)
    logits = language_model.logits(params, inputs, model(inputs))
    return jax.nn.softmax(logits, axis=-1)


def fill(
    language_model: LanguageModel,
    params: Any,
    tokens: Int[Array, "B L"],
    is_text: Bool[Array, "B L"],
    *,
    mask_id: int,
    count: int,
) -> list[list[list[Candidate]]]:
    """The `count` most probable tokens of each mask of each text, best first."""
    distribution = probabilities(language_model, params, tokens, is_text)
    best, ids = (jax.device_get(x) for x in jax.lax.top_k(distribution, count))
    found = []
    for row, text in enumerate(jax.device_get(tokens)):
        positions = [p for p, token in enumerate(text) if token == mask_id]
        found.append(
            [
                [
                    Candidate(int(number), float(probability))
                    for number, probability in zip(ids[row, p], best[row, p])
                ]
                for p in positions
            ]
        )
    return found
