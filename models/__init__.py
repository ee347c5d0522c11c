"""Backbones: Flax modules that turn token ids into hidden states."""

from __future__ import annotations

from flax import nnx

from models.backbone import Backbone, BackboneConfig
from models.dropout import DropoutRngs
from models.inputs import ModelInputs
from models.transformer.config import TransformerConfig
from models.transformer.transformer import Transformer

# Every backbone, by `BackboneConfig.backbone`.
BACKBONES: dict[str, type[Backbone]] = {"transformer": Transformer}


def create(config: BackboneConfig, *, rngs: nnx.Rngs) -> Backbone:
    """Builds the configured backbone with freshly drawn parameters."""
    return BACKBONES[config.backbone](config, rngs=rngs)


__all__ = [
    "BACKBONES",
    "Backbone",
    "BackboneConfig",
    "DropoutRngs",
    "ModelInputs",
    "TransformerConfig",
    "create",
]
