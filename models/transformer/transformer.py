"""Encoder, decoder and encoder-decoder from one Block and one Stack.

Parameters, by name. D emb_dim, E table_dim, F mlp_dim, V vocab_size, N heads of H, K
key and value heads. Every bias of a kernel has the kernel's last axis.

    token_embedding                                [V, E]
    embedder/position_embedding                    [offset + max_seq_len, E]
    embedder/token_type_embedding                  [num_token_types, E]
    embedder/norm/{scale, bias}                    [E]
    embedder/projection/{kernel, bias}             [E, D]
    stack/relative_bias                            [num_buckets, N]
    stack/layers/I/attention_norm/{scale, bias}    [D]
    stack/layers/I/attention/query/{kernel, bias}  [D, N*H]
    stack/layers/I/attention/key/{kernel, bias}    [D, K*H]
    stack/layers/I/attention/value/{kernel, bias}  [D, K*H]
    stack/layers/I/attention/out/{kernel, bias}    [N*H, D]
    stack/layers/I/cross_attention_norm/...        as attention_norm
    stack/layers/I/cross_attention/...             as attention
    stack/layers/I/mlp_norm/{scale, bias}          [D]
    stack/layers/I/mlp/{gate, up}/{kernel, bias}   [D, F]
    stack/layers/I/mlp/down/{kernel, bias}         [F, D]
    stack/final_norm/{scale, bias}                 [D]

An encoder-decoder has one token_embedding, and encoder_embedder, encoder_stack,
decoder_embedder and decoder_stack. With `scan_layers` the I is absent and every
parameter of the layers has a leading axis of layers.
"""

from __future__ import annotations

from typing import Any

from flax import nnx
from jaxtyping import Array, Float, Int

from models.dropout import DropoutRngs, fold
from models.inputs import ModelInputs
from models.layers import normal_param
from models.transformer.cache import Cache
from models.transformer.config import TransformerConfig
from models.transformer.embedder import Embedder
from models.transformer.stack import Stack

# Dropout sites of a model.
_EMBEDDER, _STACK, _DECODER_EMBEDDER, _DECODER_STACK = range(4)


class _Backbone(nnx.Module):
    """What all three architectures have: a config and a token embedding."""

    def __init__(self, config: TransformerConfig, *, rngs: nnx.Rngs):
        if config.vocab_size is None:
            raise ValueError(
                "vocab_size = None: set it to the tokenizer's before building a model."
            )
        shape = (config.vocab_size, config.table_dim)
        self.token_embedding = normal_param(config, shape, config.init_stddev, rngs)
        self.config = config

    @property
    def embedding(self) -> Float[Array, "V E"]:
        """The token embedding, the output table of tied heads."""
        return self.token_embedding[...]

    def _dropout_rngs(self, deterministic: bool, rngs: DropoutRngs | None):
        config = self.config
        rates = (
            config.dropout_rate,
            config.mlp_dropout_rate,
            config.attention_dropout_rate,
        )
        if deterministic or not any(rates):
            return None
        if rngs is None:
            raise ValueError(
                "deterministic=False with a dropout rate above 0 needs rngs: "
                "DropoutRngs.from_key(key of the step, row_ids)."
            )
        return rngs


class _SingleStack(_Backbone):
    """An encoder or a decoder."""

    def __init__(self, config: TransformerConfig, *, rngs: nnx.Rngs):
        super().__init__(config, rngs=rngs)
        self.embedder = Embedder(config, rngs=rngs)
        self.stack = Stack(
            config,
            config.num_layers,
            causal=config.architecture == "decoder",
            cross_attention=False,
            rngs=rngs,
        )

    def __call__(
        self,
        inputs: ModelInputs,
        *,
        at: Int[Array, "B K"] | None = None,
        deterministic: bool = True,
        rngs: DropoutRngs | None = None,
    ) -> Float[Array, "B L D"]:
        """Hidden states of every position, in the compute dtype.

        Args:
          inputs: tokens with segment ids and positions.
          at: positions to give alone, [B, K, D], where the rest is not needed: the last
            block computes no more than that.
          deterministic: no dropout.
          rngs: the rows' dropout seeds, needed unless deterministic.

        Raises:
          ValueError: for a sequence longer than a learned position table.
        """
        rngs = self._dropout_rngs(deterministic, rngs)
        hidden = self.embedder(self.embedding, inputs, rngs=fold(rngs, _EMBEDDER))
        return self.stack(hidden, inputs, at=at, rngs=fold(rngs, _STACK))


class Encoder(_SingleStack):
    """Every position sees all of its segment."""


class Decoder(_SingleStack):
    """Every position sees its segment up to itself, and bidirectional positions."""

    def init_cache(self, batch_size: int, max_length: int) -> Cache:
        """An empty cache of `max_length` slots."""
        return self.stack.init_cache(batch_size, max_length)

    def decode_step(
        self, inputs: ModelInputs, cache: Cache
    ) -> tuple[Float[Array, "B T D"], Cache]:
        """Hidden states of the next T tokens, and the cache that includes them.

        T > 1 reads a prompt in one call. Rows may differ in length: padding has
        segment 0, and `positions` count each row's own tokens.
        """
        hidden = self.embedder(self.embedding, inputs)
        return self.stack.decode_step(hidden, inputs, cache)


class EncoderDecoder(_Backbone):
    """An encoder, and a decoder whose blocks also attend to its output."""

    def __init__(self, config: TransformerConfig, *, rngs: nnx.Rngs):
        super().__init__(config, rngs=rngs)
        self.encoder_embedder = Embedder(config, rngs=rngs)
        self.encoder_stack = Stack(
            config,
            config.encoder_layers,
            causal=False,
            cross_attention=False,
            rngs=rngs,
        )
        self.decoder_embedder = Embedder(config, rngs=rngs)
        self.decoder_stack = Stack(
            config, config.decoder_layers, causal=True, cross_attention=True, rngs=rngs
        )

    def __call__(
        self,
        inputs: ModelInputs,
        *,
        at: Int[Array, "B K"] | None = None,
        deterministic: bool = True,
        rngs: DropoutRngs | None = None,
    ) -> Float[Array, "B L D"]:
        """Hidden states of the decoder's positions; see `encode` and `decode`."""
        encoded = self.encode(inputs, deterministic=deterministic, rngs=rngs)
        return self.decode(
            inputs, encoded, at=at, deterministic=deterministic, rngs=rngs
        )

    def encode(
        self,
        inputs: ModelInputs,
        *,
        deterministic: bool = True,
        rngs: DropoutRngs | None = None,
    ) -> Float[Array, "B E D"]:
        """Hidden states of `inputs.encoder`."""
        encoder_inputs = _encoder_side(inputs)
        rngs = self._dropout_rngs(deterministic, rngs)
        hidden = self.encoder_embedder(
            self.embedding, encoder_inputs, rngs=fold(rngs, _EMBEDDER)
        )
        return self.encoder_stack(hidden, encoder_inputs, rngs=fold(rngs, _STACK))

    def decode(
        self,
        inputs: ModelInputs,
        encoded: Float[Array, "B E D"],
        *,
        at: Int[Array, "B K"] | None = None,
        deterministic: bool = True,
        rngs: DropoutRngs | None = None,
    ) -> Float[Array, "B L D"]:
        """Hidden states of the decoder, given the encoder's output.

        Cross-attention joins the segments of `inputs` and `inputs.encoder`. `at` gives
        these positions alone.
        """
        rngs = self._dropout_rngs(deterministic, rngs)
        hidden = self.decoder_embedder(
            self.embedding, inputs, rngs=fold(rngs, _DECODER_EMBEDDER)
        )
        return self.decoder_stack(
            hidden,
            inputs,
            encoded=encoded,
            encoder_segment_ids=_encoder_side(inputs).segment_ids,
            at=at,
            rngs=fold(rngs, _DECODER_STACK),
        )

    def init_cache(
        self,
        batch_size: int,
        max_length: int,
        *,
        encoded: Float[Array, "B E D"],
        encoder_segment_ids: Int[Array, "B E"],
    ) -> Cache:
        """An empty cache that holds the keys and values of the encoder's output."""
        return self.decoder_stack.init_cache(
            batch_size,
            max_length,
            encoded=encoded,
            encoder_segment_ids=encoder_segment_ids,
        )

    def decode_step(
        self, inputs: ModelInputs, cache: Cache
    ) -> tuple[Float[Array, "B T D"], Cache]:
        """Hidden states of the next T decoder tokens; `inputs.encoder` is not read."""
        hidden = self.decoder_embedder(self.embedding, inputs)
        return self.decoder_stack.decode_step(hidden, inputs, cache)


def _encoder_side(inputs: ModelInputs) -> ModelInputs:
    if inputs.encoder is None:
        raise ValueError("An encoder-decoder reads ModelInputs with encoder=....")
    return inputs.encoder


ARCHITECTURES: dict[str, Any] = {
    "encoder": Encoder,
    "decoder": Decoder,
    "encoder_decoder": EncoderDecoder,
}


def create(
    config: TransformerConfig, *, rngs: nnx.Rngs
) -> Encoder | Decoder | EncoderDecoder:
    """Builds the configured architecture with freshly drawn parameters."""
    return ARCHITECTURES[config.architecture](config, rngs=rngs)
