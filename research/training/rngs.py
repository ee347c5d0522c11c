"""Named random streams, derived and never stored.

A key follows from (seed, stream, step); corruption and dropout fold in the global row
besides. A checkpoint therefore needs the step alone, and nothing depends on devices,
hosts, microbatches or what was drawn before.
"""

from __future__ import annotations

import jax
from jaxtyping import Array, Int, Key

# Numbers of the streams. They are part of every result: never renumber one.
STREAMS = {
    "params": 0,
    "corruption": 1,
    "dropout": 2,
    "evaluation": 3,
    "evaluation_losses": 4,
}


def stream(seed: int | Int[Array, ""], name: str) -> Key[Array, ""]:
    """The root key of a named stream.

    The generator is fixed, so that jax_default_prng_impl changes no result.

    Raises:
      KeyError: for a stream that is not in STREAMS.
    """
    root = jax.random.key(seed, impl="threefry2x32")
    return jax.random.fold_in(root, STREAMS[name])


def at(
    seed: int | Int[Array, ""], name: str, step: int | Int[Array, ""]
) -> Key[Array, ""]:
    """The key of a stream at a step."""
    return jax.random.fold_in(stream(seed, name), step)
