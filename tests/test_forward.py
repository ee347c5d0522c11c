"""One model, three ways through it: as trained, token by token with a cache, as scored.

For every objective, architecture, position scheme, scan and padding, the log-probability
of a row's targets is the same to 1e-4:

    trained   the sums that `losses` takes gradients of
    cached    the decoder reads its first columns at once, then one token at a time
    scored    `log_probs`, which likelihoods are made of
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import objectives
from experiments import presets
from objectives.cross_entropy import logits
from objectives.types import Example
from tests.helpers import quick_jit, tiny_config, toy_batch, toy_vocabulary

VOCABULARY = toy_vocabulary()
POSITIONS = ("learned", "sinusoidal", "rope", "relative_bias", "alibi")
KINDS = [
    (name, architecture)
    for name, kind in objectives.OBJECTIVES.items()
    for architecture in kind.architectures
    # Their models predict no tokens.
    if name not in ("next_sentence", "replaced_token")
]
LENGTHS = (9, 4)


def cases():
    """Every combination; in `make test` one for each objective, which take turns."""
    chosen = {}
    for number, name in enumerate(dict(KINDS)):
        architectures = [a for n, a in KINDS if n == name]
        architecture = architectures[number % len(architectures)]
        chosen[name] = architecture, POSITIONS[number % 5], bool(number // 2 % 2)
    for name, architecture in KINDS:
        for position in POSITIONS:
            for scan in (False, True):
                quick = chosen[name] == (architecture, position, scan)
                marks = [] if quick else [pytest.mark.slow]
                yield pytest.param(name, architecture, position, scan, marks=marks)


def make(name, architecture, position, scan):
    """The objective, and its networks with parameters that tell positions apart."""
    objective = objectives.create(
        name,
        {name: presets.OBJECTIVES[name]},
        vocabulary=VOCABULARY,
        row_length=24,
        architecture=architecture,
    )
    config = tiny_config(
        architecture,
        num_layers=2,
        position=position,
        scan_layers=scan,
        max_seq_len=64,
        init_stddev=0.3,
    )
    networks = nnx.eval_shape(lambda: objective.networks(config, rngs=nnx.Rngs(0)))
    graph, shapes = nnx.split(networks)
    return objective, graph, jax.tree.map(_drawn, shapes)


def _drawn(leaf):
    rng = np.random.default_rng(leaf.size)
    return jnp.asarray(0.3 * rng.normal(size=leaf.shape), leaf.dtype)


def padded(example: Example, columns: int) -> Example:
    """The same rows with padding behind them, on both sides."""

    def pad(tree):
        return jax.tree.map(lambda x: jnp.pad(x, ((0, 0), (0, columns))), tree)

    targets = {
        term: target
        if target.positions is not None
        else dataclasses.replace(
            target,
            values=pad(target.values),
            loss_weights=pad(target.loss_weights),
        )
        for term, target in example.targets.items()
    }
    return example.replace(inputs=pad(example.inputs), targets=targets)


def trained(objective, networks, example: Example):
    rng = jax.random.key(0)  # Of dropout, which is 0.
    sums, _ = objective.losses(networks, example, rng=rng, deterministic=False)
    return -sums[objective.token_term][0]


def cached(objective, networks, example: Example, first: int):
    """Reads `first` columns at once and the others one by one."""
    model, inputs = networks["model"], example.inputs
    batch_size, length = inputs.tokens.shape
    decoder = dataclasses.replace(inputs, encoder=None)
    encoder = {} if inputs.encoder is None else {"encoder": inputs.encoder}
    cache = model.init_cache(batch_size, length, **encoder)
    head = jax.tree.map(lambda x: x[:, :first], decoder)
    states, cache = model.decode_step(head, cache)

    def step(cache, column):
        token = jax.tree.map(
            lambda x: jax.lax.dynamic_slice_in_dim(x, column, 1, axis=1), decoder
        )
        state, cache = model.decode_step(token, cache)
        return cache, state[:, 0]

    _, others = jax.lax.scan(step, cache, jnp.arange(first, length))
    states = jnp.concatenate([states, others.swapaxes(0, 1)], axis=1)
    term = objective.token_term
    target = example.targets[term]
    states = objective.states_of_terms(states, example, None)[term]
    scores = logits(
        *objective.readout(
            term, networks["heads"], states, target, model.embedding, inputs
        )
    )
    values = target.values[..., None]
    log_probs = jnp.take_along_axis(jax.nn.log_softmax(scores), values, -1)[..., 0]
    return (log_probs * target.loss_weights).sum()


def values(objective, graph, params, example: Example, *, has_cache: bool):
    """{way: summed log-probability of the targets} of all rows."""
    prefix = example.inputs.bidirectional
    length = example.inputs.tokens.shape[1]
    first = length // 2
    if prefix is not None:
        first = 1 + int(np.flatnonzero(np.asarray(prefix).any(0)).max())

    def every_way(params, example):
        networks = nnx.merge(graph, params)
        found = {
            "trained": trained(objective, networks, example),
            "scored": objective.log_probs(networks, example).sum(),
        }
        if has_cache and first < length:
            found["cached"] = cached(objective, networks, example, first)
        return found

    return jax.device_get(quick_jit(every_way)(params, example))


@pytest.mark.parametrize(("name", "architecture", "position", "scan"), cases())
def test_trained_cached_and_scored_are_the_same(name, architecture, position, scan):
    objective, graph, params = make(name, architecture, position, scan)
    has_cache = architecture != "encoder" and objective.attention != "bidirectional"
    has_cache |= architecture == "encoder_decoder"
    batch = toy_batch(2, 24, vocabulary=VOCABULARY, document_length=None)
    examples = {}
    if len(objective.terms) == 1:
        examples["corrupted"] = jax.jit(objective.corrupt)(jax.random.key(0), batch)
    scoring = objective.scoring()
    if scoring is not None:
        tokens = jnp.where(
            np.arange(12) < np.array(LENGTHS)[:, None], batch.tokens[:, :12], 0
        )
        hidden = None if scoring.kind == "exact" else jnp.array([5, 2])
        examples["text"] = scoring.arrange(tokens, jnp.array(LENGTHS), hidden)
    assert examples
    for kind, example in examples.items():
        right = None
        for columns in (0, 5):
            rows = padded(example, columns)
            found = values(objective, graph, params, rows, has_cache=has_cache)
            right = found["scored"] if right is None else right
            for way, value in found.items():
                np.testing.assert_allclose(
                    value, right, rtol=1e-4, err_msg=f"{kind}, {columns} more: {way}"
                )
