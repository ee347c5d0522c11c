"""Memory of a compiled step: what its arrays need, whatever else the process holds."""

import jax
import jax.numpy as jnp

from research.training import memory


def compiled(rows):
    def step(state, batch):
        hidden = jnp.tanh(batch @ state)
        return state + hidden.T @ hidden, batch.sum()

    state = jax.ShapeDtypeStruct((256, 256), jnp.float32)
    batch = jax.ShapeDtypeStruct((rows, 256), jnp.float32)
    return jax.jit(step, donate_argnums=0).lower(state, batch).compile()


def test_a_step_needs_its_state_its_batch_and_what_is_between():
    found = memory.allocated_bytes(compiled(1024))
    arrays = 4 * (256 * 256 + 1024 * 256)
    # What is hidden is as large as the batch, and counts.
    assert arrays + 4 * 1024 * 256 <= found <= arrays + 3 * 4 * 1024 * 256
    ballast = jnp.ones((1024, 1024))
    assert memory.allocated_bytes(compiled(1024)) == found
    assert memory.allocated_bytes(compiled(2048)) > found
    del ballast


def test_what_is_not_compiled_ahead_has_no_known_size():
    assert memory.allocated_bytes(lambda: None) is None
