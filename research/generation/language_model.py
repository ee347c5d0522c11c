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
      prompt: what stands around a prompt, and how it is read.
      stop_ids: tokens that end a text.
    """

    modules: Modules
    objective: Objective
    prompt: PromptFrame
    stop_ids: tuple[int, ...]

    @property
    def pad_id(self) -> int:
        """The token that fills what is not text."""
        return self.objective.vocabulary.pad_id

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
        if self.objective.architecture == "encoder_decoder":
            cache = model.init_cache(batch, 1 + max_new_tokens, encoder=inputs)
            starts = jnp.full((batch,), self.prompt.start_id, jnp.int32)
            logits, cache = self.step(params, starts, jnp.zeros_like(starts), cache)
            return logits, cache, jnp.ones_like(starts)
        cache = model.init_cache(batch, length + max_new_tokens)
        hidden, cache = model.decode_step(inputs, cache)
        last = _one_token(prompts[:, -1], positions[:, -1])
        logits = self.logits(params, last, hidden[:, -1:])[:, 0]
        return logits, cache, segments.sum(axis=1)

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
        term = self.objective.token_term
        assert term is not None, "an objective with a prompt predicts tokens"
        return logits(
            *self.objective.readout(
                term,
                networks["heads"],
                hidden,
                everywhere,
                networks["model"].embedding,
                inputs,
            )
        )


def language_model(
    objective: Objective,
    modules: Modules,
    *,
    stop_ids: tuple[int, ...] | None = None,
) -> LanguageModel:
    """The network of an objective as functions of its parameters.

    Args:
      objective: whose readout gives the logits.
      modules: of the run.
      stop_ids: tokens that end a text; None = the objective's.

    Raises:
      ValueError: if no term of the objective predicts tokens of the vocabulary.
    """
    if objective.token_term is None or objective.prompt is None:
        raise ValueError(
            f"The objective {objective.name} has no language-model head to write with."
        )
    if stop_ids is None:
        stop_ids = objective.stop_ids
    return LanguageModel(
        modules=modules, objective=objective, prompt=objective.prompt, stop_ids=stop_ids
    )


def _one_token(tokens: Int[Array, " B"], positions: Int[Array, " B"]) -> ModelInputs:
    return ModelInputs(
        tokens=tokens[:, None],
        segment_ids=jnp.ones_like(tokens)[:, None],
        positions=positions[:, None],
    )
