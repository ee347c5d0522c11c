"""A decoder or an encoder-decoder as a function from tokens to next-token logits."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from models import ModelInputs
from objectives.base import Objective
from objectives.cross_entropy import logits
from objectives.types import PromptFrame, Target
from research.training.state import Modules


@dataclasses.dataclass(frozen=True, eq=False)
class LanguageModel:
    """What decoding needs of a pretrained network, as pure functions of `params`.

    Attributes:
      modules: the networks without their parameters.
      objective: whose readout turns hidden states into logits.
      term: the loss term of that readout.
      prompt: what stands around a prompt, and how it is read.
      stop_ids: tokens that end a text.
      pad_id: fills what is not text.
    """

    modules: Modules
    objective: Objective
    term: str
    prompt: PromptFrame
    stop_ids: tuple[int, ...]
    pad_id: int

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
    ) -> tuple[Float[Array, "B V"], Any, Int[Array, " B"]]:
        """Reads the prompts, padded on the left.

        Returns:
          Logits of the first new token, the cache, and each row's next position.
        """
        model = self.modules.merge(params)["model"]
        batch, length = prompts.shape
        segments = is_prompt.astype(jnp.int32)
        positions = jnp.maximum(jnp.cumsum(segments, axis=1) - 1, 0)
        bidirectional = None
        if self.prompt.after_prefix is not None:
            columns = jnp.arange(length)[None] < length - self.prompt.after_prefix
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
            logits = self.logits(
                params, _one_token(prompts[:, -1], positions[:, -1]), hidden[:, -1:]
            )[:, 0]
            return logits, cache, segments.sum(axis=1)
        starts = jnp.full((batch,), self.prompt.start_id, jnp.int32)
        first = _one_token(starts, jnp.zeros((batch,), jnp.int32))
        cache = model.init_cache(batch, 1 + max_new_tokens, encoder=inputs)
        hidden, cache = model.decode_step(first, cache)
        logits = self.logits(params, first, hidden)[:, 0]
        return logits, cache, jnp.ones((batch,), jnp.int32)

    def step(
        self,
        params: Any,
        tokens: Int[Array, " B"],
        positions: Int[Array, " B"],
        cache: Any,
    ) -> tuple[Float[Array, "B V"], Any]:
        """Logits after one more token of every row."""
        model = self.modules.merge(params)["model"]
        inputs = _one_token(tokens, positions)
        hidden, cache = model.decode_step(inputs, cache)
        return self.logits(params, inputs, hidden)[:, 0], cache

    def logits(
        self, params: Any, inputs: ModelInputs, hidden: Float[Array, "B L D"]
    ) -> Float[Array, "B L V"]:
        """float32 logits of every position given, by the term's own readout."""
        networks = self.modules.merge(params)
        shape = hidden.shape[:2]
        everywhere = Target(
            values=jnp.zeros(shape, jnp.int32),
            loss_weights=jnp.ones(shape, jnp.float32),
        )
        return logits(
            *self.objective.readout(
                self.term,
                networks["heads"],
                hidden,
                everywhere,
                networks["model"].embedding,
                inputs,
            )
        )


def _one_token(tokens: Int[Array, " B"], positions: Int[Array, " B"]) -> ModelInputs:
    return ModelInputs(
        tokens=tokens[:, None],
        segment_ids=jnp.ones_like(tokens)[:, None],
        positions=positions[:, None],
    )
