"""The Transformer: an encoder, a decoder, or both, from one Block and one Stack.

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

from typing import ClassVar

from flax import nnx
from jaxtyping import Array, Float, Int

from models.backbone import BackboneConfig
from models.dropout import DropoutRngs, fold
from models.inputs import ModelInputs
from models.layers import normal_param
from models.transformer.cache import Cache
from models.transformer.config import TransformerConfig
from models.transformer.embedder import Embedder
from models.transformer.stack import Stack

# Dropout sites of a model.
_EMBEDDER, _STACK, _DECODER_EMBEDDER, _DECODER_STACK = range(4)


class Transformer(nnx.Module):
    """The configured architecture.

    An encoder's positions see all of their segment; a decoder's see their segment up to
    themselves, unless `ModelInputs` says otherwise; those of an encoder-decoder's
    decoder also attend to the encoder's output.
    """

    config_class: ClassVar[type[BackboneConfig]] = TransformerConfig
    partition_rules: ClassVar[tuple[tuple[str, str], ...]] = (
        (r"token_embedding$", "V D"),
        (r"(position|token_type)_embedding$", "- D"),
        (r"attention/(query|key|value)/kernel$", "D H"),
        (r"attention/(query|key|value)/bias$", "H"),
        (r"attention/out/kernel$", "H D"),
        (r"relative_bias$", "- H"),
        (r"mlp/(gate|up)/kernel$", "D F"),
        (r"mlp/(gate|up)/bias$", "F"),
        (r"mlp/down/kernel$", "F D"),
    )

    def __init__(self, config: TransformerConfig, *, rngs: nnx.Rngs):
        if config.vocab_size is None:
            raise ValueError(
                "vocab_size = None: set it to the tokenizer's before building a model."
            )
        shape = (config.vocab_size, config.table_dim)
        self.token_embedding = normal_param(config, shape, config.init_stddev, rngs)
        self.config = config
        if config.architecture == "encoder_decoder":
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
                config,
                config.decoder_layers,
                causal=True,
                cross_attention=True,
                rngs=rngs,
            )
        else:
            self.embedder = Embedder(config, rngs=rngs)
            self.stack = Stack(
                config,
                config.num_layers,
                causal=config.architecture == "decoder",
                cross_attention=False,
                rngs=rngs,
            )

    @property
    def embedding(self) -> Float[Array, "V E"]:
        """The token embedding, the output table of tied heads."""
        return self.token_embedding[...]

    def __call__(
        self,
        inputs: ModelInputs,
        *,
        at: Int[Array, "B K"] | None = None,
        deterministic: bool = True,
        rngs: DropoutRngs | None = None,
    ) -> Float[Array, "B L D"]:
        """Hidden states; with `at` the last block computes these positions alone.

        Raises:
          ValueError: for a sequence longer than a learned position table.
        """
        rngs = self._dropout_rngs(deterministic, rngs)
        if self.config.architecture != "encoder_decoder":
            hidden = self.embedder(self.embedding, inputs, rngs=fold(rngs, _EMBEDDER))
            return self.stack(hidden, inputs, at=at, rngs=fold(rngs, _STACK))
        encoder = _encoder_side(inputs)
        hidden = self.decoder_embedder(
            self.embedding, inputs, rngs=fold(rngs, _DECODER_EMBEDDER)
        )
        return self.decoder_stack(
            hidden,
            inputs,
            encoded=self._encode(encoder, rngs),
            encoder_segment_ids=encoder.segment_ids,
            at=at,
            rngs=fold(rngs, _DECODER_STACK),
        )

    def encode(self, inputs: ModelInputs) -> Float[Array, "B E D"]:
        """Hidden states of `inputs.encoder`, without dropout."""
        return self._encode(_encoder_side(inputs), None)

    def _encode(self, encoder, rngs):
        hidden = self.encoder_embedder(
            self.embedding, encoder, rngs=fold(rngs, _EMBEDDER)
        )
        return self.encoder_stack(hidden, encoder, rngs=fold(rngs, _STACK))

    def init_cache(
        self, batch_size: int, max_length: int, encoder: ModelInputs | None = None
    ) -> Cache:
        """An empty cache; it holds cross-attention's keys and values if there are any."""
        if self.config.architecture != "encoder_decoder":
            return self.stack.init_cache(batch_size, max_length)
        if encoder is None:
            raise ValueError("An encoder-decoder's cache needs encoder=ModelInputs.")
        return self.decoder_stack.init_cache(
            batch_size,
            max_length,
            encoded=self._encode(encoder, None),
            encoder_segment_ids=encoder.segment_ids,
        )

    def decode_step(
        self, inputs: ModelInputs, cache: Cache
    ) -> tuple[Float[Array, "B T D"], Cache]:
        """Hidden states of the next T tokens, and the cache that includes them."""
        if self.config.architecture == "encoder_decoder":
            embedder, stack = self.decoder_embedder, self.decoder_stack
        else:
            embedder, stack = self.embedder, self.stack
        return stack.decode_step(embedder(self.embedding, inputs), inputs, cache)

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


def _encoder_side(inputs: ModelInputs) -> ModelInputs:
    if inputs.encoder is None:
        raise ValueError("An encoder-decoder reads ModelInputs with encoder=....")
    return inputs.encoder
