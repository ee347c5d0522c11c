"""Replaced-token detection: draws, labels, and which loss trains what."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import objectives
from experiments import deberta_v3_small, electra_small, presets
from objectives import replaced_token
from objectives.types import Target
from research.config import parse as config_lib
from research.errors import UserError
from research.training import flops
from tests.helpers import MASK, quick_jit, tiny_config, toy_batch, toy_vocabulary

VOCABULARY = toy_vocabulary()
SHARINGS = ("shared", "separate", "disentangled")


def make(row_length: int = 46, **overrides):
    values = {**presets.OBJECTIVES["replaced_token"], **overrides}
    return objectives.create(
        "replaced_token",
        {"replaced_token": values},
        vocabulary=VOCABULARY,
        row_length=row_length,
        architecture="encoder",
    )


def plain_rows(batch_size: int, row_length: int, seed: int = 0):
    """Rows without ``[EOD]``."""
    return toy_batch(
        batch_size, row_length, vocabulary=VOCABULARY, seed=seed, document_length=None
    )


# n, rate: tokens drawn, distinct ones and distinct ones shown as [MASK], by
# n_el (1 - (1 - 1/n_el)^k) and the same with 0.85/n_el.
COUNTS = [
    (128, 0.15, 19, 17.69, 15.2),
    (512, 0.15, 77, 71.52, 61.5),
    (512, 0.25, 128, 113.27, 98.0),
]


@pytest.mark.parametrize(("length", "rate", "drawn", "distinct", "masked"), COUNTS)
def test_draws_with_and_without_replacement(length, rate, drawn, distinct, masked):
    batch = plain_rows(512, length - 2)
    for draws in replaced_token.DRAWS:
        objective = make(length - 2, noise_density=rate, draws=draws)
        example = quick_jit(objective.corrupt)(jax.random.key(0), batch)
        target = example.targets["mlm"]
        assert (np.asarray(target.loss_weights).sum(1) == drawn).all()
        different = np.mean([len(set(row)) for row in target.positions.tolist()])
        shown = (np.asarray(example.inputs.tokens) == MASK).sum(1).mean()
        once = draws == "without_replacement"
        assert different == pytest.approx(drawn if once else distinct, abs=0.3)
        assert shown == pytest.approx(0.85 * drawn if once else masked, abs=0.5)
        # The generator sees nothing of a target but what it may.
        changed = np.asarray(example.inputs.tokens)[:, 1:-1] != batch.tokens
        is_target = np.zeros((512, length), bool)
        np.put_along_axis(is_target, np.asarray(target.positions), True, axis=1)
        assert not (changed & ~is_target[:, 1:-1]).any()


@functools.cache
def setting(sharing: str, **overrides):
    """Objective, graph and state of its networks, and its losses on an example."""
    objective = make(
        sharing=sharing,
        **{"generator_width": 1.0, "generator_depth": 0.5, **overrides},
    )
    config = tiny_config("encoder", num_layers=2, max_seq_len=64)
    graph, state = nnx.split(objective.networks(config, rngs=nnx.Rngs(0)))

    def losses(state, example):
        rng = jax.random.key(1)
        return objective.losses(nnx.merge(graph, state), example, rng=rng)

    batch = toy_batch(8, 46, vocabulary=VOCABULARY, document_length=12)
    batch.tokens[2, 20:] = VOCABULARY.pad_id
    example = quick_jit(objective.corrupt)(jax.random.key(0), batch)
    return objective, graph, state, quick_jit(losses), example


def drawn_away(state, seed: int = 3):
    """Parameters that are no longer those of the start."""
    rng = np.random.default_rng(seed)
    return jax.tree.map(
        lambda x: x + 0.2 * rng.normal(size=x.shape).astype(x.dtype), state
    )


def gradients(sharing: str) -> dict[str, dict[str, np.ndarray]]:
    """Of each term's sum, by the parameter's path, at parameters off the start."""
    _, _, state, losses, example = setting(sharing)

    def of(term, state):
        value = losses.__wrapped__
        return jax.grad(lambda s: value(s, example)[0][term][0])(state)

    grads = quick_jit(lambda s: {term: of(term, s) for term in ("mlm", "rtd")})
    return {
        term: {
            "/".join(map(str, path)): np.asarray(leaf[...])
            for path, leaf in nnx.to_flat_state(found)
        }
        for term, found in grads(drawn_away(state)).items()
    }


@pytest.mark.parametrize("sharing", SHARINGS)
def test_which_loss_trains_what(sharing):
    """No gradient flows through what is drawn; tables as the sharing says."""
    for term, found in gradients(sharing).items():
        is_rtd = term == "rtd"
        for path, grad in found.items():
            is_table, network = path.endswith("embedding"), path.split("/")[0]
            trains = (network in ("model", "heads")) == is_rtd
            if sharing == "shared" and is_table:
                trains = True
            if sharing == "disentangled" and is_table:
                trains = network == ("difference" if is_rtd else "generator")
            # Keys have no bias that matters: softmax takes it out.
            if not path.endswith("key/bias"):
                assert (np.abs(grad).max() > 0) == trains, (term, path)


def restated(objective, networks, example, rng):
    """Both means in NumPy, from two runs of the backbones with the tables given."""
    generator, model = networks["generator"], networks["model"]
    target = example.targets["mlm"]
    features, table, bias = map(
        np.asarray,
        generator.head.readout(
            generator.backbone(example.inputs), generator.backbone.embedding
        ),
    )
    scores = np.float64(features @ table.T + bias)
    log_probs = scores - np.logaddexp.reduce(scores, axis=-1, keepdims=True)
    draw_rng = jax.random.split(rng, 3)[1]
    tokens = np.asarray(example.inputs.tokens).copy()
    labels = np.zeros(tokens.shape, bool)
    losses = []
    live = np.asarray(target.loss_weights) > 0
    for row, slot in np.argwhere(live):
        place, original = int(target.positions[row, slot]), target.values[row, slot]
        key = jax.random.fold_in(draw_rng, example.row_ids[row])
        drawn = jax.random.categorical(
            jax.random.fold_in(key, place), jnp.float32(scores[row, place])
        )
        losses.append(-log_probs[row, place, original])
        tokens[row, place] = drawn
        labels[row, place] = drawn != original
    inputs = dataclasses.replace(example.inputs, tokens=jnp.asarray(tokens))
    (head,) = networks["heads"].by_name().values()
    states = jax.nn.gelu(head.dense(model(inputs)), approximate=False)
    logit = np.float64(head.score(states)[..., 0])
    real = np.asarray(example.inputs.segment_ids) > 0
    binary = np.logaddexp(0, np.where(labels, -logit, logit))
    assert 0.02 < labels[real].mean() < 0.16
    return {
        "mlm": np.mean(losses),
        "rtd": binary[real].mean(),
        "rtd_replaced": labels[real].mean(),
    }


def test_losses_are_those_restated():
    objective, graph, state, losses, example = setting("separate", generator_width=0.5)
    state = drawn_away(state)
    terms, metrics = losses(state, example)
    found = {
        name: total / weight for name, (total, weight) in (terms | metrics).items()
    }
    networks = nnx.merge(graph, state)
    for name, value in restated(
        objective, networks, example, jax.random.key(1)
    ).items():
        np.testing.assert_allclose(found[name], value, rtol=1e-4, err_msg=name)


def test_draws_follow_the_row_and_the_position():
    _, _, state, losses, example = setting("separate", draws="with_replacement")
    order = np.array([5, 2, 7, 0, 1, 3, 6, 4])
    moved = jax.tree.map(lambda x: x[order], example)
    terms, metrics = losses(drawn_away(state), example)
    others, other_metrics = losses(drawn_away(state), moved)
    assert metrics["rtd_replaced"] == other_metrics["rtd_replaced"]
    for name in terms:
        np.testing.assert_allclose(terms[name], others[name], rtol=1e-5)


def test_a_right_guess_counts_as_original():
    target = Target(
        values=jnp.array([[11, 12, 0]]),
        loss_weights=jnp.array([[1.0, 1.0, 0.0]]),
        positions=jnp.array([[1, 3, 0]]),
    )
    tokens = jnp.array([[2, MASK, 13, 12, 3]])
    fakes, labels = replaced_token._replaced(tokens, target, jnp.array([[11, 14, 15]]))
    assert fakes.tolist() == [[2, 11, 13, 14, 3]]
    assert labels.tolist() == [[False, False, False, True, False]]


@pytest.mark.parametrize("sharing", SHARINGS)
def test_losses_at_initialisation(sharing):
    _, _, state, losses, example = setting(sharing)
    terms, _ = losses(state, example)
    means = {name: float(total / weight) for name, (total, weight) in terms.items()}
    assert means["mlm"] == pytest.approx(np.log(512), abs=0.05)
    assert means["rtd"] == pytest.approx(np.log(2), abs=0.02)


def test_the_difference_is_all_that_the_models_tables_add():
    objective, _, state, losses, example = setting("disentangled")
    weights = nnx.to_pure_dict(state)
    # E_D = E_G at first.
    begun = objective.complete(weights)
    tables = ("token_embedding",), ("embedder", "position_embedding")
    for path in tables:
        base, model = (
            functools.reduce(lambda tree, name: tree[name], path, tree)
            for tree in (weights["generator"]["backbone"], begun["model"])
        )
        np.testing.assert_array_equal(base, model)
    # Complete weights train as networks of their own do, and stay complete.
    moved = drawn_away(state)
    whole = objective.complete(nnx.to_pure_dict(moved))
    jax.tree.map(np.testing.assert_array_equal, whole, objective.complete(whole))
    _, _, alone, alone_losses, _ = setting("separate")
    nnx.replace_by_pure_dict(
        alone, {n: whole[n] for n in ("model", "heads", "generator")}
    )
    for name, value in alone_losses(alone, example)[0].items():
        np.testing.assert_allclose(losses(moved, example)[0][name], value, rtol=1e-5)


def test_every_layer_of_the_generator_costs_its_flops():
    config = tiny_config("encoder", num_layers=4, max_seq_len=64)

    def forward(depth):
        settings = {"generator_width": 0.5, "generator_depth": depth}
        return flops.count(config, make(**settings)).forward

    length, dim, mlp_dim = 48, 8, 16
    layer = 2 * length * (4 * dim**2 + 2 * dim * mlp_dim) + 4 * length**2 * dim
    assert forward(1.0) - forward(0.5) == 2 * layer


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"generator_width": 0.75},
            r"width 192, wider than the embedding of 128.*0\.5",
        ),
        ({"generator_width": 1.5}, r"generator_width = 1\.5: must be > 0 and <= 1"),
        (
            {"sharing": "tied"},
            r"sharing = 'tied'.*'shared', 'separate', 'disentangled'",
        ),
        ({"draws": "iid"}, r"draws = 'iid'.*'without_replacement'"),
        ({"mask_prob": 0.0}, r"mask_prob = 0\.0: must be > 0"),
        ({"generator_width": 0.3}, r"generator of 0\.3 of the model's width"),
    ],
)
def test_bad_settings_are_refused_before_any_text_is_read(changes, message):
    config = electra_small.get_config()
    config.model.num_heads = 8
    config.objective.replaced_token.update(changes)
    with pytest.raises(UserError, match=message):
        config_lib.parse(config)


def test_a_model_without_its_own_tables_is_not_mixed():
    section = deberta_v3_small.get_config().objective
    config = electra_small.get_config()
    config.objective = presets.mixture(
        rtd=(section, 1), mlm=(presets.objective("masked_lm"), 1)
    )
    with pytest.raises(UserError, match="rtd trains a model that reads tables of"):
        config_lib.parse(config)


def test_it_predicts_no_tokens():
    objective = make()
    assert objective.scoring() is None and objective.prompt is None
    assert objective.token_term is None and objective.exported == "model"
    with pytest.raises(ValueError, match="draws tokens in its losses: give rng"):
        objective.stages[0].losses({}, setting("separate")[-1])
