"""From logits to the next token."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int


def filtered(
    logits: Float[Array, "B V"], *, temperature: float, top_k: int, top_p: float
) -> Float[Array, "B V"]:
    """Logits of the distribution that is sampled from, -inf where it is zero.

    The temperature comes first, then the k most probable tokens, then the smallest set
    of those whose probability reaches `top_p` (nucleus, Holtzman et al. 2020).

    Args:
      logits: before softmax.
      temperature: divides the logits; above 0.
      top_k: tokens kept; 0 = all.
      top_p: probability kept; 1 = all. The most probable token always stays.

    Example, top_p = 0.7:

        probabilities  .5   .3   .15  .05
        kept           .5   .3    -    -     (the mass before the second is .5 < .7)
    """
    logits = logits / temperature
    if 0 < top_k < logits.shape[-1]:
        smallest = jax.lax.top_k(logits, top_k)[0][:, -1:]
        logits = jnp.where(logits < smallest, -jnp.inf, logits)
    if top_p < 1.0:
        ordered = jnp.sort(logits, axis=-1, descending=True)
        probabilities = jax.nn.softmax(ordered, axis=-1)
        before = jnp.cumsum(probabilities, axis=-1) - probabilities
        last = jnp.sum(before < top_p, axis=-1, keepdims=True) - 1
        smallest = jnp.take_along_axis(ordered, jnp.maximum(last, 0), axis=-1)
        logits = jnp.where(logits < smallest, -jnp.inf, logits)
    return logits


def next_token(
    rng: Array,
    logits: Float[Array, "B V"],
    *,
    temperature: float,
    top_k: int,
    top_p: float,
) -> Int[Array, " B"]:
    """A sample of each row; the most probable token for temperature 0."""
    if temperature == 0.0:
        return jnp.argmax(logits, axis=-1).astype(jnp.int32)
    logits = filtered(logits, temperature=temperature, top_k=top_k, top_p=top_p)
    return jax.random.categorical(rng, logits, axis=-1).astype(jnp.int32)
