"""Fine-tuning on labelled sentences: classes or a score from one hidden state.

Devlin et al. 2019, section 4.1 (an encoder's [CLS] and its tanh pooler); Radford et al.
2018, section 3.2 (the last token of a decoder); Lewis et al. 2020, section 3.1 (the
input given to encoder and decoder, read at the decoder's last token).

One program serves every task of one head size: a task with fewer classes masks the rest,
and a row with a score adds to the squared error where a row with a class adds to the
cross-entropy.

    row 0   num_classes 2, label 1.0   cross-entropy of class 1 among classes 0 and 1
    row 1   num_classes 1, label 0.7   (logit 0 - 0.7)^2
"""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int

from models.backbone import BackboneConfig
from models.dropout import DropoutRngs, dropout, fold
from models.inputs import ModelInputs
from models.layers import Linear
from models.pytree import pytree
from objectives.base import Networks
from objectives.finetuning.labelled import Labelled
from objectives.types import AnyArray, Target, Term

READOUTS = ("cls", "mean", "last")
# The head's dropout site, beside the sites that backbones number from 0.
_HEAD_SITE = 64
# Logit of a class that the task does not have; finite, so that no gradient is NaN.
_NO_CLASS = -1e9


@pytree
class LabelledBatch:
    """Framed sentences with one label each. Every array has the leading axis B.

    Attributes:
      tokens: with the special tokens in place.
      segment_ids: 1 for tokens, 0 for padding, on either side.
      token_type_ids: 0 and 1 for the two sentences; None for models without types.
      labels: class or score.
      num_classes: of the row's task; 1 = the label is a score.
      weights: 0 for rows that only fill up the batch.
      row_ids: number of each row in the step; dropout folds it in.
    """

    tokens: Int[AnyArray, "B L"]
    segment_ids: Int[AnyArray, "B L"]
    token_type_ids: Int[AnyArray, "B L"] | None
    labels: Float[AnyArray, " B"]
    num_classes: Int[AnyArray, " B"]
    weights: Float[AnyArray, " B"]
    row_ids: Int[AnyArray, " B"]


@pytree
class LabelTarget(Target):
    """A Target [B, 1] of classes or scores.

    Attributes:
      num_classes: of the row's task; 1 = the value is a score.
    """

    num_classes: Int[Array, " B"]


class ClassificationHead(nnx.Module):
    """logits = Linear(dropout(tanh(Linear(h)))), or Linear(dropout(h)); float32.

    Args:
      config: of the backbone.
      num_classes: C, number of logits.
      with_pooler: whether there is a tanh layer (BERT, BART) or not (GPT).
      rngs: source of the kernels' keys.
    """

    def __init__(
        self,
        config: BackboneConfig,
        num_classes: int,
        *,
        with_pooler: bool,
        rngs: nnx.Rngs,
    ):
        exact, dim = dataclasses.replace(config, dtype="float32"), config.emb_dim
        pooler = Linear(exact, dim, dim, rngs, use_bias=True) if with_pooler else None
        self.pooler = pooler
        self.output = Linear(exact, dim, num_classes, rngs, use_bias=with_pooler)
        self.dropout_rate = config.dropout_rate

    def __call__(
        self, features: Float[Array, "B D"], *, rngs: DropoutRngs | None
    ) -> Float[Array, "B C"]:
        features = features.astype(jnp.float32)
        if self.pooler is not None:
            features = jnp.tanh(self.pooler(features))
        return self.output(dropout(features, self.dropout_rate, fold(rngs, _HEAD_SITE)))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Classification(Labelled):
    """Reads one vector a row and predicts a class or a score.

    Attributes:
      num_classes: C, logits of the head, at least those of any task.
      reads: 'cls' (the first token), 'mean' (of all tokens) or 'last' (the last
        token; padding may be on either side).
      with_pooler: whether the head has BERT's tanh layer.
    """

    name: ClassVar[str] = "classification"

    num_classes: int
    reads: str
    with_pooler: bool

    def __post_init__(self):
        if self.reads not in READOUTS:
            raise ValueError(
                f"readout = {self.reads!r}: must be one of {', '.join(READOUTS)}."
            )
        reads_both_ways = self.architecture == "encoder" or (
            self.architecture == "decoder" and self.reading != "causal"
        )
        if self.reads == "cls" and not reads_both_ways:
            raise ValueError(
                f"readout = 'cls' with architecture = {self.architecture!r}: the first "
                f"token sees nothing else; use 'last' or 'mean'."
            )

    @property
    def terms(self) -> dict[str, Term]:
        return {"label": Term(weight=1.0, predicts="labels")}

    def targets(self, batch: Any) -> dict[str, Target]:
        target = LabelTarget(
            values=batch.labels[:, None],
            loss_weights=batch.weights[:, None],
            num_classes=batch.num_classes,
        )
        return {"label": target}

    def init_heads(
        self, config: BackboneConfig, *, rngs: nnx.Rngs
    ) -> ClassificationHead:
        return ClassificationHead(
            config, self.num_classes, with_pooler=self.with_pooler, rngs=rngs
        )

    def logits(
        self,
        networks: Networks,
        inputs: ModelInputs,
        *,
        rngs: DropoutRngs | None = None,
    ) -> Float[Array, "B C"]:
        """Logits of all C classes; column 0 is the score of a regression task."""
        at = read_position(inputs, self.reads)
        hidden_states = networks["model"](
            inputs, at=at, deterministic=rngs is None, rngs=rngs
        )
        features = (
            hidden_states[:, 0] if at is not None else mean(hidden_states, inputs)
        )
        return networks["heads"](features, rngs=rngs)

    def judged(
        self, term: str, logits: Float[Array, "B C"], target: Any
    ) -> tuple[Array, Array, Array]:
        """Cross-entropy, or squared error; a score is neither right nor wrong."""
        labels, num_classes = target.values[:, 0], target.num_classes
        best = mask_classes(logits, num_classes).argmax(-1)
        losses = label_losses(logits, labels, num_classes)
        return losses, best == labels.astype(jnp.int32), num_classes > 1


def read_position(inputs: ModelInputs, readout: str) -> Int[Array, "B 1"] | None:
    """Where each row's first ('cls') or last token is; None for 'mean', which needs all.

    Positions count tokens only, so neither end depends on the side of the padding.
    """
    real = inputs.segment_ids > 0
    if readout == "mean":
        return None
    last = jnp.where(real, inputs.positions, -1).argmax(-1)
    return (real.argmax(-1) if readout == "cls" else last)[:, None]


def mean(
    hidden_states: Float[Array, "B L D"], inputs: ModelInputs
) -> Float[Array, "B D"]:
    """The mean state of each row's tokens."""
    real = inputs.segment_ids > 0
    weights = real.astype(jnp.float32)
    weights = weights / jnp.maximum(weights.sum(-1, keepdims=True), 1.0)
    states = jnp.where(real[..., None], hidden_states.astype(jnp.float32), 0.0)
    return (states * weights[..., None]).sum(1).astype(hidden_states.dtype)


def mask_classes(
    logits: Float[Array, "B C"], num_classes: Int[Array, " B"]
) -> Float[Array, "B C"]:
    """Logits with those of classes that a row's task lacks out of reach."""
    exists = jnp.arange(logits.shape[-1])[None] < num_classes[:, None]
    return jnp.where(exists, logits, _NO_CLASS)


def label_losses(
    logits: Float[Array, "B C"],
    labels: Float[Array, " B"],
    num_classes: Int[Array, " B"],
) -> Float[Array, " B"]:
    """Cross-entropy of rows with a class, squared error of rows with a score."""
    is_score = num_classes == 1
    log_probs = jax.nn.log_softmax(mask_classes(logits, num_classes))
    classes = jnp.where(is_score, 0, labels).astype(jnp.int32)
    chosen = jnp.take_along_axis(log_probs, classes[:, None], axis=1)[:, 0]
    return jnp.where(is_score, jnp.square(logits[:, 0] - labels), -chosen)
