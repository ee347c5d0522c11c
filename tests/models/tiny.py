"""Small configs, models and inputs for the tests of this folder."""

import zlib

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

import models
from experiments import presets
from models.inputs import ModelInputs

TINY = {
    "vocab_size": 23,
    "emb_dim": 16,
    "num_layers": 2,
    "num_heads": 4,
    "mlp_dim": 24,
    "max_seq_len": 16,
    # Large enough that attention and MLP move the hidden states.
    "init_stddev": 0.3,
}


def config(**changes) -> models.TransformerConfig:
    """base_model() at a tiny size, with some fields changed."""
    section = presets.base_model()
    section.update({**TINY, **changes})
    return models.TransformerConfig(**section.to_dict())


def build(seed: int = 0, **changes):
    """A model of `config(**changes)` with every bias and norm away from 0 and 1.

    Values are drawn by name, so that models with and without scan_layers are equal.
    """
    cfg = config(**changes)
    abstract = nnx.eval_shape(lambda: models.create(cfg, rngs=nnx.Rngs(0)))
    graph, state = nnx.split(abstract)
    filled = []
    for path, leaf in nnx.to_flat_state(state):
        at = path.index("layers") + 1 if "layers" in path else None
        if at is not None and cfg.scan_layers:
            layers = [
                _draw((*path[:at], i, *path[at:]), leaf.shape[1:], cfg, seed)
                for i in range(leaf.shape[0])
            ]
            value = np.stack(layers)
        else:
            value = _draw(path, leaf.shape, cfg, seed)
        filled.append((path, leaf.replace(jnp.asarray(value, leaf.dtype))))
    return nnx.merge(graph, nnx.from_flat_state(filled))


def _draw(path, shape, cfg, seed: int) -> np.ndarray:
    rng = np.random.default_rng([zlib.crc32(repr(path).encode()), seed])
    noise = rng.normal(size=shape)
    if path[-1] == "scale":
        return 1.0 + 0.1 * noise
    return (0.1 if path[-1] == "bias" else cfg.init_stddev) * noise


def run(model, inputs, **kwargs):
    """Hidden states, compiled."""
    graph, params = nnx.split(model)
    return jax.jit(lambda p, i: nnx.merge(graph, p)(i, **kwargs))(params, inputs)


def inputs(
    lengths=((5, 4), (9,)), *, width: int = 10, seed: int = 0, vocab_size: int = 23
) -> ModelInputs:
    """Rows of packed segments; `lengths` gives each row's segment lengths."""
    rng = np.random.default_rng(seed)
    tokens = rng.integers(0, vocab_size, (len(lengths), width))
    segments = np.zeros((len(lengths), width), np.int32)
    positions = np.zeros((len(lengths), width), np.int32)
    for row, segment_lengths in enumerate(lengths):
        start = 0
        for number, length in enumerate(segment_lengths, start=1):
            segments[row, start : start + length] = number
            positions[row, start : start + length] = np.arange(length)
            start += length
    return ModelInputs(
        tokens=jnp.asarray(tokens, jnp.int32),
        segment_ids=jnp.asarray(segments),
        positions=jnp.asarray(positions),
    )


def encoder_decoder_inputs(
    lengths=((5, 4), (9,)), encoder_lengths=((3, 6), (8,)), *, width: int = 10
) -> ModelInputs:
    """`inputs` for both sides; equal segment numbers belong together."""
    decoder = inputs(lengths, width=width)
    encoder = inputs(encoder_lengths, width=width + 1, seed=1)
    return ModelInputs(
        tokens=decoder.tokens,
        segment_ids=decoder.segment_ids,
        positions=decoder.positions,
        encoder=encoder,
    )


def inputs_for(architecture: str, **kwargs) -> ModelInputs:
    """Inputs of either kind."""
    make = encoder_decoder_inputs if architecture == "encoder_decoder" else inputs
    return make(**kwargs)
