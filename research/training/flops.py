"""Analytic training FLOPs of an objective on an architecture.

Only matrix products count, a product of [m, k] and [k, n] as 2 m k n. Causal attention
counts as full attention, as dense kernels compute it. The backward pass of a
product is two products of the same size, so training costs three times the forward
pass. Recomputation (rematerialised blocks, the chunked loss) is the implementation's
affair and is left out, as in MFU.

The backbone is counted from the objective's static lengths and the Transformer's
sizes. Each objective has heads of its own, which are counted from their abstract trace.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.extend import core as jax_core

from objectives.base import Objective
from objectives.corruption import rows
from objectives.types import Example, TokenBatch

# Products of the backward pass for each of the forward pass: one for the gradient of
# either operand.
BACKWARD = 2.0
_TRACED_ROWS = 4  # pairs of rows must exist for objectives that look at other rows


@dataclasses.dataclass(frozen=True, kw_only=True)
class Flops:
    """Forward FLOPs of one row, by part.

    Attributes:
      encoder: all blocks of the encoder side, its embedding projection included.
      decoder: all blocks of the decoder side, cross-attention included.
      heads: of each loss term, the product with the output table included.
      tokens: clean tokens the row consumes.
      targets: slots for targets of the row, dead ones included.
    """

    encoder: float
    decoder: float
    heads: dict[str, float]
    tokens: int
    targets: int

    @property
    def forward(self) -> float:
        """FLOPs of the forward pass of one row."""
        return self.encoder + self.decoder + sum(self.heads.values())

    @property
    def training(self) -> float:
        """FLOPs of the forward and backward pass of one row."""
        return (1.0 + BACKWARD) * self.forward


def count(config: Any, objective: Objective) -> Flops:
    """FLOPs of one row of `objective` on the backbone of `config`."""
    lengths = objective.lengths
    example = abstract_example(objective, _TRACED_ROWS)
    num_read = _count_read(objective, example)
    encoder = decoder = 0.0
    if config.architecture == "encoder_decoder":
        encoder = stack_flops(config, config.encoder_layers, lengths.encoder, 0)
        decoder = stack_flops(
            config, config.decoder_layers, lengths.inputs, lengths.encoder, num_read
        )
    elif config.architecture == "encoder":
        encoder = stack_flops(config, config.num_layers, lengths.inputs, 0, num_read)
    else:
        decoder = stack_flops(config, config.num_layers, lengths.inputs, 0, num_read)
    return Flops(
        encoder=encoder,
        decoder=decoder,
        heads=head_flops(config, objective, example),
        tokens=lengths.tokens,
        targets=sum(lengths.targets.values()),
    )


def count_read(objective: Objective) -> int:
    """Positions of a row whose last hidden states any loss term reads."""
    return _count_read(objective, abstract_example(objective, _TRACED_ROWS))


def _count_read(objective: Objective, example: Example) -> int:
    at = jax.eval_shape(objective.read_positions, example)
    return objective.lengths.inputs if at is None else at.shape[1]


def stack_flops(
    config: Any,
    num_layers: int,
    length: int,
    encoded_length: int,
    num_read: int | None = None,
) -> float:
    """Forward FLOPs of a stack over one row.

    Args:
      length: L, positions of the stack.
      encoded_length: S, positions of the encoder that cross-attention reads; 0 without.
      num_read: positions of the last layer that anything reads; None = all L.
    """
    width = config.emb_dim
    num_read = length if num_read is None else num_read
    matrices = 3 if config.gated_mlp else 2

    def layer(queries: int) -> float:
        total = attention_flops(config, queries, length)
        if encoded_length:
            total += attention_flops(config, queries, encoded_length)
        return total + matrices * 2.0 * queries * width * config.mlp_dim

    projection = 0.0
    if config.table_dim != width:
        projection = 2.0 * length * config.table_dim * width
    return projection + (num_layers - 1) * layer(length) + layer(num_read)


def attention_flops(config: Any, queries: int, keys: int) -> float:
    """Forward FLOPs of one attention layer: T queries over S keys, one row."""
    width = config.emb_dim
    inner = config.num_heads * config.dim_per_head
    shared = config.kv_heads * config.dim_per_head
    projections = 2.0 * width * (2 * queries * inner + 2 * keys * shared)
    return projections + 2.0 * 2 * queries * keys * inner


def head_flops(config: Any, objective: Objective, example: Example) -> dict[str, float]:
    """Forward FLOPs of each loss term's head over one row, output table included.

    `example` has the shapes of `_TRACED_ROWS` rows.
    """
    heads = nnx.eval_shape(
        lambda: objective.init_heads(config, rngs=nnx.Rngs(params=0))
    )
    definition, parameters = nnx.split(heads)
    embedding = jax.ShapeDtypeStruct((config.vocab_size, config.table_dim), jnp.float32)
    flops = {}
    for term, target in example.targets.items():
        at = jax.eval_shape(lambda t, term=term: objective.read_at(term, t), target)
        positions = example.inputs.tokens.shape if at is None else at.shape
        hidden = jax.ShapeDtypeStruct(
            (*positions, config.emb_dim), config.compute_dtype
        )

        def readout(parameters, hidden, target, embedding, term=term):
            module = nnx.merge(definition, parameters)
            features, table, _ = objective.readout(
                term, module, hidden, target, embedding
            )
            return features, table

        jaxpr, (features, table) = jax.make_jaxpr(readout, return_shape=True)(
            parameters, hidden, target, embedding
        )
        product = 2.0 * math.prod(features.shape) * table.shape[0]
        flops[term] = (traced_dot_flops(jaxpr.jaxpr) + product) / _TRACED_ROWS
    return flops


def abstract_example(objective: Objective, batch_size: int) -> Example:
    """Shapes of what `corrupt` makes of a batch."""
    batch = TokenBatch(
        tokens=jax.ShapeDtypeStruct((batch_size, objective.row_length), jnp.int32),
        row_ids=jax.ShapeDtypeStruct((batch_size,), jnp.int32),
        first_document=jax.ShapeDtypeStruct((batch_size,), jnp.int32),
    )

    def corrupt(batch):
        clean = rows.clean(batch, objective.vocabulary)
        return objective.corrupt(jax.random.key(0), clean)

    return jax.eval_shape(corrupt, batch)


def traced_dot_flops(jaxpr: jax_core.Jaxpr) -> float:
    """FLOPs of the matrix products of a traced function; scans count every turn."""
    total = 0.0
    for equation in jaxpr.eqns:
        if equation.primitive.name == "dot_general":
            (contracted, _), _ = equation.params["dimension_numbers"]
            left, out = (
                variable.aval.shape  # type: ignore[attr-defined]
                for variable in (equation.invars[0], equation.outvars[0])
            )
            total += 2.0 * math.prod(out) * math.prod(left[dim] for dim in contracted)
            continue
        turns = equation.params.get("length", 1)
        turns = turns if equation.primitive.name == "scan" else 1
        for inner in _inner_jaxprs(equation.params):
            total += turns * traced_dot_flops(inner)
    return total


def _inner_jaxprs(params: dict) -> list[jax_core.Jaxpr]:
    found = []
    for name in ("jaxpr", "call_jaxpr", "fun_jaxpr", "body_jaxpr"):
        inner = params.get(name)
        if inner is not None:
            found.append(getattr(inner, "jaxpr", inner))
    return found
