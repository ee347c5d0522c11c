"""A decoder or an encoder-decoder as a function from tokens to next-token logits."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from models import ModelInputs
from models.transformer.cache import Cache
from objectives.base import Objective
from objectives.types import Target
from research.training.state import Modules


@dataclasses.dataclass(frozen=True, eq=False)
class LanguageModel:
    """What decoding needs of a pretrained network, as pure functions of `params`.

    Attributes:
      modules: backbone and heads without their parameters.
      objective: whose readout turns hidden states into logits.
      term: the loss term of that readout.
      start_id: what an encoder-decoder's decoder reads first.
      stop_ids: tokens that end a text.
      pad_id: fills what is not text.
      num_after_prefix: of a decoder that reads prompts in both directions, how many
        tokens at their end it does not; None = it reads them causally.
    """

    modules: Modules
    objective: Objective
    term: str
    start_id: int
    stop_ids: tuple[int, ...]
    pad_id: int
    num_after_prefix: int | None = None

    @property
    def is_encoder_decoder(self) -> bool:
        """Whether prompts are read by an encoder."""
        return self.objective.architecture == "encoder_decoder"

    def start(
        self,
        params: Any,
        prompts: Int[Array, "B P"],
        is_prompt: Bool[Array, "B P"],
        max_new_tokens: int,
    ) -> tuple[Float[Array, "B V"], Cache, Int[Array, " B"]]:
        """Reads the prompts, padded on the left.

        Returns:
          Logits of the first new token, the cache, and each row's next position.
        """
        model, _ = self.modules.merge(params)
        batch, length = prompts.shape
        segments = is_prompt.astype(jnp.int32)
        positions = jnp.maximum(jnp.cumsum(segments, axis=1) - 1, 0)
        bidirectional = None
        if self.num_after_prefix is not None:
            columns = jnp.arange(length)[None] < length - self.num_after_prefix
            bidirectional = is_prompt & columns
        inputs = ModelInputs(
            tokens=prompts,
            segment_ids=segments,
            positions=positions,
            bidirectional=bidirectional,
        )
        if not self.is_encoder_decoder:
            cache = model.init_cache(batch, length + max_new_tokens)
            hidden, cache = model.decode_step(inputs, cache)
            logits = self._logits(params, model, hidden[:, -1:])
            return logits, cache, segments.sum(axis=1)
        starts = jnp.full((batch,), self.start_id, jnp.int32)
        first = _one_token(starts, jnp.zeros((batch,), jnp.int32))
        cache = model.init_cache(batch, 1 + max_new_tokens, encoder=inputs)
        hidden, cache = model.decode_step(first, cache)
        logits = self._logits(params, model, hidden)
        return logits, cache, jnp.ones((batch,), jnp.int32)

    def step(
        self,
        params: Any,
        tokens: Int[Array, " B"],
        positions: Int[Array, " B"],
        cache: Cache,
    ) -> tuple[Float[Array, "B V"], Cache]:
        """Logits after one more token of every row."""
        model, _ = self.modules.merge(params)
        hidden, cache = model.decode_step(_one_token(tokens, positions), cache)
        return self._logits(params, model, hidden), cache

    def _logits(self, params: Any, model: Any, hidden: Float[Array, "B 1 D"]):
        _, heads = self.modules.merge(params)
        embedding = model.embedding
        return all_logits(self.objective, self.term, heads, hidden, embedding)[:, 0]


def _one_token(tokens: Int[Array, " B"], positions: Int[Array, " B"]) -> ModelInputs:
    return ModelInputs(
        tokens=tokens[:, None],
        segment_ids=jnp.ones_like(tokens)[:, None],
        positions=positions[:, None],
    )


def all_logits(
    objective: Objective,
    term: str,
    heads: Any,
    hidden_states: Float[Array, "B L D"],
    embedding: Float[Array, "V E"],
) -> Float[Array, "B L V"]:
    """float32 logits of every position given, by a term's own readout."""
    shape = hidden_states.shape[:2]
    everywhere = Target(
        values=jnp.zeros(shape, jnp.int32), loss_weights=jnp.ones(shape, jnp.float32)
    )
    features, table, bias = objective.readout(
        term, heads, hidden_states, everywhere, embedding
    )
    logits = jax.lax.dot_general(
        features,
        table.astype(features.dtype),
        (((2,), (1,)), ((), ())),
        preferred_element_type=jnp.float32,
    )
    return logits if bias is None else logits + bias.astype(jnp.float32)[None, None]
