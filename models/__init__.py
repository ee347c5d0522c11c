"""What computes: backbones that turn token ids into hidden states."""

from __future__ import annotations

from flax import nnx

from models.dropout import DropoutRngs
from models.inputs import ModelInputs
from models.transformer import transformer
from models.transformer.config import TransformerConfig

# Every backbone's constructor, by `TransformerConfig.backbone`.
BACKBONES = {"transformer": transformer.create}


def create(config: TransformerConfig, *, rngs: nnx.Rngs):
    """Builds the configured backbone with freshly drawn parameters.

    Returns:
      A module: `module(inputs, deterministic=True, rngs=None)` gives hidden states
      [B, L, D] and `module.embedding` the token embedding [V, E].
    """
    return BACKBONES[config.backbone](config, rngs=rngs)


__all__ = [
    "BACKBONES",
    "DropoutRngs",
    "ModelInputs",
    "TransformerConfig",
    "create",
]
