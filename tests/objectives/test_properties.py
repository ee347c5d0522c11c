"""What every objective and every composition must do; a new one is tested by itself."""

import dataclasses
import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import objectives
from experiments import presets
from models.transformer.block import positions_at
from objectives.types import TokenBatch
from tests.helpers import (
    CLS,
    MASK,
    PAD,
    UNK,
    quick_jit,
    tiny_config,
    toy_batch,
    toy_vocabulary,
)

VOCABULARY = toy_vocabulary()
BATCH, LENGTH = 8, 46
EMB_DIM = 64
# Whose inputs show every target, so that there is nothing to leak.
NOTHING_HIDDEN = {"deshuffling"}
DRAWS_NOTHING = {"causal_lm", "multi_token"}
ITS_OWN = "has losses of its own, and tests of them"


@dataclasses.dataclass(frozen=True)
class Case:
    """An objective or composition, for one architecture."""

    names: tuple[str, ...]
    architecture: str
    isolated: bool = False

    def __str__(self):
        isolated = "-isolated" if self.isolated else ""
        return f"{'+'.join(self.names)}-{self.architecture}{isolated}"

    def create(self, row_length: int = LENGTH, **overrides):
        """The preset's objective; `overrides` go to every stage with such a field."""
        params = {}
        for name in self.names:
            fields = dict(presets.OBJECTIVES[name])
            changes = {"isolate_documents": self.isolated, **overrides}
            fields |= {key: changes[key] for key in changes if key in fields}
            params[name] = fields
        return objectives.create(
            self.names,
            params,
            vocabulary=VOCABULARY,
            row_length=row_length,
            architecture=self.architecture,
        )


def all_cases() -> list[Case]:
    """Every objective, and every second stage behind every first one."""
    table = objectives.OBJECTIVES
    chains = [(name,) for name in table]
    for first, second in itertools.permutations(table, 2):
        if table[first].produces in table[second].accepts:
            chains.append((first, second))
    return [
        Case(chain, architecture)
        for chain in chains
        for architecture in ("encoder", "encoder_decoder", "decoder")
        if all(architecture in table[name].architectures for name in chain)
    ]


CASES = all_cases()
ISOLATED = [
    dataclasses.replace(case, isolated=True)
    for case in CASES
    if len(case.names) == 1
    and "isolate_documents" in objectives.hyperparameters(case.names[0])
]


def selected(cases: list[Case], first_only: bool):
    """Parameters of a test; all but one architecture an objective are slow."""
    seen: set[tuple[str, ...]] = set()
    for case in cases:
        slow = case.names in seen or not first_only
        seen.add(case.names)
        yield pytest.param(case, marks=pytest.mark.slow if slow else (), id=str(case))


every_case = pytest.mark.parametrize("case", list(selected(CASES, True)))
# Isolation doubles the matrix: `make test-all` runs it whole.
every_variant = pytest.mark.parametrize(
    "case", [*selected(CASES, True), *selected(ISOLATED, False)]
)


def rows_of(seed: int = 0) -> TokenBatch:
    """Rows with several documents, one with [UNK], one half padding, one all padding."""
    batch = toy_batch(
        BATCH, LENGTH, vocabulary=VOCABULARY, seed=seed, document_length=12
    )
    tokens = np.asarray(batch.tokens).copy()
    tokens[1, 7] = UNK
    tokens[2, LENGTH // 2 :] = PAD
    tokens[3] = PAD
    return TokenBatch(
        tokens=jnp.asarray(tokens),
        row_ids=jnp.asarray(batch.row_ids),
        first_document=jnp.asarray(batch.first_document),
    )


def networks_of(case: Case, objective, **settings):
    """Backbone, heads and whatever else the objective has."""
    config = tiny_config(case.architecture, **settings)
    networks = objective.networks(config, rngs=nnx.Rngs(0))
    return {**networks, "heads": objective.init_heads(config, rngs=nnx.Rngs(1))}


@functools.cache
def program(case: Case):
    """The objective, and one compiled function: example, readouts and losses.

    Nothing selected is left as it was, so that no target is in the inputs by design.
    There are readouts where one run of the backbone serves all terms.
    """
    objective = case.create(mask_prob=1.0, random_prob=0.0, z_loss=1e-2)
    graph = nnx.graphdef(networks_of(case, objective, emb_dim=EMB_DIM))

    @quick_jit
    def run(params, rng, batch):
        networks = nnx.merge(graph, params)
        example = objective.corrupt(rng, batch)
        losses = objective.losses(networks, example, rng=jax.random.key(2))
        if not objective.reads_one_pass:
            return example, {}, losses
        model = networks["model"]
        hidden = model(example.inputs)
        readouts = {
            term: objective.readout(
                term,
                networks["heads"],
                positions_at(hidden, objective.read_at(term, target)),
                target,
                model.embedding,
                example.inputs,
            )
            for term, target in example.targets.items()
        }
        return example, readouts, losses

    @functools.cache
    def params(init_stddev):
        settings = {"emb_dim": EMB_DIM, "init_stddev": init_stddev}
        return nnx.state(networks_of(case, objective, **settings))

    def run_with(rng, batch, init_stddev=0.3):
        """Weights are large by default, so that a leak shows."""
        return run(params(init_stddev), rng, batch)

    return objective, run_with


@functools.cache
def outcome(case: Case):
    """Example, readouts and losses of `rows_of()` with key 0."""
    return program(case)[1](jax.random.key(0), rows_of())


def assert_equal_trees(a, b):
    """Integers equal; floats up to what fusing a division does."""

    def check(x, y):
        tolerance = 1e-6 if np.issubdtype(x.dtype, np.floating) else 0
        np.testing.assert_allclose(x, y, rtol=0, atol=tolerance)

    jax.tree.map(check, a, b)


def take(example, index):
    return jax.tree.map(lambda x: x[index], example)


@every_case
@pytest.mark.parametrize("length", [16, 126, 4096])
def test_shapes_are_the_promised_lengths(case, length):
    objective = case.create(length)
    batch = toy_batch(2, length, vocabulary=VOCABULARY)
    example = jax.eval_shape(objective.corrupt, jax.random.key(0), batch)
    lengths = objective.lengths
    assert example.inputs.tokens.shape == (2, lengths.inputs)
    encoder = example.inputs.encoder
    assert (0 if encoder is None else encoder.tokens.shape[1]) == lengths.encoder
    assert (encoder is not None) == (case.architecture == "encoder_decoder")
    assert set(example.targets) == set(lengths.targets) == set(objective.terms)
    for term, target in example.targets.items():
        assert target.values.shape == (2, lengths.targets[term])
        assert target.loss_weights.shape == target.values.shape
    for leaf in jax.tree.leaves(example):
        assert leaf.shape[0] == 2


@every_variant
def test_example_is_a_function_of_the_key(case):
    run = program(case)[1]
    example = outcome(case)[0]
    assert_equal_trees(example, run(jax.random.key(0), rows_of())[0])
    other = run(jax.random.key(1), rows_of())[0]
    same = jax.tree.map(lambda a, b: bool((a == b).all()), example, other)
    assert all(jax.tree.leaves(same)) == (case.names[0] in DRAWS_NOTHING)


@pytest.mark.slow
@every_variant
def test_eager_equals_jit_and_a_row_alone_equals_the_row_in_its_batch(case):
    objective = program(case)[0]
    batch, example = rows_of(), outcome(case)[0]
    if all(stage.row_wise for stage in objective.stages):
        batch, example = take(batch, slice(4, 5)), take(example, slice(4, 5))
    assert_equal_trees(objective.corrupt(jax.random.key(0), batch), example)


@every_variant
def test_rows_do_not_depend_on_their_order_or_on_other_rows(case):
    objective, run = program(case)
    if not all(stage.row_wise for stage in objective.stages):
        pytest.skip("looks at other rows by design")
    example = outcome(case)[0]
    order = np.random.default_rng(0).permutation(BATCH)
    shuffled = run(jax.random.key(0), take(rows_of(), order))[0]
    assert_equal_trees(shuffled, take(example, order))
    others = jax.tree.map(
        lambda mine, other: other.at[4].set(mine[4]), rows_of(), rows_of(seed=9)
    )
    found = run(jax.random.key(0), others)[0]
    assert_equal_trees(take(found, 4), take(example, 4))


@every_variant
def test_targets_are_real_and_dead_slots_harmless(case):
    objective, (example, readouts, _) = program(case)[0], outcome(case)
    segments = np.asarray(example.inputs.segment_ids)
    for term, target in example.targets.items():
        values, weights = np.asarray(target.values), np.asarray(target.loss_weights)
        is_token = objective.terms[term].predicts == "tokens"
        num_classes = VOCABULARY.vocab_size if is_token else 2
        assert readouts == {} or readouts[term][1].shape[0] == num_classes
        assert (values >= 0).all() and (values < num_classes).all()
        assert (weights >= 0).all() and weights.sum() > 0
        live = weights > 0
        if target.positions is not None:
            positions = np.asarray(target.positions)
            assert (positions >= 0).all() and (positions < segments.shape[1]).all()
            at = np.take_along_axis(segments, positions, axis=1)
        else:
            at = segments[:, -values.shape[1] :]
        assert (at[live] > 0).all()
        if is_token:
            assert not np.isin(values[live], [PAD, CLS, MASK]).any()
        # Nothing but padding: nothing to learn.
        assert not (values[3][live[3]] > 8).any()
    for leaf in jax.tree.leaves((readouts, outcome(case)[2])):
        assert np.isfinite(np.asarray(leaf)).all()


@every_variant
def test_corruption_never_selects_special_tokens(case):
    if case.architecture != "encoder":
        pytest.skip("the targets of sequences include what frames them")
    example = outcome(case)[0]
    for term, target in example.targets.items():
        if program(case)[0].terms[term].predicts != "tokens":
            continue
        selected = np.asarray(target.values)[np.asarray(target.loss_weights) > 0]
        # [UNK] stands for text.
        allowed = ~VOCABULARY.is_special[selected] | (selected == UNK)
        assert allowed.all()


def other_tokens(batch: TokenBatch, rows, rng) -> TokenBatch:
    """One text token of each of `rows` exchanged for another of its kind."""
    tokens = np.asarray(batch.tokens).copy()
    ends = VOCABULARY.is_sentence_end | VOCABULARY.is_special
    for row in rows:
        row = tokens[row]
        place = rng.choice(np.flatnonzero(~ends[row]))
        kind = VOCABULARY.is_word_start == VOCABULARY.is_word_start[row[place]]
        row[place] = rng.choice(np.flatnonzero(kind & ~ends))
    return dataclasses.replace(batch, tokens=jnp.asarray(tokens))


def shown(example) -> np.ndarray:
    """What the model may see of a row at every target, whatever the target's place."""
    inputs = example.inputs
    if inputs.encoder is not None:
        return np.asarray(inputs.encoder.tokens)
    if inputs.bidirectional is not None:
        return np.where(inputs.bidirectional, inputs.tokens, -1)
    return np.zeros((BATCH, 1))


@every_variant
def test_hidden_targets_do_not_reach_their_features(case):
    objective, run = program(case)
    token_terms = [t for t, k in objective.lengths.targets.items() if k > 1]
    if not token_terms or NOTHING_HIDDEN & set(case.names):
        pytest.skip("hides no token")
    example, readouts, _ = outcome(case)
    if not readouts:
        pytest.skip(ITS_OWN)
    rng = np.random.default_rng(0)
    # Text of one row only at a time where rows exchange segments; row 3 has none.
    full = [0, 1, 2, 4, 5, 6, 7]
    row_wise = all(stage.row_wise for stage in objective.stages)
    trials = [full] * 20 if row_wise else [[row] for row in full] * 24
    compared = 0
    for rows in trials:
        batch = other_tokens(rows_of(), rows, rng)
        changed, others, _ = run(jax.random.key(0), batch)
        hidden = (shown(changed) == shown(example)).all(1)
        for term in token_terms:
            before, after = example.targets[term], changed.targets[term]
            moved = np.asarray(
                (before.values != after.values) & (before.loss_weights > 0)
            )
            moved = moved & hidden[:, None]
            features = np.asarray(readouts[term][0])
            assert np.abs(features).max() > 0.1
            np.testing.assert_allclose(
                features[moved], np.asarray(others[term][0])[moved], atol=1e-5
            )
            compared += moved.sum()
    assert compared >= 10


@pytest.mark.parametrize("case", list(selected(ISOLATED, False)))
def test_isolated_documents_do_not_reach_each_other(case):
    run = program(case)[1]
    example, readouts, _ = outcome(case)
    if not readouts:
        pytest.skip(ITS_OWN)
    rng = np.random.default_rng(0)
    full = [0, 1, 2, 4, 5, 6, 7]
    compared = moved = 0
    for _ in range(5):
        batch = other_tokens(rows_of(), full, rng)
        others = run(jax.random.key(0), batch)[1]
        is_eod = np.asarray(batch.tokens == VOCABULARY.eod_id)
        documents = 1 + np.cumsum(is_eod, axis=1) - is_eod
        place = np.asarray(batch.tokens != rows_of().tokens).argmax(1)
        document = np.take_along_axis(documents, place[:, None], axis=1)
        for term, target in example.targets.items():
            segments = np.asarray(example.inputs.segment_ids)
            slots = segments[:, -target.values.shape[1] :]
            if target.positions is not None:
                slots = np.take_along_axis(segments, np.asarray(target.positions), 1)
            live = np.asarray(target.loss_weights) > 0
            before, after = (np.asarray(x[term][0]) for x in (readouts, others))
            elsewhere = live & (slots != document)
            np.testing.assert_allclose(before[elsewhere], after[elsewhere], atol=1e-5)
            compared += elsewhere.sum()
            moved += (before != after).any(-1)[live & (slots == document)].sum()
    assert compared > 20 and moved > 0


@every_case
def test_losses_are_the_cross_entropies_of_the_readouts(case):
    objective = program(case)[0]
    example, readouts, (terms, metrics) = outcome(case)
    assert set(terms) == set(objective.terms)
    if not readouts:
        pytest.skip(ITS_OWN)
    for term, (features, table, bias) in readouts.items():
        target = example.targets[term]
        logits = np.float64(features) @ np.float64(table).T
        logits += 0 if bias is None else np.float64(bias)
        log_z = np.logaddexp.reduce(logits, axis=-1)
        chosen = np.take_along_axis(
            logits, np.asarray(target.values)[..., None], axis=-1
        )[..., 0]
        losses = log_z - chosen + objective.terms[term].z_loss * log_z**2
        weights = np.asarray(target.loss_weights)
        total, weight = terms[term]
        np.testing.assert_allclose(total, (weights * losses).sum(), rtol=1e-4)
        np.testing.assert_allclose(weight, target.denominators().sum(), rtol=1e-6)
        right = weights * (logits.argmax(-1) == np.asarray(target.values))
        correct, count = metrics[f"{term}_accuracy"]
        np.testing.assert_allclose(correct, right.sum(), atol=1e-3)
        np.testing.assert_allclose(count, weights.sum(), rtol=1e-6)


@every_case
def test_loss_at_initialisation_has_its_closed_form(case):
    """ln C of a flat table; with N(0, s) tied embeddings after a norm + D s^2 / 2."""
    stddev = 0.1
    _, readouts, _ = program(case)[1](jax.random.key(0), rows_of(), stddev)
    if not readouts:
        pytest.skip(ITS_OWN)
    for features, table, bias in readouts.values():
        # A class that is never predicted has minus infinity, as good as.
        assert bias is None or not np.any(bias[bias > -1e8])
        log_z = jax.nn.logsumexp(features @ table.T, axis=-1)
        num_classes = table.shape[0]
        expected = np.log(num_classes)
        if num_classes > 2:
            np.testing.assert_allclose(np.square(features).sum(-1), EMB_DIM, rtol=1e-2)
            expected += EMB_DIM * stddev**2 / 2
        assert float(log_z.mean()) == pytest.approx(expected, abs=0.12)


@pytest.mark.slow
@every_case
def test_losses_add_up_over_microbatches(case):
    objective = case.create()
    networks, rng = networks_of(case, objective), jax.random.key(2)
    losses = quick_jit(lambda own: objective.losses(networks, own, rng=rng)[0])
    example = quick_jit(objective.corrupt)(jax.random.key(0), rows_of())
    whole = losses(example)
    parts = [losses(take(example, slice(i, i + 2))) for i in range(0, BATCH, 2)]
    added = jax.tree.map(lambda *x: sum(x), *parts)
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-5), added, whole)


@pytest.mark.slow
@every_variant
@pytest.mark.parametrize("length", [16, 4096])
def test_shortest_and_longest_rows(case, length):
    objective = case.create(length)
    batch = toy_batch(1, length, vocabulary=VOCABULARY, document_length=100)
    example = quick_jit(objective.corrupt)(jax.random.key(0), batch)
    for target in example.targets.values():
        assert np.isfinite(np.asarray(target.loss_weights)).all()
    if "next_sentence" not in case.names:
        assert sum(float(t.loss_weights.sum()) for t in example.targets.values()) > 0
