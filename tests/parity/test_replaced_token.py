"""ELECTRA against transformers: both networks, and the joint loss on the same draws."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import objectives
from experiments import presets
from objectives import replaced_token
from research.conversion import importer
from research.training.state import create_modules
from tests.helpers import toy_batch, toy_vocabulary
from tests.parity.test_conversion import SHAPE, VOCAB, quietly, randomised

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
pytestmark = pytest.mark.slow

VOCABULARY = toy_vocabulary(VOCAB)
GENERATOR = dict(SHAPE, hidden_size=16, num_attention_heads=2, intermediate_size=32)


def imported(theirs, folder, name, **changes):
    """The objective, its modules and the parameters that the checkpoint has of it."""
    quietly(theirs.save_pretrained, folder)
    checkpoint = importer.read(folder)
    objective = objectives.create(
        name,
        {name: {**presets.OBJECTIVES[name], **changes}},
        vocabulary=VOCABULARY,
        row_length=40,
        architecture="encoder",
    )
    modules = create_modules(importer.transformer_config(checkpoint), objective)
    params, carried = importer.params_from(checkpoint, modules.params)
    assert not carried
    return objective, modules, jax.tree.map(np.asarray, params)


def test_the_joint_loss_is_theirs(tmp_path, monkeypatch):
    def network(kind, settings):
        config = transformers.ElectraConfig(
            **settings, embedding_size=settings["hidden_size"]
        )
        return randomised(quietly(getattr(transformers, kind), config))

    filler = network("ElectraForMaskedLM", GENERATOR)
    detector = network("ElectraForPreTraining", SHAPE)
    *_, generator = imported(filler, tmp_path / "generator", "masked_lm")
    objective, modules, params = imported(
        detector,
        tmp_path / "model",
        "replaced_token",
        sharing="separate",
        generator_width=0.5,
    )
    params["generator"] = {
        "backbone": generator["model"],
        "head": generator["heads"]["masked_lm"],
    }
    networks = modules.merge(jax.tree.map(jnp.asarray, params))
    batch = toy_batch(4, 40, vocabulary=VOCABULARY)
    batch.tokens[1, 25:] = VOCABULARY.pad_id
    example = objective.corrupt(jax.random.key(0), batch)
    seen = []
    replaced = replaced_token._replaced

    def watched(*arguments):
        seen.append(replaced(*arguments))
        return seen[-1]

    monkeypatch.setattr(replaced_token, "_replaced", watched)
    terms, _ = objective.losses(networks, example, rng=jax.random.key(1))
    ((fakes, labels),) = seen
    ours = {name: float(total / weight) for name, (total, weight) in terms.items()}

    def as_torch(values):
        return torch.tensor(np.array(values)).long()

    target = example.targets["mlm"]
    mask = as_torch(example.inputs.segment_ids > 0)
    answers = np.full(labels.shape, -100)
    live = np.asarray(target.loss_weights) > 0
    row, slot = np.nonzero(live)
    answers[row, np.asarray(target.positions)[row, slot]] = np.asarray(target.values)[
        row, slot
    ]
    with torch.no_grad():
        filled = quietly(
            filler,
            as_torch(example.inputs.tokens),
            attention_mask=mask,
            labels=as_torch(answers),
        )
        found = quietly(
            detector, as_torch(fakes), attention_mask=mask, labels=as_torch(labels)
        )
    assert 0.05 < np.asarray(labels).mean() < 0.2
    assert ours["mlm"] == pytest.approx(float(filled.loss), abs=1e-3)
    assert ours["rtd"] == pytest.approx(float(found.loss), abs=1e-3)
    joint = sum(objective.terms[name].weight * ours[name] for name in ours)
    theirs = float(filled.loss) + 50 * float(found.loss)
    assert joint == pytest.approx(theirs, rel=1e-3)
    # And the logits of every real token.
    real = np.asarray(mask, bool)
    (head,) = networks["heads"].by_name().values()
    inputs = example.inputs.__class__(
        tokens=fakes,
        segment_ids=example.inputs.segment_ids,
        positions=example.inputs.positions,
    )
    model = networks["model"]
    readout = head.readout(model(inputs), model.embedding)
    features, table, bias = map(np.asarray, readout)
    logits = (features @ table.T + bias)[..., 1]
    np.testing.assert_allclose(logits[real], found.logits.numpy()[real], atol=1e-3)
    writer = networks["generator"]
    readout = writer.head.readout(
        writer.backbone(example.inputs), writer.backbone.embedding
    )
    features, table, bias = map(np.asarray, readout)
    np.testing.assert_allclose(
        (features @ table.T + bias)[real], filled.logits.numpy()[real], atol=1e-3
    )
