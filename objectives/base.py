"""The interface of an objective, and the loss that almost all of them share."""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int

from models.backbone import BackboneConfig
from models.dropout import DropoutRngs
from models.transformer.block import positions_at
from objectives.cross_entropy import weighted_cross_entropy
from objectives.statistics import Statistic
from objectives.types import Example, Lengths, Target
from objectives.vocabulary import Vocabulary

WeightedSum = tuple[Array, Array]  # (sum, weight), both float32 scalars.


@dataclasses.dataclass(frozen=True, kw_only=True)
class Objective:
    """Turns clean tokens into inputs and targets, and hidden states into losses.

    An objective is a frozen record of its hyperparameters: it holds no state, and
    `corrupt` is a pure function of a key and the rows. Subclasses are short files to
    be read next to their paper.

    Class attributes:
      name: its key in OBJECTIVES.
      architectures: every architecture it can be arranged for.
      accepts: forms of example it can start from: 'clean' rows or 'framed' pairs.
      produces: the form it leaves: 'framed' if another stage may follow.
      row_wise: whether an example depends on nothing but its own row.

    Attributes:
      architecture: 'encoder', 'decoder' or 'encoder_decoder': what it is arranged for.
      vocabulary: special ids and tables of the tokenizer.
      row_length: R, clean tokens a row. For a stage that follows another, the tokens
        inside the frame of [CLS] and [SEP] that it finds.
    """

    name: ClassVar[str]
    architectures: ClassVar[tuple[str, ...]]
    accepts: ClassVar[tuple[str, ...]] = ("clean",)
    produces: ClassVar[str] = "corrupted"
    row_wise: ClassVar[bool] = True

    architecture: str
    vocabulary: Vocabulary
    row_length: int

    @property
    def terms(self) -> dict[str, float]:
        """Names and weights of the loss terms, e.g. {'mlm': 1.0, 'nsp': 1.0}."""
        raise NotImplementedError

    @property
    def lengths(self) -> Lengths:
        """Static lengths that follow from `row_length`."""
        raise NotImplementedError

    def corrupt(self, rng: Array, example: Example) -> Example:
        """Clean rows (or an earlier stage's example) to inputs and targets.

        Pure, jittable, static shapes. Sees the whole global batch; every random
        choice of a row comes from a key that folds in the row's id.
        """
        raise NotImplementedError

    def init_heads(self, config: BackboneConfig, *, rngs: nnx.Rngs) -> nnx.Module:
        """The modules on top of the backbone, with parameters of their own."""
        raise NotImplementedError

    def read_at(self, term: str, target: Target) -> Int[Array, "B P"] | None:
        """Positions whose hidden states the term's readout needs; None = all."""
        del term
        return target.positions

    def readout(
        self,
        term: str,
        heads: Any,
        hidden_states: Float[Array, "B P D"],
        target: Target,
        embedding: Float[Array, "V E"],
    ) -> tuple[Float[Array, "B K E"], Float[Array, "C E"], Float[Array, " C"] | None]:
        """What the shared loss multiplies: features, class table and class bias.

        `hidden_states` are those of the P positions that `read_at` gives, in their
        order. `embedding` is the backbone's token embedding, the class table of tied
        heads.
        """
        raise NotImplementedError

    def read_positions(self, example: Example) -> Int[Array, "B P"] | None:
        """Positions that all terms read, one term after the other; None = all L.

        All, too, where the terms together read no fewer than there are. Position 0
        follows where their number is odd, which attention kernels of GPUs refuse.
        """
        positions = [self.read_at(term, t) for term, t in example.targets.items()]
        some = [at for at in positions if at is not None]
        num_read = sum(at.shape[1] for at in some)
        num_read += num_read % 2
        if len(some) < len(positions) or num_read >= example.inputs.tokens.shape[1]:
            return None
        together = jnp.concatenate(some, axis=1)
        return jnp.pad(together, ((0, 0), (0, num_read - together.shape[1])))

    def hidden_states(
        self, model: Any, example: Example, **kwargs: Any
    ) -> dict[str, Float[Array, "B _ D"]]:
        """What each term's readout reads, from one run of the backbone.

        The last block computes nothing for positions that no term reads.
        """
        at = self.read_positions(example)
        states = model(example.inputs, at=at, **kwargs)
        reads = {term: self.read_at(term, t) for term, t in example.targets.items()}
        if at is None:
            return {term: positions_at(states, where) for term, where in reads.items()}
        found, start = {}, 0
        for term, where in reads.items():
            assert where is not None, "read_positions gives None otherwise"
            found[term] = states[:, start : start + where.shape[1]]
            start += where.shape[1]
        return found

    def z_loss_of(self, term: str) -> float:
        """Factor on the squared log-partition in the term's cross-entropy."""
        del term
        return 0.0

    def losses(
        self,
        model: Any,
        heads: Any,
        example: Example,
        *,
        rngs: DropoutRngs | None = None,
        deterministic: bool = True,
    ) -> tuple[dict[str, WeightedSum], dict[str, WeightedSum]]:
        """Loss terms and metrics, each a (sum, weight) pair, unreduced over shards.

        The default runs the backbone once and takes the weighted cross-entropy of
        each term's readout. With `deterministic` the metrics hold each term's
        accuracy; while training they are not computed.
        """
        hidden_states = self.hidden_states(
            model, example, deterministic=deterministic, rngs=rngs
        )
        terms: dict[str, WeightedSum] = {}
        metrics: dict[str, WeightedSum] = {}
        for term, target in example.targets.items():
            features, table, bias = self.readout(
                term, heads, hidden_states[term], target, model.embedding
            )
            result = weighted_cross_entropy(
                features,
                table,
                bias,
                target.values,
                target.loss_weights,
                z_loss=self.z_loss_of(term),
                with_accuracy=deterministic,
            )
            terms[term] = (result.loss_sum, target.denominators().sum())
            if result.correct_sum is not None:
                metrics[f"{term}_accuracy"] = (
                    result.correct_sum,
                    target.loss_weights.sum(),
                )
        return terms, metrics

    def following(self, previous: Objective) -> Objective:
        """This stage, arranged to start from what `previous` leaves.

        Raises:
          ValueError: if it cannot, naming what it can follow.
        """
        if previous.produces not in self.accepts:
            raise ValueError(
                f"Objective {self.name!r} cannot follow {previous.name!r}, which leaves "
                f"{previous.produces} examples: {self.name!r} starts from "
                f"{' or '.join(self.accepts)} ones. Stages compose left to right: "
                f"sentence pairs first, then what corrupts them."
            )
        return dataclasses.replace(self, row_length=previous.lengths.inputs - 2)

    @property
    def label_names(self) -> dict[str, tuple[str, ...]]:
        """Names of the classes of terms that predict a label, not token ids."""
        return {}

    def statistics(self, rng: Array, example: Example) -> dict[str, Statistic]:
        """What `corrupt(rng, example)` does, beside what it is meant to do.

        For people to look at (research.preview); training does not compute it.
        """
        del rng, example
        return {}

    @property
    def start_id(self) -> int:
        """What an encoder-decoder's decoder reads before its first target."""
        return self.vocabulary.pad_id

    def at(self, step: int) -> Objective:
        """The objective of a step; a mixture of static shapes returns others."""
        del step
        return self


def row_keys(rng: Array, row_ids: Array) -> Array:
    """One key per row: `rng` with the row's id folded in. Shape [B]."""
    return jax.vmap(jax.random.fold_in, in_axes=(None, 0))(rng, row_ids)
