"""Heads: modules from hidden states to the features that the loss classifies.

A head's `readout` returns features [B, K, E], a class table [C, E] and a class bias. The
loss multiplies them chunk by chunk, so that no [B, K, C] array of logits exists.
"""

from __future__ import annotations

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from models.backbone import BackboneConfig
from models.layers import ACTIVATIONS, Linear, Norm, kernel_stddev, normal_param

Readout = tuple[Float[Array, "B K E"], Float[Array, "C E"], Float[Array, " C"] | None]


class Heads(nnx.Module):
    """The heads of a run by name, as attributes."""

    def __init__(self, heads: dict[str, nnx.Module]):
        self.names = tuple(heads)
        for name, module in heads.items():
            setattr(self, name, module)

    def by_name(self) -> dict[str, nnx.Module]:
        """What it was made of."""
        return {name: getattr(self, name) for name in self.names}


class OutputTable(nnx.Module):
    """The class table of token predictions: the token embedding, or its own.

    Args:
      config: `tie_embeddings` decides whose table, `logit_scale` scales features.
      use_bias: whether there is one value per token, initially zero.
      rngs: source of the table's key.
    """

    def __init__(self, config: BackboneConfig, *, use_bias: bool, rngs: nnx.Rngs):
        vocab_size = config.vocab_size
        if vocab_size is None:
            raise ValueError("vocab_size = None: set it to the tokenizer's first.")
        tied, shape = config.tie_embeddings, (vocab_size, config.table_dim)
        self.kernel = (
            None
            if tied
            else normal_param(config, shape, kernel_stddev(config, shape[1]), rngs)
        )
        bias = jnp.zeros(vocab_size, config.param_dtype)
        self.bias = nnx.Param(bias) if use_bias else None
        self.logit_scale = config.logit_scale

    def __call__(
        self, features: Float[Array, "B K E"], embedding: Float[Array, "V E"]
    ) -> Readout:
        table = embedding if self.kernel is None else self.kernel[...]
        bias = None if self.bias is None else self.bias[...]
        if self.logit_scale != 1.0:
            features = features * jnp.asarray(self.logit_scale, features.dtype)
        return features, table, bias


class LMHead(nnx.Module):
    """Hidden states straight to the output table, without a bias (GPT-2, T5, BART).

    A factorised embedding needs a projection D -> E before it.
    """

    def __init__(self, config: BackboneConfig, *, rngs: nnx.Rngs):
        factorised = config.table_dim != config.emb_dim
        self.projection = (
            Linear(config, config.emb_dim, config.table_dim, rngs, use_bias=False)
            if factorised
            else None
        )
        self.output = OutputTable(config, use_bias=False, rngs=rngs)

    def readout(
        self, hidden_states: Float[Array, "B K D"], embedding: Float[Array, "V E"]
    ) -> Readout:
        """Features, table and bias of the positions given."""
        features = hidden_states
        if self.projection is not None:
            features = self.projection(features)
        return self.output(features, embedding)


class MaskedLMHead(nnx.Module):
    """Dense, activation, norm, output table with a bias (BERT, RoBERTa, ELECTRA).

    Devlin et al. 2019 (run_pretraining.py): the dense layer maps to the embedding's
    width, so a factorised embedding needs no projection of its own.
    """

    def __init__(self, config: BackboneConfig, *, rngs: nnx.Rngs):
        self.dense = Linear(
            config, config.emb_dim, config.table_dim, rngs, use_bias=True
        )
        self.norm = Norm(config, config.table_dim)
        self.output = OutputTable(config, use_bias=True, rngs=rngs)
        self.activation = config.activation

    def readout(
        self, hidden_states: Float[Array, "B K D"], embedding: Float[Array, "V E"]
    ) -> Readout:
        """Features, table and bias of the positions given."""
        features = ACTIVATIONS[self.activation](self.dense(hidden_states))
        return self.output(self.norm(features), embedding)


class PooledClassifier(nnx.Module):
    """tanh(Dense(h)) of one position, e.g. ``[CLS]``, then a table of classes.

    Args:
      config: widths, dtypes and initial scale.
      num_classes: C.
      rngs: source of the kernels' keys.
    """

    def __init__(self, config: BackboneConfig, *, num_classes: int, rngs: nnx.Rngs):
        dim = config.emb_dim
        self.dense = Linear(config, dim, dim, rngs, use_bias=True)
        stddev = kernel_stddev(config, dim)
        self.kernel = normal_param(config, (num_classes, dim), stddev, rngs)
        self.bias = nnx.Param(jnp.zeros(num_classes, config.param_dtype))

    def readout(
        self, hidden_states: Float[Array, "B K D"], embedding: Float[Array, "V _"]
    ) -> Readout:
        """Features, table [C, D] and bias [C] of the positions given (K = 1)."""
        del embedding
        return jnp.tanh(self.dense(hidden_states)), self.kernel[...], self.bias[...]
