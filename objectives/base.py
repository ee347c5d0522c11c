"""The interface of an objective, and the losses that almost all of them share."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int

import models
from models.backbone import BackboneConfig
from models.dropout import DropoutRngs
from models.inputs import ModelInputs
from models.layers import positions_at
from objectives.cross_entropy import logits, weighted_cross_entropy
from objectives.heads import Readout
from objectives.scoring import Scoring
from objectives.statistics import Statistic
from objectives.types import Example, Lengths, PromptFrame, Target, Term
from objectives.vocabulary import Vocabulary

WeightedSum = tuple[Array, Array]  # (sum, weight), both float32 scalars.
Networks = Mapping[str, Any]  # Modules by name: 'model', 'heads' and perhaps others.


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
      frozen: networks that training does not move.
      exported: the network that fine-tuning, generation and export take.
      head: the module of its heads, where one serves all terms.

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
    frozen: ClassVar[tuple[str, ...]] = ()
    exported: ClassVar[str] = "model"
    head: ClassVar[Callable[..., nnx.Module]]

    architecture: str
    vocabulary: Vocabulary
    row_length: int

    @property
    def terms(self) -> dict[str, Term]:
        """The loss terms by name, e.g. {'mlm': Term(weight=1.0, predicts='tokens')}."""
        raise NotImplementedError

    @property
    def lengths(self) -> Lengths:
        """Static lengths that follow from `row_length`."""
        raise NotImplementedError

    def corrupt(self, rng: Array, example: Any) -> Any:
        """Clean rows (or an earlier stage's example) to an Example.

        Pure, jittable, static shapes. Sees the whole global batch; every random
        choice of a row comes from a key that folds in the row's id.
        """
        raise NotImplementedError

    @property
    def has_own_networks(self) -> bool:
        """Whether there are other networks than one backbone and heads on it."""
        return type(self).networks is not Objective.networks

    @property
    def head_name(self) -> str:
        """Name of the objective's heads among those of a run.

        Objectives of one run that give the same name share their heads.
        """
        return self.name

    @property
    def head_names(self) -> tuple[str, ...]:
        """Names of all heads, as they stand in the parameters of a run."""
        return (self.head_name,)

    def init_heads(self, config: BackboneConfig, *, rngs: nnx.Rngs) -> nnx.Module:
        """The modules on top of the backbone, with parameters of their own."""
        return self.head(config, rngs=rngs)

    def networks(self, config: BackboneConfig, *, rngs: nnx.Rngs) -> dict[str, Any]:
        """Every network of the objective by name, freshly drawn.

        'model' is the backbone and 'heads' what stands on top of it. An objective
        with further networks adds them here, and reads them in `losses`.
        """
        return {
            "model": models.create(config, rngs=rngs),
            "heads": self.init_heads(config, rngs=rngs),
        }

    @property
    def trains_whole_model(self) -> bool:
        """Whether the model's own parameters are all that it reads in training."""
        return True

    def complete(self, weights: dict[str, Any]) -> dict[str, Any]:
        """Weights with which the model stands alone, from those of a checkpoint.

        Themselves if `trains_whole_model`. Done twice it gives the same as once.
        """
        return weights

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
        embedding: Float[Array, "V _"],  # Labels have features of another width.
        inputs: ModelInputs,
    ) -> Readout:
        """What the shared loss multiplies: features, class table and class bias.

        Args:
          term: whose readout.
          heads: what `init_heads` made.
          hidden_states: of the P positions that `read_at` gives, in their order.
          target: of the term.
          embedding: the backbone's token embedding, the class table of tied heads.
          inputs: what the backbone read.
        """
        return heads.readout(hidden_states, embedding)

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

    def states_of_terms(
        self,
        states: Float[Array, "B _ D"],
        example: Example,
        at: Int[Array, "B P"] | None,
    ) -> dict[str, Float[Array, "B _ D"]]:
        """Each term's own hidden states, from those at `read_positions`, or from all."""
        reads = {term: self.read_at(term, t) for term, t in example.targets.items()}
        if at is None:
            return {term: positions_at(states, where) for term, where in reads.items()}
        found, start = {}, 0
        for term, where in reads.items():
            assert where is not None, "read_positions gives None otherwise"
            found[term] = states[:, start : start + where.shape[1]]
            start += where.shape[1]
        return found

    def hidden_states(
        self, model: Any, example: Example, **kwargs: Any
    ) -> dict[str, Float[Array, "B _ D"]]:
        """What each term's readout reads, from one run of the backbone.

        The last block computes nothing for positions that no term reads.
        """
        at = self.read_positions(example)
        states = model(example.inputs, at=at, **kwargs)
        return self.states_of_terms(states, example, at)

    @property
    def reads_one_pass(self) -> bool:
        """Whether `losses` is the shared one: one run of the backbone, then readouts."""
        return type(self).losses is Objective.losses

    def losses(
        self,
        networks: Networks,
        example: Example,
        *,
        rng: Array | None = None,
        deterministic: bool = True,
    ) -> tuple[dict[str, WeightedSum], dict[str, WeightedSum]]:
        """Loss terms and metrics, each a (sum, weight) pair, unreduced over shards.

        The default runs the backbone once and takes the weighted cross-entropy of
        each term's readout. With `deterministic` the metrics hold each term's
        accuracy; while training they are not computed.

        Args:
          networks: what `networks` made, with the parameters of the step.
          example: what `corrupt` made.
          rng: the step's key; what is drawn for a row folds the row's id in. Dropout
            takes it, and so does whatever else an objective samples, in evaluation too.
          deterministic: no dropout.
        """
        hidden_states = self.hidden_states(
            networks["model"],
            example,
            deterministic=deterministic,
            rngs=dropout_rngs(rng, example.row_ids, deterministic),
        )
        return self.read_losses(
            networks, example, hidden_states, with_accuracy=deterministic
        )

    def read_losses(
        self,
        networks: Networks,
        example: Example,
        hidden_states: Mapping[str, Float[Array, "B _ D"]],
        *,
        with_accuracy: bool,
    ) -> tuple[dict[str, WeightedSum], dict[str, WeightedSum]]:
        """The weighted cross-entropy, and perhaps accuracy, of each term's readout."""
        terms: dict[str, WeightedSum] = {}
        metrics: dict[str, WeightedSum] = {}
        for term, target in example.targets.items():
            features, table, bias = self.readout(
                term,
                networks["heads"],
                hidden_states[term],
                target,
                networks["model"].embedding,
                example.inputs,
            )
            result = weighted_cross_entropy(
                features,
                table,
                bias,
                target.values,
                target.loss_weights,
                z_loss=self.terms[term].z_loss,
                with_accuracy=with_accuracy,
            )
            terms[term] = (result.loss_sum, target.denominators().sum())
            if result.correct_sum is not None:
                metrics[f"{term}_accuracy"] = (
                    result.correct_sum,
                    target.loss_weights.sum(),
                )
        return terms, metrics

    def scores(self, networks: Networks, example: Example) -> Float[Array, "B K V"]:
        """float32 logits at every position of an Example with one target."""
        ((term, target),) = example.targets.items()
        model = networks["model"]
        states = self.hidden_states(model, example, deterministic=True)[term]
        return logits(
            *self.readout(
                term,
                networks["heads"],
                states,
                target,
                model.embedding,
                example.inputs,
            )
        )

    def log_probs(self, networks: Networks, example: Example) -> Float[Array, " B"]:
        """Summed log-probability of each row's weighted targets, of an Example with one
        target that `scoring` arranged. float32, without dropout.
        """
        (target,) = example.targets.values()
        scores = self.scores(networks, example)
        chosen = jnp.take_along_axis(scores, target.values[..., None], axis=-1)[..., 0]
        log_probs = chosen - jax.nn.logsumexp(scores, axis=-1)
        weights = target.loss_weights
        return jnp.where(weights > 0, weights * log_probs, 0.0).sum(-1)

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

    def statistics(self, rng: Array, example: Any) -> dict[str, Statistic]:
        """What `corrupt(rng, example)` does, beside what it is meant to do.

        For people to look at (research.preview); training does not compute it.
        """
        del rng, example
        return {}

    @property
    def notes(self) -> tuple[str, ...]:
        """What the settings amount to in these rows, where one might not expect it.

        Lines for people, at the start of a run and in previews.
        """
        return ()

    @property
    def token_term(self) -> str | None:
        """The term that predicts tokens of the text; None if there is none.

        Its readout scores texts, writes them and answers probes.
        """
        return next((t for t, v in self.terms.items() if v.predicts == "tokens"), None)

    def scoring(self) -> Scoring | None:
        """How likely a text is to a model of this objective; None if nobody can say."""
        return None

    @property
    def attention(self) -> str:
        """How the objective lets a text be read: 'causal', 'bidirectional' or 'prefix'.

        A decoder is fine-tuned to read in the way in which it was pretrained.
        """
        return "causal" if self.architecture == "decoder" else "bidirectional"

    @property
    def prompt(self) -> PromptFrame | None:
        """What stands around a prompt; None if the objective predicts no tokens."""
        return None

    @property
    def stop_ids(self) -> tuple[int, ...]:
        """Tokens that end a text that the network writes; () if it writes none.

        A decoder reads packed documents, so it may write what stands between them.
        """
        if self.prompt is None or self.prompt.fills:
            return ()
        is_decoder = self.architecture == "decoder"
        ends = (self.vocabulary.eod_id,) if is_decoder else ()
        return tuple(end for end in (*ends, self.vocabulary.eos_id) if end >= 0)

    def at(self, step: int) -> Objective:
        """The objective of a training step; phases give one after the other."""
        del step
        return self

    @property
    def switches(self) -> tuple[int, ...]:
        """Training steps from which on `at` gives another objective."""
        return ()

    def parts(self) -> tuple[tuple[str, Objective, float], ...]:
        """(name, objective, share of the rows or steps) of what it is made of.

        Mixtures and phases give their components, all others themselves, under the
        name ''. Held-out losses, FLOPs, previews and checks of lengths go over them.
        """
        return (("", self, 1.0),)

    @property
    def denominator(self) -> int:
        """What the rows of every device and microbatch must be a multiple of."""
        return 1


def dropout_rngs(
    rng: Array | None, row_ids: Array, deterministic: bool
) -> DropoutRngs | None:
    """The seeds of the rows' dropout; None where there is none."""
    if deterministic:
        return None
    if rng is None:
        raise ValueError("losses(deterministic=False) draws dropout: give rng.")
    return DropoutRngs.from_key(rng, row_ids)


def row_keys(rng: Array, row_ids: Array) -> Array:
    """One key per row: `rng` with the row's id folded in. Shape [B]."""
    return jax.vmap(jax.random.fold_in, in_axes=(None, 0))(rng, row_ids)
