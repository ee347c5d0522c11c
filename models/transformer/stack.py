"""A stack of blocks, run as a loop or a scan over whole sequences, or with a cache."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int

from models import sharding
from models.dropout import DropoutRngs, fold
from models.inputs import ModelInputs
from models.layers import PRODUCT, Norm, kernel_stddev, normal_param, positions_at
from models.transformer.block import Block, Context
from models.transformer.cache import Cache, LayerCache, by_head
from models.transformer.config import TransformerConfig
from models.transformer.masks import SegmentMask, decoder_mask, segment_mask
from models.transformer.positions import (
    alibi_bias,
    check_length,
    relative_bias,
    relative_bias_by_index,
    rope_tables,
)


class Stack(nnx.Module):
    """Blocks, the biases they share, and the norm after them."""

    def __init__(
        self,
        config: TransformerConfig,
        num_layers: int,
        *,
        causal: bool,
        cross_attention: bool,
        rngs: nnx.Rngs,
    ):
        blocks = [
            Block(
                config,
                cross_attention=cross_attention,
                num_layers=num_layers,
                rngs=rngs,
                has_normed_input=config.norms_embeddings_only and index == 0,
            )
            for index in range(num_layers)
        ]
        self.layers: Any = _stacked(blocks) if config.scan_layers else nnx.List(blocks)
        shape = (config.relative_num_buckets, config.num_heads)
        self.relative_bias = (
            normal_param(config, shape, kernel_stddev(config, config.emb_dim), rngs)
            if config.position == "relative_bias"
            else None
        )
        self.final_norm = Norm(config, config.emb_dim) if config.final_norm else None
        self.config = config
        self.num_layers = num_layers
        self.causal = causal

    def __call__(
        self,
        hidden: Float[Array, "B T D"],
        inputs: ModelInputs,
        *,
        encoded: Float[Array, "B E D"] | None = None,
        encoder_segment_ids: Int[Array, "B E"] | None = None,
        at: Int[Array, "B K"] | None = None,
        rngs: DropoutRngs | None = None,
    ) -> Float[Array, "B Q D"]:
        """Runs all blocks over whole sequences; gives the positions `at`, or all."""
        context = self._context(inputs, encoded, encoder_segment_ids)
        # The last block computes only the positions that are read.
        last = at if self.config.shortens_last else None
        num_whole = self.num_layers if last is None else self.num_layers - 1
        if self.config.scan_layers and num_whole > 0:
            hidden = self._scan(hidden, context, rngs, num_whole)
        else:
            for index in range(num_whole):
                hidden = self._run(index, hidden, context, rngs)
        if last is None:
            hidden = positions_at(hidden, at)
        else:
            hidden = self._run(num_whole, hidden, context.only(last), rngs)
        return hidden if self.final_norm is None else self.final_norm(hidden)

    def _run(self, index, hidden, context, rngs):
        """Block `index` alone."""
        graph, params = self._block(index)
        run = self._rematerialised(graph)
        return run(params, hidden, context, fold(rngs, index))

    def _scan(self, hidden, context, rngs, count):
        """The first `count` blocks as one scanned program."""
        graph, params = nnx.split(self.layers)
        run = self._rematerialised(graph)

        def body(hidden, layer):
            layer_params, index = layer
            return run(layer_params, hidden, context, fold(rngs, index)), None

        indices = jnp.arange(count, dtype=jnp.int32)
        params = jax.tree.map(lambda leaf: leaf[:count], params)
        return jax.lax.scan(body, hidden, (params, indices))[0]

    def _rematerialised(self, graph):
        """One block as a function of its parameters, under the remat policy."""

        def run(params, hidden, context, rngs):
            params, hidden = sharding.current().block(params, hidden)
            return nnx.merge(graph, params)(hidden, context, rngs=rngs)[0]

        if self.config.remat == "full":
            return jax.checkpoint(run)
        if self.config.remat == "dots":
            policy = jax.checkpoint_policies.save_only_these_names(PRODUCT)
            return jax.checkpoint(run, policy=policy)
        return run

    def decode_step(
        self, hidden: Float[Array, "B T D"], inputs: ModelInputs, cache: Cache
    ) -> tuple[Float[Array, "B T D"], Cache]:
        """Runs all blocks over the next T tokens, given all before them."""
        if inputs.reads != "causal":
            raise ValueError(
                f"A cache holds the past alone, so decoding reads causally, not "
                f"reads={inputs.reads!r}: run the whole sequence without a cache."
            )
        start = (0, cache.index)
        bidirectional = inputs.bidirectional
        if bidirectional is None:
            bidirectional = jnp.zeros(inputs.tokens.shape, bool)
        write = jax.lax.dynamic_update_slice
        segment_ids = write(cache.segment_ids, inputs.segment_ids, start)
        positions = write(cache.positions, inputs.positions, start)
        bidirectional = write(cache.bidirectional, bidirectional, start)
        context = self._decode_context(
            inputs, cache, segment_ids, positions, bidirectional
        )
        layers = []
        for layer, before in zip(self._unstacked(), cache.layers, strict=True):
            hidden, after = layer(hidden, context, cache=before)
            assert after is not None, "a block returns the cache it was given"
            layers.append(after)
        if self.final_norm is not None:
            hidden = self.final_norm(hidden)
        return hidden, Cache(
            layers=tuple(layers),
            segment_ids=segment_ids,
            bidirectional=bidirectional,
            positions=positions,
            index=cache.index + inputs.tokens.shape[1],
            encoder_segment_ids=cache.encoder_segment_ids,
        )

    def init_cache(
        self,
        batch_size: int,
        max_length: int,
        *,
        encoded: Float[Array, "B E D"] | None = None,
        encoder_segment_ids: Int[Array, "B E"] | None = None,
    ) -> Cache:
        """An empty cache of `max_length` slots."""
        config = self.config
        check_length(max_length, config)
        heads = (batch_size, config.kv_heads, max_length, config.dim_per_head)
        empty = jnp.zeros(heads, config.dtype)
        layers = []
        for layer in self._unstacked():
            cross: tuple[Array | None, Array | None] = (None, None)
            if layer.cross_attention is not None:
                assert encoded is not None, "a decoder of an encoder's output"
                keys, values = layer.cross_attention.keys_values(encoded, None)
                cross = by_head(keys), by_head(values)
            layers.append(
                LayerCache(
                    keys=empty,
                    values=empty,
                    cross_keys=cross[0],
                    cross_values=cross[1],
                )
            )
        slots = jnp.zeros((batch_size, max_length), jnp.int32)
        return Cache(
            layers=tuple(layers),
            segment_ids=slots,
            bidirectional=slots > 0,
            positions=slots,
            index=jnp.zeros((), jnp.int32),
            encoder_segment_ids=encoder_segment_ids,
        )

    def _unstacked(self) -> list[Block]:
        return [nnx.merge(*self._block(index)) for index in range(self.num_layers)]

    def _block(self, index: int):
        """Graph and parameters of a block, stacked or not."""
        if not self.config.scan_layers:
            return nnx.split(self.layers[index])
        graph, params = nnx.split(self.layers)
        return graph, jax.tree.map(lambda leaf: leaf[index], params)

    def _context(self, inputs, encoded, encoder_segment_ids) -> Context:
        index = jnp.arange(inputs.tokens.shape[1], dtype=jnp.int32)
        segment_ids = inputs.segment_ids
        causal = self.causal and inputs.reads != "both"
        prefix = inputs.bidirectional if causal else None
        if causal:
            mask = decoder_mask(segment_ids, segment_ids, index, index, prefix)
        else:
            mask = segment_mask(segment_ids, segment_ids)
        cross_mask = None
        if encoder_segment_ids is not None:
            cross_mask = segment_mask(segment_ids, encoder_segment_ids)
        # A prefix is more than segments and order, which is all that kernels know.
        segments = SegmentMask(ids=segment_ids, causal=causal)
        return Context(
            mask=mask,
            segments=segments if prefix is None else None,
            bias=(
                self._bias(inputs.positions, inputs.positions, causal)
                if inputs.has_gaps
                else self._bias_by_index(index, causal)
            ),
            rope=self._rope(inputs.positions),
            encoded=encoded,
            cross_mask=cross_mask,
        )

    def _decode_context(
        self, inputs, cache, segment_ids, positions, bidirectional
    ) -> Context:
        steps = jnp.arange(inputs.tokens.shape[1], dtype=jnp.int32)
        slots = jnp.arange(segment_ids.shape[1], dtype=jnp.int32)
        mask = decoder_mask(
            inputs.segment_ids, segment_ids, cache.index + steps, slots, bidirectional
        )
        cross_mask = None
        if cache.encoder_segment_ids is not None:
            cross_mask = segment_mask(inputs.segment_ids, cache.encoder_segment_ids)
        return Context(
            mask=mask,
            bias=self._bias(inputs.positions, positions, self.causal),
            rope=self._rope(inputs.positions),
            cross_mask=cross_mask,
            index=cache.index,
        )

    def _bias_by_index(self, index, causal):
        """One bias for all rows, whose positions differ by as much as their indices."""
        config = self.config
        if config.position == "alibi":
            return alibi_bias(index[None], index[None], config.num_heads)
        if config.position == "relative_bias":
            return relative_bias_by_index(
                self.relative_bias[...].astype(jnp.float32),
                index.shape[0],
                bidirectional=not causal,
                max_distance=config.relative_max_distance,
            )
        return None

    def _bias(self, query_positions, key_positions, causal):
        config = self.config
        if config.position == "alibi":
            return alibi_bias(query_positions, key_positions, config.num_heads)
        if config.position == "relative_bias":
            return relative_bias(
                self.relative_bias[...].astype(jnp.float32),
                query_positions,
                key_positions,
                bidirectional=not causal,
                max_distance=config.relative_max_distance,
            )
        return None

    def _rope(self, positions):
        if self.config.position != "rope":
            return None
        return rope_tables(positions, self.config)


def _stacked(blocks: list[Block]) -> Block:
    """One block whose parameters have a leading axis of layers."""
    graph, first = nnx.split(blocks[0])
    states = [first] + [nnx.state(block) for block in blocks[1:]]
    return nnx.merge(graph, jax.tree.map(lambda *leaves: jnp.stack(leaves), *states))
