"""Writing by unmasking: every place begins as [MASK] and is revealed in some step."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from research.generation.filling import read
from research.generation.language_model import LanguageModel

SAMPLERS = ("confidence", "ancestral", "first_hitting")


@dataclasses.dataclass(frozen=True)
class Unmasking:
    """How masks are revealed. A revealed token stays.

    ===============  =============================================================
    sampler          what a step reveals, m masks left of which s steps are to come
    ===============  =============================================================
    'confidence'     the m / s tokens with the highest probability (Nie et al. 2025);
                     10 masks in 4 steps are revealed 3, 3, 2, 2
    'ancestral'      each mask with probability 1 / s (Sahoo et al. 2024)
    'first_hitting'  one mask, each equally likely, as 'ancestral' with ever more steps
                     does (Zheng et al. 2024); takes as many steps as there are masks
    ===============  =============================================================

    Attributes:
      sampler: see the table.
      num_steps: passes of the network, for all but 'first_hitting'.
      temperature: of the tokens; 0 = the most probable one.

    Raises:
      ValueError: for a value that is not allowed, naming it and what is.
    """

    sampler: str
    num_steps: int
    temperature: float

    def __post_init__(self):
        if self.sampler not in SAMPLERS:
            raise ValueError(
                f"sampler = {self.sampler!r}: must be one of {', '.join(SAMPLERS)}."
            )
        if self.num_steps < 1:
            raise ValueError(f"num_steps = {self.num_steps}: must be >= 1.")


@functools.partial(jax.jit, static_argnums=(0, 1))
def unmask(
    language_model: LanguageModel,
    settings: Unmasking,
    params: Any,
    tokens: Int[Array, "B L"],
    is_text: Bool[Array, "B L"],
    rng: Array,
) -> Int[Array, "B L"]:
    """The texts with every mask replaced. Special tokens are never written."""
    vocabulary = language_model.objective.vocabulary
    forbidden = jnp.asarray(vocabulary.is_special)
    num_masks = (tokens == vocabulary.mask_id).sum(1)
    one_a_step = settings.sampler == "first_hitting"
    num_steps = num_masks.max() if one_a_step else jnp.int32(settings.num_steps)

    def step(index: Int[Array, ""], tokens: Int[Array, "B L"]) -> Int[Array, "B L"]:
        masked = tokens == vocabulary.mask_id
        logits = read(language_model, params, tokens, is_text)
        logits = jnp.where(forbidden[None, None], -jnp.inf, logits)
        token_rng, order_rng = jax.random.split(jax.random.fold_in(rng, index))
        if settings.temperature > 0:
            # 32 bits alone would cut off the Gumbels' tail and sharpen the samples.
            drawn = jax.random.categorical(
                token_rng, logits / settings.temperature, mode="high"
            )
        else:
            drawn = logits.argmax(-1)
        if settings.sampler == "ancestral":
            left = num_steps - index
            reveals = jax.random.uniform(order_rng, tokens.shape) * left < 1.0
        else:
            if one_a_step:
                score = jax.random.uniform(order_rng, tokens.shape)
                count = jnp.ones_like(num_masks)
            else:
                chosen = jnp.take_along_axis(logits, drawn[..., None], -1)[..., 0]
                score = chosen - jax.nn.logsumexp(logits, axis=-1)
                rest = index < num_masks % settings.num_steps
                count = num_masks // settings.num_steps + rest
            reveals = _rank(jnp.where(masked, score, -jnp.inf)) < count[:, None]
        return jnp.where(masked & reveals, drawn, tokens)

    return jax.lax.fori_loop(0, num_steps, step, tokens)


def _rank(score: Float[Array, "B L"]) -> Int[Array, "B L"]:
    """0 for the highest of each row, 1 for the next, .."""
    return jnp.argsort(jnp.argsort(-score, axis=1), axis=1)
