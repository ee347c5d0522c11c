"""Properties of the backbones: who sees whom, and what must not change a result."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from models import DropoutRngs
from tests.models import tiny

ARCHITECTURES = ("encoder", "decoder", "encoder_decoder")
POSITIONS = ("learned", "sinusoidal", "rope", "relative_bias", "alibi")


def influence(model, inputs, side=None):
    """[B, T, S]: whether token s moves output t, by gradient of the embeddings.

    `side` is the input whose tokens are perturbed, the decoder's or the encoder's.
    """
    graph, params = nnx.split(model)
    tokens = inputs.tokens if side is None else inputs.encoder.tokens
    batch, length = tokens.shape
    vocab = model.config.vocab_size
    # Every token gets a row of the table of its own, so that a row's gradient is the
    # gradient of one position.
    own = jnp.arange(batch * length, dtype=jnp.int32).reshape(batch, length) + vocab
    table = params["token_embedding"][...]
    table = jnp.concatenate([table, table[tokens.reshape(-1)]])
    if side is None:
        inputs = dataclasses.replace(inputs, tokens=own)
    else:
        encoder = dataclasses.replace(inputs.encoder, tokens=own)
        inputs = dataclasses.replace(inputs, encoder=encoder)

    def outputs(rows):
        params["token_embedding"] = params["token_embedding"].replace(
            jnp.concatenate([table[:vocab], rows])
        )
        # One projection of each output is enough to find a dependence.
        hidden = nnx.merge(graph, params)(inputs)
        direction = jnp.arange(1.0, hidden.shape[-1] + 1)[None, None]
        return jnp.sin(hidden * direction).sum(-1)

    jacobian = jax.jit(jax.jacrev(outputs))(table[vocab:])
    moved = np.abs(np.asarray(jacobian)).max(-1) > 1e-7
    moved = moved.reshape(batch, -1, batch, length)
    for row in range(batch):
        for other in set(range(batch)) - {row}:
            assert not moved[row, :, other].any()
    return np.stack([moved[row, :, row] for row in range(batch)])


def allowed(queries, keys, causal, bidirectional=None):
    """Who may see whom, from segment ids, pair by pair."""
    batch, length = queries.shape
    result = np.zeros((batch, length, keys.shape[1]), bool)
    for b, t, s in np.ndindex(result.shape):
        seen = not causal or s <= t
        if bidirectional is not None:
            seen = seen or bool(bidirectional[b, s])
        result[b, t, s] = queries[b, t] == keys[b, s] and seen
    return result


@pytest.mark.parametrize("position", POSITIONS)
def test_encoder_sees_its_segment_and_nothing_else(position):
    model = tiny.build(position=position, num_layers=1)
    inputs = tiny.inputs()
    segments = np.asarray(inputs.segment_ids)
    np.testing.assert_array_equal(
        influence(model, inputs), allowed(segments, segments, causal=False)
    )


@pytest.mark.parametrize("position", POSITIONS)
def test_decoder_sees_the_past_of_its_segment(position):
    model = tiny.build(architecture="decoder", position=position)
    inputs = tiny.inputs()
    segments = np.asarray(inputs.segment_ids)
    np.testing.assert_array_equal(
        influence(model, inputs), allowed(segments, segments, causal=True)
    )


def test_prefix_is_seen_by_its_whole_segment():
    # One layer: with two, a prefix position would reach on through later ones.
    model = tiny.build(architecture="decoder", num_layers=1)
    inputs = tiny.inputs()
    prefix = np.zeros(inputs.tokens.shape, bool)
    prefix[0, [1, 2, 5, 7]] = True
    inputs = dataclasses.replace(inputs, bidirectional=jnp.asarray(prefix))
    segments = np.asarray(inputs.segment_ids)
    np.testing.assert_array_equal(
        influence(model, inputs), allowed(segments, segments, True, prefix)
    )


@pytest.mark.parametrize("position", POSITIONS)
def test_a_decoder_that_reads_both_ways_is_an_encoder(position):
    inputs = tiny.inputs()
    decoder = tiny.build(architecture="decoder", position=position)
    encoder = tiny.build(architecture="encoder", position=position)
    expected = tiny.run(encoder, inputs)
    both = dataclasses.replace(inputs, reads="both")
    np.testing.assert_allclose(tiny.run(decoder, both), expected, atol=1e-5)
    everything = jnp.ones(inputs.tokens.shape, bool)
    marked = dataclasses.replace(inputs, bidirectional=everything)
    if position != "relative_bias":
        np.testing.assert_allclose(tiny.run(decoder, marked), expected, atol=1e-5)


def test_rows_of_one_batch_may_be_read_in_different_ways():
    inputs = tiny.inputs()
    model = tiny.build(architecture="decoder", position="rope")
    second = jnp.zeros(inputs.tokens.shape, bool).at[1].set(True)
    mixed = dataclasses.replace(inputs, bidirectional=second)
    hidden = tiny.run(model, mixed)
    both = tiny.run(model, dataclasses.replace(inputs, reads="both"))
    np.testing.assert_allclose(hidden[0], tiny.run(model, inputs)[0], atol=1e-5)
    np.testing.assert_allclose(hidden[1], both[1], atol=1e-5)


@pytest.mark.parametrize(
    "position", [pytest.param("learned", marks=pytest.mark.slow), "relative_bias"]
)
def test_encoder_decoder_joins_equal_segments(position):
    model = tiny.build(architecture="encoder_decoder", position=position)
    inputs = tiny.encoder_decoder_inputs()
    decoder = np.asarray(inputs.segment_ids)
    encoder = np.asarray(inputs.encoder.segment_ids)
    np.testing.assert_array_equal(
        influence(model, inputs), allowed(decoder, decoder, causal=True)
    )
    np.testing.assert_array_equal(
        influence(model, inputs, side="encoder"),
        allowed(decoder, encoder, causal=False),
    )


@pytest.mark.parametrize(
    ("architecture", "position"),
    [
        ("encoder", "learned"),
        ("encoder", "sinusoidal"),
        ("encoder", "alibi"),
        ("decoder", "rope"),
        ("encoder_decoder", "relative_bias"),
    ],
)
def test_padding_changes_nothing(architecture, position):
    """Other amounts of padding, with garbage in it, give the same hidden states."""
    model = tiny.build(architecture=architecture, position=position)
    narrow = tiny.inputs_for(architecture, width=10)
    wide = tiny.inputs_for(architecture, width=14)

    def same_tokens(wide, narrow):
        real = narrow.segment_ids > 0
        length = narrow.tokens.shape[1]
        tokens = jnp.where(real, narrow.tokens, wide.tokens[:, :length])
        tokens = jnp.concatenate([tokens, wide.tokens[:, length:]], axis=1)
        encoder = wide.encoder and same_tokens(wide.encoder, narrow.encoder)
        return dataclasses.replace(wide, tokens=tokens, encoder=encoder)

    wide = same_tokens(wide, narrow)
    hidden = np.asarray(tiny.run(model, narrow))
    padded = np.asarray(tiny.run(model, wide))[:, : hidden.shape[1]]
    real = np.asarray(narrow.segment_ids) > 0
    assert not real.all()
    np.testing.assert_allclose(hidden[real], padded[real], atol=2e-6)
    assert np.isfinite(padded).all()


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_packed_segments_equal_rows_of_their_own(architecture):
    model = tiny.build(architecture=architecture, position="relative_bias")
    packed = tiny.inputs_for(architecture)
    hidden = np.asarray(tiny.run(model, packed))

    def alone(side, row, segment):
        where = np.flatnonzero(np.asarray(side.segment_ids)[row] == segment)
        encoder = side.encoder and alone(side.encoder, row, segment)
        return dataclasses.replace(
            side,
            tokens=side.tokens[row, where][None],
            segment_ids=jnp.ones((1, len(where)), jnp.int32),
            positions=side.positions[row, where][None],
            encoder=encoder,
        )

    for row, segment in ((0, 1), (0, 2), (1, 1)):
        expected = tiny.run(model, alone(packed, row, segment))
        where = np.asarray(packed.segment_ids)[row] == segment
        np.testing.assert_allclose(hidden[row, where], expected[0], atol=2e-6)


def loss_and_grads(model, inputs, *, dropout=True):
    graph, params = nnx.split(model)
    rows = jnp.arange(inputs.tokens.shape[0], dtype=jnp.int32)
    rngs = DropoutRngs.from_key(jax.random.key(5), rows)
    weights = jnp.where(inputs.segment_ids[..., None] > 0, 1.0, 0.0)

    def loss(params):
        hidden = nnx.merge(graph, params)(
            inputs, deterministic=not dropout, rngs=rngs if dropout else None
        )
        return (jnp.sin(3 * hidden) * weights).sum()

    value, grads = jax.jit(jax.value_and_grad(loss))(params)
    return value, nnx.to_pure_dict(grads)


RATES = {"dropout_rate": 0.2, "attention_dropout_rate": 0.1, "mlp_dropout_rate": 0.1}


@pytest.mark.parametrize(
    "architecture",
    # The last one has both kinds of stacks.
    [
        *(pytest.param(a, marks=pytest.mark.slow) for a in ARCHITECTURES[:2]),
        ARCHITECTURES[2],
    ],
)
def test_scan_equals_loop(architecture):
    inputs = tiny.inputs_for(architecture)
    rates = {**RATES, "architecture": architecture, "position": "relative_bias"}
    value, grads = loss_and_grads(tiny.build(**rates), inputs)
    scanned, scanned_grads = loss_and_grads(
        tiny.build(scan_layers=True, **rates), inputs
    )
    np.testing.assert_allclose(scanned, value, rtol=1e-5)
    for name in grads:
        if not name.endswith("stack"):
            continue
        layers = [grads[name]["layers"][i] for i in sorted(grads[name]["layers"])]
        stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *layers)
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=2e-4),
            scanned_grads[name]["layers"],
            stacked,
        )


@pytest.mark.parametrize(
    ("architecture", "changes"),
    [
        ("encoder", {"position": "rope", "norm_position": "post", "final_norm": False}),
        pytest.param(
            *("encoder", {"position": "alibi", "remat": "full"}), marks=pytest.mark.slow
        ),
        ("encoder", {"scan_layers": True}),
        pytest.param(
            *("encoder", {"scan_layers": True, "num_layers": 1}), marks=pytest.mark.slow
        ),
        pytest.param(
            *("encoder", {"scan_layers": True, "remat": "full"}), marks=pytest.mark.slow
        ),
        ("decoder", {"position": "rope", "num_kv_heads": 2}),
        pytest.param(
            *("encoder_decoder", {"position": "relative_bias"}), marks=pytest.mark.slow
        ),
    ],
)
def test_some_positions_alone_are_the_same(architecture, changes):
    """Their states and the gradients through them; the last block skips the rest."""
    model = tiny.build(architecture=architecture, **changes)
    inputs = tiny.inputs_for(architecture)
    at = jnp.array([[0, 7, 3], [8, 2, 2]], jnp.int32)
    graph, params = nnx.split(model)

    def loss(params, alone):
        model = nnx.merge(graph, params)
        if alone:
            hidden = model(inputs, at=at)
        else:
            hidden = jnp.take_along_axis(model(inputs), at[..., None], axis=1)
        return jnp.sin(hidden).sum(), hidden

    compiled = jax.jit(jax.value_and_grad(loss, has_aux=True), static_argnums=1)
    (_, wanted), wanted_grads = compiled(params, False)
    (_, found), grads = compiled(params, True)
    assert found.shape == (2, 3, 16)
    np.testing.assert_allclose(found, wanted, atol=1e-5)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4),
        grads,
        wanted_grads,
    )


@pytest.mark.parametrize(("remat", "scan"), [("full", False), ("dots", True)])
def test_remat_changes_no_number(remat, scan):
    inputs = tiny.inputs()
    plain = loss_and_grads(tiny.build(scan_layers=scan, **RATES), inputs)
    again = loss_and_grads(tiny.build(scan_layers=scan, remat=remat, **RATES), inputs)
    np.testing.assert_allclose(plain[0], again[0], rtol=1e-6)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4),
        plain[1],
        again[1],
    )


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_bfloat16_computes_near_float32_with_float32_parameters(architecture):
    changes = {"architecture": architecture, "init_stddev": 0.1}
    exact = tiny.run(tiny.build(**changes), tiny.inputs_for(architecture))
    model = tiny.build(dtype="bfloat16", **changes)
    hidden = tiny.run(model, tiny.inputs_for(architecture))
    assert hidden.dtype == jnp.bfloat16
    for leaf in jax.tree.leaves(nnx.state(model)):
        assert leaf.dtype == jnp.float32
    real = np.asarray(tiny.inputs_for(architecture).segment_ids) > 0
    difference = np.asarray(hidden, np.float32)[real] - np.asarray(exact)[real]
    assert np.abs(difference).mean() < 0.05


def test_dropout_depends_on_row_ids_not_on_the_batch():
    model = tiny.build(**RATES)
    inputs = tiny.inputs(((10,), (9,), (4, 5), (8,)))
    graph, params = nnx.split(model)

    def run(inputs, rows):
        rngs = DropoutRngs.from_key(jax.random.key(0), rows)
        return nnx.merge(graph, params)(inputs, deterministic=False, rngs=rngs)

    run = jax.jit(run)
    whole = run(inputs, np.arange(4, dtype=np.int32))
    part = run(jax.tree.map(lambda x: x[2:], inputs), np.arange(2, 4, dtype=np.int32))
    np.testing.assert_allclose(whole[2:], part, atol=1e-6)
    moved = run(inputs, np.asarray([4, 1, 2, 3], np.int32))
    assert np.abs(np.asarray(moved - whole))[0].max() > 1e-2
    np.testing.assert_allclose(moved[1:], whole[1:], atol=1e-6)


def test_dropout_without_rngs_is_refused():
    model = tiny.build(dropout_rate=0.1)
    with pytest.raises(ValueError, match="needs rngs"):
        model(tiny.inputs(), deterministic=False)
    model = tiny.build(dropout_rate=0.0)
    model(tiny.inputs(), deterministic=False)


def test_a_sequence_longer_than_the_table_is_refused():
    model = tiny.build(max_seq_len=9)
    with pytest.raises(ValueError, match="10 tokens .* max_seq_len = 9"):
        jax.eval_shape(lambda: model(tiny.inputs(width=10)))


def test_an_encoder_decoder_without_encoder_inputs_is_refused():
    model = tiny.build(architecture="encoder_decoder")
    with pytest.raises(ValueError, match="encoder="):
        model(tiny.inputs())


SETTINGS = [
    {"norm_position": "post", "embedding_norm": True, "final_norm": False}
    | {"activation": "gelu_tanh", "scale_embeddings": True, "init": "gpt2"},
    {"norm": "rmsnorm", "gated_mlp": True, "activation": "silu", "use_bias": False}
    | {"head_dim": 6, "num_kv_heads": 1, "attention_scale": 1.0},
    {"embedding_dim": 8, "num_token_types": 2, "activation": "relu"}
    | {"position_offset": 2, "init": "t5", "init_stddev": 1.0},
    {"tie_embeddings": False, "logit_scale": 0.1, "attention": "xla"},
]


@pytest.mark.parametrize("settings", SETTINGS, ids=lambda s: "-".join(s))
def test_every_setting_reaches_every_parameter(settings):
    """Finite hidden states, and a gradient in every parameter there is."""
    model = tiny.build(architecture="encoder_decoder", num_layers=1, **settings)
    inputs = tiny.encoder_decoder_inputs()
    if settings.get("num_token_types"):
        # Without types given, all tokens are of the first.
        encoder = with_types(inputs.encoder)
        inputs = dataclasses.replace(with_types(inputs), encoder=encoder)
    value, grads = loss_and_grads(model, inputs, dropout=False)
    assert np.isfinite(value)
    for path, grad in jax.tree_util.tree_leaves_with_path(grads):
        name = jax.tree_util.keystr(path)
        assert np.isfinite(grad).all(), name
        # A bias of all keys shifts every score of a query alike.
        if "'key'" not in name or "bias" not in name:
            assert np.abs(np.asarray(grad)).max() > 1e-7, name


def with_types(inputs):
    return dataclasses.replace(inputs, token_type_ids=inputs.tokens % 2)


def test_embedding_is_the_token_table():
    model = tiny.build(embedding_dim=8)
    assert model.embedding.shape == (23, 8)
    np.testing.assert_array_equal(model.embedding, model.token_embedding[...])
