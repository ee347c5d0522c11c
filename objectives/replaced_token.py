"""Replaced-token detection: say which tokens of a text a small masked LM made up."""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from flax import nnx, traverse_util
from jaxtyping import Array, Bool, Float, Int, Key

import models
from models.backbone import Backbone, BackboneConfig
from models.inputs import ModelInputs
from models.layers import ACTIVATIONS, Linear
from objectives.base import Networks, Objective, WeightedSum, dropout_rngs, row_keys
from objectives.corruption import rows, selection
from objectives.cross_entropy import chunk_elements, logits
from objectives.heads import MaskedLMHead, Readout
from objectives.statistics import Statistic, share, shown
from objectives.types import Example, Lengths, Target, Term
from objectives.validation import check_choice, check_range, check_row_length

DRAWS = ("without_replacement", "with_replacement")
SHARING = ("shared", "separate", "disentangled")
Path = tuple[Any, ...]  # Names, and numbers of layers.
Tables = dict[Path, Any]  # Arrays, or their shapes.


class Generator(nnx.Module):
    """A masked LM: a backbone and its head.

    Args:
      config: of the backbone.
      has_tables: whether it has embedding tables of its own; without, it runs only with
        those of another backbone, see `with_tables`.
      rngs: source of the parameters' keys.
    """

    def __init__(self, config: BackboneConfig, *, has_tables: bool, rngs: nnx.Rngs):
        self.backbone = models.create(config, rngs=rngs)
        self.head = MaskedLMHead(config, rngs=rngs)
        if not has_tables:
            for path in tables_of(self.backbone):
                owner: Any = self.backbone
                for name in path[:-1]:
                    owner = getattr(owner, name)
                setattr(owner, path[-1], None)


class Difference(nnx.Module):
    """What the model's embedding tables have beyond the generator's, zero at first."""

    def __init__(self, tables: Tables):
        for path, table in tables.items():
            setattr(self, path[-1], nnx.Param(jnp.zeros_like(table)))


class Detector(nnx.Module):
    """Dense, activation, one logit a token: the discriminator's head of ELECTRA."""

    def __init__(self, config: BackboneConfig, *, rngs: nnx.Rngs):
        dim = config.emb_dim
        self.dense = Linear(config, dim, dim, rngs, use_bias=True)
        self.score = Linear(config, dim, 1, rngs, use_bias=True)
        self.activation = config.activation

    def readout(
        self, hidden_states: Float[Array, "B L D"], embedding: Float[Array, "V E"]
    ) -> Readout:
        """As classes 0, original, whose logit is 0, and 1, replaced."""
        del embedding
        features = ACTIVATIONS[self.activation](self.dense(hidden_states))
        table = jnp.pad(self.score.kernel[...].T, ((1, 0), (0, 0)))
        assert self.score.bias is not None, "asked for"
        return features, table, jnp.pad(self.score.bias[...], (1, 0))


@dataclasses.dataclass(frozen=True, kw_only=True)
class ReplacedToken(Objective):
    """ELECTRA (Clark et al. 2020), and the embedding sharing of DeBERTaV3 (He et al. 2023).

    A generator, a smaller masked LM, fills hidden tokens with its own guesses. The model,
    called the discriminator, reads the result and says of every token whether it is the
    original. A guess that happens to be right counts as original.

        clean         [CLS]  the  cat     sat  on  the     mat  [SEP]
        inputs        [CLS]  the  [MASK]  sat  on  [MASK]  mat  [SEP]   the generator's
        mlm                       cat              the
        drawn         [CLS]  the  dog     sat  on  the     mat  [SEP]   the model's
        rtd           0      0    1       0    0   0       0    0

    The guesses are drawn in `losses`, by the row's key and the position; no gradient
    flows through them. 'mlm' is a mean over the selected tokens, 'rtd' over all tokens,
    ``[CLS]`` and ``[SEP]`` included. The budget is BERT's: noise_density * n rounded half
    to even, n counting ``[CLS]`` and ``[SEP]``, at least 1.

    ==============  =================================================================
    sharing         embedding tables (of tokens, positions, token types)
    ==============  =================================================================
    'shared'        one set, which both losses train (ELECTRA)
    'separate'      each network has its own
    'disentangled'  the generator's, plus for the model a difference that starts at
                    zero: model = stop_gradient(generator) + difference. The loss of
                    the generator trains its tables, that of the model the difference
                    alone (DeBERTaV3's gradient-disentangled sharing)
    ==============  =================================================================

    DeBERTaV3 updates the generator first and lets the model read the new tables in the
    same step. Here both update at once: the model sees the generator's tables one update
    later. On a Markov chain of 32 tokens, after 900 steps and for two seeds, held-out
    'rtd' is 0.3853 and 0.3007 this way, 0.3852 and 0.3001 with the generator first; 'mlm'
    is equal.

    The model alone is fine-tuned and exported. With 'disentangled' its own tables stay
    idle in training, and `complete` fills them. It gives no likelihood of a text.

    Attributes:
      loss_weight: weight of the term 'mlm', the generator's.
      rtd_weight: weight of the term 'rtd', the model's.
      noise_density: share of tokens selected; 0.25 for ELECTRA large.
      mask_prob: share of the selected tokens that the generator sees as ``[MASK]``; it
        sees the rest as they are (ELECTRA's code: 0.85).
      draws: tokens are selected 'without_replacement', or 'with_replacement' as in
        ELECTRA's code, where of 77 draws in 512 tokens 71.5 are different ones and
        those drawn twice count twice in 'mlm'.
      sharing: see the table.
      generator_width: the generator's width, heads and feed-forward width as a share
        of the model's.
      generator_depth: its layers as a share of the model's.
      isolate_documents: whether documents packed into a row see each other.
    """

    name: ClassVar[str] = "replaced_token"
    architectures: ClassVar[tuple[str, ...]] = ("encoder",)

    loss_weight: float
    rtd_weight: float
    noise_density: float
    mask_prob: float
    draws: str
    sharing: str
    generator_width: float
    generator_depth: float
    isolate_documents: bool

    def __post_init__(self):
        check_row_length(self, 2)
        check_range(self, "loss_weight", "rtd_weight", above=0)
        check_range(self, "noise_density", above=0, below=1)
        check_range(
            self, "mask_prob", "generator_width", "generator_depth", above=0, at_most=1
        )
        check_choice(self, "draws", DRAWS)
        check_choice(self, "sharing", SHARING)
        self.vocabulary.require(self.name, "cls_id", "sep_id", "mask_id")

    @property
    def terms(self) -> dict[str, Term]:
        return {
            "mlm": Term(weight=self.loss_weight, predicts="tokens"),
            "rtd": Term(weight=self.rtd_weight, predicts="score"),
        }

    @property
    def token_term(self) -> None:
        """None: the model predicts no tokens, the generator does."""
        return None

    @property
    def lengths(self) -> Lengths:
        length = self.row_length + 2
        return Lengths(
            inputs=length,
            targets={"mlm": self.num_slots, "rtd": length},
        )

    @property
    def num_slots(self) -> int:
        """K, the most tokens that can be selected in a row."""
        slots = selection.round_share(self.row_length + 2, self.noise_density)
        return min(max(slots, 1), self.row_length)

    def corrupt(self, rng: Array, example: Example) -> Example:
        """Frames the rows, and hides what the generator is to fill in."""
        if self.isolate_documents:
            example = rows.isolate(example)
        example = rows.frame(example, self.vocabulary)
        tokens = example.inputs.tokens
        eligible = rows.eligible(example.inputs, self.vocabulary)
        inputs, positions = jax.vmap(self._corrupt_row)(
            row_keys(rng, example.row_ids), tokens, eligible
        )
        live = positions < tokens.shape[1]
        slots = jnp.where(live, positions, 0)
        values = jnp.take_along_axis(tokens, slots, axis=1)
        mlm = Target(
            values=jnp.where(live, values, 0),
            loss_weights=live.astype(jnp.float32),
            positions=slots,
        )
        # Which tokens are replaced is known only when the generator has drawn them.
        rtd = Target(
            values=jnp.zeros_like(tokens),
            loss_weights=(example.inputs.segment_ids > 0).astype(jnp.float32),
        )
        return example.replace(
            inputs=dataclasses.replace(example.inputs, tokens=inputs),
            targets={"mlm": mlm, "rtd": rtd},
        )

    def _corrupt_row(
        self, rng: Key[Array, ""], tokens: Int[Array, " L"], eligible: Bool[Array, " L"]
    ) -> tuple[Int[Array, " L"], Int[Array, " K"]]:
        """What the generator sees, and the positions selected (L in dead slots)."""
        choose_rng, mask_rng = jax.random.split(rng)
        length, size = tokens.shape[0], self.num_slots
        count = eligible.sum(dtype=jnp.int32)
        budget = jnp.maximum(selection.round_share(count + 2, self.noise_density), 1)
        budget = jnp.minimum(jnp.where(count > 0, budget, 0), size)
        if self.draws == "with_replacement":
            places = selection.positions_of(eligible, length)
            drawn = jax.random.randint(choose_rng, (size,), 0, jnp.maximum(count, 1))
            live = jnp.arange(size) < budget
            positions = jnp.sort(jnp.where(live, places[drawn], length))
        else:
            budget = jnp.minimum(budget, count)
            positions = selection.choose(choose_rng, eligible, budget, size)
        is_masked = jax.random.uniform(mask_rng, (size,)) < self.mask_prob
        masked = jnp.where(is_masked, positions, length)
        return tokens.at[masked].set(self.vocabulary.mask_id, mode="drop"), positions

    def statistics(self, rng: Array, example: Example) -> dict[str, Statistic]:
        """Share selected, how often a token is drawn again, what the generator sees."""
        after = self.corrupt(rng, example)
        target = after.targets["mlm"]
        live = target.loss_weights > 0
        places: Any = target.positions
        again = live[:, 1:] & (places[:, 1:] == places[:, :-1])
        # [EOD] does not count; a tokenizer may use it for [SEP] too.
        tokens = after.inputs.tokens
        counted = tokens != self.vocabulary.eod_id
        counted |= tokens == self.vocabulary.sep_id
        counted &= after.inputs.segment_ids > 0
        return {
            "mlm targets / counted tokens": share(live, counted, self.noise_density),
            "drawn before / mlm targets": share(again, live),
            "the generator sees in place of a target": shown(
                target,
                after,
                self.vocabulary,
                mask_prob=self.mask_prob,
                random_prob=0.0,
            ),
        }

    def generator_config(self, config: BackboneConfig) -> BackboneConfig:
        """The generator's settings, from those of the model.

        Raises:
          ValueError: if they are not allowed, or do not go with shared tables.
        """

        def scaled(value: int, factor: float) -> int:
            return max(1, round(value * factor))

        fields = {field.name for field in dataclasses.fields(config)}
        sizes = {"emb_dim": config.emb_dim, **config.tensor_sizes}
        changes: dict[str, Any] = {
            name: scaled(size, self.generator_width) for name, size in sizes.items()
        }
        if "num_layers" in fields:
            layers = config.num_layers  # type: ignore[attr-defined]
            changes["num_layers"] = scaled(layers, self.generator_depth)
        shares = self.sharing != "separate"
        table, width = config.table_dim, changes["emb_dim"]
        if shares and width > table:
            raise ValueError(
                f"{self.name}.generator_width = {self.generator_width:g} makes a generator "
                f"of width {width}, wider than the embedding of {table} that it shares "
                f"with the model: set generator_width to at most "
                f"{table / config.emb_dim:g}, raise model.embedding_dim, or set sharing "
                f"= 'separate'."
            )
        if "embedding_dim" in fields:
            changes["embedding_dim"] = table if shares else None
        elif shares and width != table:
            raise ValueError(
                f"{self.name}.sharing = {self.sharing!r} with generator_width = "
                f"{self.generator_width:g}: backbone {config.backbone!r} has no embedding "
                f"of another width than its own. Set generator_width = 1 or sharing = "
                f"'separate'."
            )
        try:
            return dataclasses.replace(config, **changes)
        except ValueError as error:
            raise ValueError(
                f"{self.name}: a generator of {self.generator_width:g} of the model's "
                f"width and {self.generator_depth:g} of its depth: {error} Change "
                f"generator_width or generator_depth."
            ) from error

    def init_heads(self, config: BackboneConfig, *, rngs: nnx.Rngs) -> nnx.Module:
        return Detector(config, rngs=rngs)

    def networks(self, config: BackboneConfig, *, rngs: nnx.Rngs) -> dict[str, Any]:
        """The model and its head, the generator, and the model's own share of tables."""
        networks = super().networks(config, rngs=rngs)
        generator = Generator(
            self.generator_config(config),
            has_tables=self.sharing != "shared",
            rngs=rngs,
        )
        networks["generator"] = generator
        if self.sharing == "disentangled":
            tables = tables_of(generator.backbone)
            networks["model"] = with_tables(networks["model"], tables)
            networks["difference"] = Difference(tables)
        return networks

    @property
    def trains_whole_model(self) -> bool:
        return self.sharing != "disentangled"

    def complete(self, weights: dict[str, Any]) -> dict[str, Any]:
        if self.trains_whole_model:
            return weights
        model = traverse_util.flatten_dict(weights["model"])
        base = traverse_util.flatten_dict(weights["generator"]["backbone"])
        model |= {
            path: jnp.asarray(base[path]) + jnp.asarray(weights["difference"][path[-1]])
            for path in filter(_is_table, model)
        }
        return {**weights, "model": traverse_util.unflatten_dict(model)}

    def _backbones(self, networks: Networks) -> tuple[Backbone, Backbone]:
        """The generator's and the model's, with the tables that they read."""
        generator, model = networks["generator"].backbone, networks["model"]
        if self.sharing == "shared":
            generator = with_tables(generator, tables_of(model))
        if self.sharing == "disentangled":
            tables = {
                path: jax.lax.stop_gradient(table)
                + getattr(networks["difference"], path[-1])[...]
                for path, table in tables_of(generator).items()
            }
            model = with_tables(model, tables)
        return generator, model

    def readout(
        self,
        term: str,
        heads: Any,
        hidden_states: Float[Array, "B P D"],
        target: Target,
        embedding: Float[Array, "V E"],
        inputs: ModelInputs,
    ) -> Readout:
        return heads.readout(hidden_states, embedding)

    def losses(
        self,
        networks: Networks,
        example: Example,
        *,
        rng: Array | None = None,
        deterministic: bool = True,
    ) -> tuple[dict[str, WeightedSum], dict[str, WeightedSum]]:
        """Those of the generator, and of the model on what the generator draws.

        Metrics also have the share of tokens that the generator replaced: a model that
        calls all tokens original is right on all others.
        """
        if rng is None:
            raise ValueError(f"{self.name} draws tokens in its losses: give rng.")
        generator_rng, draw_rng, model_rng = jax.random.split(rng, 3)
        generator, model = self._backbones(networks)

        def read(backbone, heads, own: Example, rng: Array):
            rngs = dropout_rngs(rng, example.row_ids, deterministic)
            states = self.hidden_states(
                backbone, own, deterministic=deterministic, rngs=rngs
            )
            found = {"model": backbone, "heads": heads}
            return states, self.read_losses(
                found, own, states, with_accuracy=deterministic
            )

        target = example.targets["mlm"]
        hidden = example.replace(targets={"mlm": target})
        head = networks["generator"].head
        states, (terms, metrics) = read(generator, head, hidden, generator_rng)
        drawn = _draw(
            head.readout(states["mlm"], generator.embedding),
            row_keys(draw_rng, example.row_ids),
            target,
        )
        fakes, is_replaced = _replaced(example.inputs.tokens, target, drawn)
        score = example.targets["rtd"]
        detected = example.replace(
            inputs=dataclasses.replace(example.inputs, tokens=fakes),
            targets={
                "rtd": dataclasses.replace(
                    score, values=is_replaced.astype(score.values.dtype)
                )
            },
        )
        _, (rtd_terms, rtd_metrics) = read(
            model, networks["heads"], detected, model_rng
        )
        weights = score.loss_weights
        replaced = ((weights * is_replaced).sum(), weights.sum())
        return terms | rtd_terms, {
            **metrics,
            **rtd_metrics,
            "rtd_replaced": replaced,
        }


def _is_table(path: Path) -> bool:
    return str(path[-1]).endswith("embedding")


def tables_of(backbone: Any) -> Tables:
    """Embedding tables by path: all parameters whose name ends with 'embedding'."""
    flat = traverse_util.flatten_dict(nnx.to_pure_dict(nnx.state(backbone)))
    return {path: table for path, table in flat.items() if _is_table(path)}


def with_tables(backbone: Any, tables: Tables) -> Any:
    """A backbone with these embedding tables; the one given is left as it is."""
    whole = nnx.eval_shape(lambda: models.create(backbone.config, rngs=nnx.Rngs(0)))
    flat = traverse_util.flatten_dict(nnx.to_pure_dict(nnx.state(backbone)))
    return nnx.merge(
        nnx.graphdef(whole), traverse_util.unflatten_dict({**flat, **tables})
    )


def _draw(
    readout: Readout, keys: Key[Array, " B"], target: Target
) -> Int[Array, "B K"]:
    """A token for each slot, from the softmax of its logits.

    A position's key follows from the row's and the position, so a position that is
    drawn twice gets the same token twice.
    """
    features, table, bias = jax.lax.stop_gradient(readout)
    fold = jax.vmap(jax.vmap(jax.random.fold_in, (None, 0)))
    assert target.positions is not None, "as `corrupt` makes it"
    keys = fold(keys, target.positions)

    def draw(slot):
        own_keys, own_features = slot
        scores = logits(own_features, table, bias)
        return jax.vmap(jax.random.categorical)(own_keys, scores)

    # As many slots at a time as the cross-entropy has logits in memory.
    size = features.shape[0] * table.shape[0]
    drawn = jax.lax.map(
        draw,
        (keys.T, features.swapaxes(0, 1)),
        batch_size=max(1, chunk_elements(jax.default_backend()) // size),
    )
    return drawn.T.astype(jnp.int32)


def _replaced(
    tokens: Int[Array, "B L"], target: Target, drawn: Int[Array, "B K"]
) -> tuple[Int[Array, "B L"], Bool[Array, "B L"]]:
    """The text with drawn tokens, and where they differ from the original ones.

    tokens   the [MASK] sat on [MASK]    targets  cat, mat    drawn  dog, mat
    ->       the dog    sat on mat       and      0 1 0 0 0
    """
    places: Any = target.positions
    positions = jnp.where(target.loss_weights > 0, places, tokens.shape[1])

    def put(row, at, new):
        return row.at[at].set(new, mode="drop")

    original = jax.vmap(put)(tokens, positions, target.values)
    fakes = jax.vmap(put)(tokens, positions, drawn)
    return fakes, fakes != original
