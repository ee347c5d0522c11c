"""Fine-tuning as a whole: it learns, repeats, resumes, selects, and refuses."""

import dataclasses

import jax
import numpy as np
import pytest

from research.errors import UserError
from research.evaluation.finetuning import loop, optimizer, styles
from research.evaluation.finetuning.data import Split
from research.evaluation.finetuning.finetune import check_params, finetune
from research.evaluation.glue.tasks import TASKS
from tests.research.evaluation import toy
from tests.research.evaluation.toy import same_trees, settings, word_task


@pytest.fixture(scope="module")
def encoder():
    return toy.backbone("encoder")


@pytest.fixture(scope="module")
def data():
    return word_task()


@pytest.fixture(scope="module")
def trained(encoder, data):
    """The run that others are compared with: best of four epochs."""
    given = settings(num_epochs=4, selection="best", learning_rate=1e-2)
    return given, finetune(encoder, data, given, seed=0)


def test_it_learns_and_reports(trained, data):
    given, result = trained
    assert result.scores["dev"]["accuracy"] >= 0.9
    assert set(result.scores["dev"]) == set(data.task.metrics)
    assert result.predictions["test"].shape == (24,)
    assert result.num_steps == given.num_epochs * -(-96 // given.batch_size)
    assert result.losses[-1] < result.losses[0]
    assert result.failed == "" and result.train_rows == 96
    labels = data.splits["dev"].labels
    wanted = (result.predictions["dev"] == labels).mean()
    assert result.scores["dev"]["accuracy"] == pytest.approx(wanted)


def test_same_seed_same_result_other_seed_another(trained, encoder, data):
    given, result = trained
    again = finetune(encoder, data, given, seed=0)
    assert same_trees(result.params, again.params)
    other = finetune(encoder, data, given, seed=1)
    assert not same_trees(result.params["heads"], other.params["heads"])


def test_the_backbone_is_left_alone(encoder, data):
    before = jax.tree.map(np.array, encoder.params)
    finetune(encoder, data, settings(num_epochs=1), seed=0)
    assert same_trees(before, encoder.params)


@pytest.mark.parametrize("stop_after", [1, 9, 12, 20])
def test_an_interrupted_run_continues(
    trained, encoder, data, tmp_path, monkeypatch, stop_after
):
    """A stop after any number of steps leaves the same result, bit for bit."""
    given, whole = trained
    steps = 0
    make_batch = styles.HeadStyle.batch

    def interrupted(self, encoded, split, *shape):
        nonlocal steps
        steps += split is data.splits["train"]
        if steps > stop_after:
            raise KeyboardInterrupt
        return make_batch(self, encoded, split, *shape)

    file = tmp_path / "unfinished.npz"
    with monkeypatch.context() as patch:
        patch.setattr(styles.HeadStyle, "batch", interrupted)
        with pytest.raises(KeyboardInterrupt):
            finetune(encoder, data, given, seed=0, progress_file=file, save_seconds=0.0)
    assert file.exists()
    counted = []

    def counting(self, encoded, split, *shape):
        counted.append(split is data.splits["train"])
        return make_batch(self, encoded, split, *shape)

    with monkeypatch.context() as patch:
        patch.setattr(styles.HeadStyle, "batch", counting)
        rest = finetune(encoder, data, given, seed=0, progress_file=file)
    assert sum(counted) == 24 - stop_after
    assert same_trees(rest.params, whole.params)
    assert rest.losses == pytest.approx(whole.losses)
    assert rest.best_epoch == whole.best_epoch and rest.num_steps == whole.num_steps
    assert not file.exists()


def test_a_long_run_says_how_far_it_is(encoder, data, monkeypatch):
    monkeypatch.setattr(loop, "_SAY_SECONDS", 0.0)
    given, lines = settings(num_epochs=2, learning_rate=1e-2), []
    result = finetune(encoder, data, given, seed=0, say=lines.append)
    assert len(lines) == result.num_steps == 12
    line = lines[7]
    assert line.startswith("epoch 2 of 2, step 8 of 12, loss ")
    assert line.endswith(" left") and lines[-1].endswith(", 0s left")


def test_one_program_for_tasks_seeds_and_rates(encoder):
    """Other tasks, seeds, rates, decays and schedules compile nothing."""
    frozen = dict(frozen_layers=1, num_epochs=1)
    finetune(encoder, word_task(), settings(num_epochs=1), seed=0)
    finetune(encoder, word_task(), settings(**frozen), seed=0)
    style = styles.make_style(encoder, encoder.model_config, TASKS["sst2"], settings())
    program = loop.make_program(encoder.model_config, style.objective)
    sizes = program.step._cache_size(), program.outputs._cache_size()
    for task, changes in (
        ("rte", {"schedule": "cosine"}),
        ("mnli", {"layer_decay": 0.5, "weight_decay": 0.0}),
        ("stsb", {"selection_metric": "spearman"}),
        ("qnli", {**frozen, "learning_rate": 1e-4}),
    ):
        given = settings(**{"num_epochs": 1, **changes})
        finetune(encoder, word_task(TASKS[task]), given, seed=3)
    assert (program.step._cache_size(), program.outputs._cache_size()) == sizes


def test_predictions_do_not_depend_on_buckets(trained, encoder, data):
    """Evaluating in other shapes, with other batch mates, gives the same classes."""
    given, result = trained
    changed = dataclasses.replace(given, eval_batch_size=7, bucket_lengths=(8, 12, 20))
    style = styles.make_style(encoder, encoder.model_config, data.task, changed)
    program = loop.make_program(encoder.model_config, style.objective)
    from research.evaluation.finetuning.finetune import _Prepared

    wanted = _Prepared(program, style, data, given).outputs(result.params, "dev")
    found = _Prepared(program, style, data, changed).outputs(result.params, "dev")
    np.testing.assert_allclose(found, wanted, atol=1e-5)


def test_early_stopping(encoder, data):
    given = settings(num_epochs=30, patience=2, selection="best", learning_rate=1e-2)
    result = finetune(encoder, data, given, seed=0)
    assert result.num_epochs < 30
    assert result.num_epochs == result.best_epoch + 2


def test_selection_uses_its_own_split_if_there_is_one(encoder, data):
    dev = data.splits["dev"]
    # Flipped labels: the worst epoch on dev is the best one on this split.
    flipped = Split(dev.texts, 1 - dev.labels)
    given = settings(num_epochs=4, selection="best", learning_rate=1e-2)
    result = finetune(encoder, data.replace(selection=flipped), given, seed=0)
    assert result.selection_split == "selection"
    assert result.best_epoch < 4
    assert result.selection_score == result.scores["selection"]["accuracy"]


def test_selection_by_loss(encoder, data):
    given = settings(num_epochs=3, selection="best", selection_metric="loss")
    result = finetune(encoder, data, given, seed=0)
    assert result.selection_score < 0


@pytest.mark.parametrize("scan_layers", [False, True])
def test_what_is_frozen_has_no_moments(data, monkeypatch, scan_layers):
    """What is frozen has no moments, so it is no part of the clipped norm either."""
    encoder = toy.backbone("encoder", num_layers=3, scan_layers=scan_layers)
    given = settings(num_epochs=1, frozen_layers=2)
    states, init = [], optimizer.init

    def note(params, hyperparameters):
        states.append(init(params, hyperparameters))
        return states[-1]

    monkeypatch.setattr(optimizer, "init", note)
    result = finetune(encoder, data, given, seed=0)
    moments = states[0].chain[1].mu
    before, after = encoder.params["model"], result.params["model"]
    assert "token_embedding" not in moments["model"]
    sizes = [sum(x.size for x in jax.tree.leaves(t)) for t in (moments, result.params)]
    assert sizes[0] < 0.6 * sizes[1]

    def kernels(params):
        layers = params["stack"]["layers"]
        if scan_layers:
            return list(layers["mlp"]["up"]["kernel"])
        return [layers[i]["mlp"]["up"]["kernel"] for i in range(3)]

    assert same_trees(before["token_embedding"], after["token_embedding"])
    same = [same_trees(*pair) for pair in zip(kernels(before), kernels(after))]
    assert same == [True, True, False]


def test_constant_predictions_count_as_failed(encoder, data):
    dev = data.splits["dev"]
    repeated = dataclasses.replace(dev, texts=[dev.texts[0]] * len(dev.texts))
    alike = dataclasses.replace(data, splits={**data.splits, "dev": repeated})
    result = finetune(encoder, alike, settings(num_epochs=1), seed=0)
    assert len(set(result.predictions["dev"].tolist())) == 1
    assert result.failed == "constant predictions"


def test_divergence_counts_as_failed(encoder, data):
    result = finetune(encoder, data, settings(num_epochs=2, learning_rate=1e30), seed=0)
    assert result.failed


def test_truncation_is_counted(encoder, data):
    result = finetune(encoder, data, settings(num_epochs=1, max_length=12), seed=0)
    lengths = [len(row[0].split()) for row in data.splits["train"].texts]
    assert result.num_truncated["train"] == sum(n + 2 > 12 for n in lengths) > 0


def test_a_model_reads_no_more_than_its_positions():
    trained = toy.backbone("encoder")
    style = styles.make_style(
        trained, trained.model_config, TASKS["rte"], settings(max_length=512)
    )
    assert style.framing.max_length == 48
    free = toy.backbone("encoder", position="rope")
    style = styles.make_style(
        free, free.model_config, TASKS["rte"], settings(max_length=512)
    )
    assert style.framing.max_length == 512


@pytest.mark.parametrize(
    ("stage", "reading", "role"),
    [
        ("causal_lm", "causal", "decoder"),
        ("prefix_lm", "prefix", "decoder"),
        ("masked_lm", "bidirectional", "encoder"),
    ],
)
def test_a_decoder_reads_as_it_was_pretrained(stage, reading, role):
    decoder = toy.backbone("decoder", stage=stage, num_token_types=0)
    task, config = TASKS["sst2"], decoder.model_config
    head = styles.make_style(decoder, config, task, settings(style="head"))
    assert head.objective.reading == reading
    # What was pretrained on [CLS] text [SEP] is fine-tuned on it.
    vocabulary = decoder.vocabulary
    first = vocabulary.cls_id if role == "encoder" else vocabulary.eod_id
    assert head.framing.start == (first,)
    text = styles.make_style(decoder, config, task, settings(style="text_to_text"))
    assert text.objective.bidirectional_inputs == (reading != "causal")


def test_token_types(encoder):
    style = styles.make_style(
        encoder, encoder.model_config, TASKS["rte"], settings(max_length=16)
    )
    split = Split((("a b", "c"), ("a", "b c d")), np.array([0, 1], np.int32))
    encoded = style.encode(split)
    shape = (np.arange(2), 8, 3)
    batch = style.batch(encoded, split, *shape)
    #                                    [CLS] a b [SEP] c [SEP]
    assert batch.token_type_ids.tolist()[0] == [0, 0, 0, 0, 1, 1, 0, 0]
    assert batch.token_type_ids.tolist()[1] == [0, 0, 0, 1, 1, 1, 1, 0]
    assert batch.token_type_ids.tolist()[2] == [0] * 8
    assert batch.weights.tolist() == [1.0, 1.0, 0.0]
    untyped = dataclasses.replace(style, num_token_types=0)
    assert untyped.batch(encoded, split, *shape).token_type_ids is None
    roberta = dataclasses.replace(style, num_token_types=1)
    types = roberta.batch(encoded, split, *shape).token_type_ids
    assert not types.any()


def test_losses_that_are_not_finite_are_never_selected(encoder, data):
    from research.evaluation.finetuning.finetune import _Prepared

    given = settings(selection_metric="loss")
    style = styles.make_style(encoder, encoder.model_config, data.task, given)
    program = loop.make_program(encoder.model_config, style.objective)
    outputs = np.full((len(data.splits["dev"]), 3), np.nan)
    assert _Prepared(program, style, data, given)._score(outputs) == -np.inf


@pytest.mark.parametrize("came_with_the_import", [False, True])
def test_a_pretrained_pooler_is_kept(encoder, data, came_with_the_import):
    dense = {"kernel": np.full((16, 16), 0.5, np.float32), "bias": np.ones(16)}
    table = {"kernel": np.zeros((2, 16)), "bias": np.zeros(2)}
    heads = {"masked_lm": {}, "next_sentence": {"dense": dense, **table}}
    params = {**encoder.params, "heads": heads}
    trained = dataclasses.replace(encoder, params=params)
    if came_with_the_import:
        trained = dataclasses.replace(encoder, pooler=dense)
    given = settings(num_epochs=1, learning_rate=1e-12, weight_decay=0.0)
    result = finetune(trained, data, given, seed=0)
    np.testing.assert_allclose(
        result.params["heads"]["pooler"]["kernel"], dense["kernel"], rtol=1e-5
    )


@pytest.mark.parametrize(
    "architecture",
    ["decoder", pytest.param("encoder_decoder", marks=pytest.mark.slow)],
)
def test_other_architectures_learn(architecture, data):
    result = finetune(
        toy.backbone(architecture, num_token_types=0),
        data,
        settings(num_epochs=4, learning_rate=1e-2, selection="best"),
        seed=0,
    )
    assert result.scores["dev"]["accuracy"] >= 0.85


@pytest.mark.slow
def test_text_to_text_learns_and_writes_words(data):
    trained = toy.backbone("encoder_decoder", num_token_types=0)
    given = settings(
        num_epochs=12,
        learning_rate=2e-2,
        selection="best",
        style="text_to_text_free",
    )
    result = finetune(trained, data, given, seed=0)
    assert result.scores["dev"]["accuracy"] >= 0.85


@pytest.mark.parametrize("unit", [True, False])
def test_scores_are_learned_in_their_range(encoder, unit):
    data = word_task(TASKS["stsb"])
    splits = {
        name: Split(split.texts, 4.5 * split.labels)
        for name, split in data.splits.items()
        if split.labels is not None
    }
    given = settings(
        num_epochs=20,
        learning_rate=3e-2,
        unit_scores=unit,
        selection_metric="pearson",
    )
    result = finetune(encoder, data.replace(**splits), given, seed=0)
    assert result.scores["dev"]["pearson"] > 0.9
    assert result.predictions["dev"].max() > 3.5
    assert result.predictions["dev"].min() < 1.0


def test_refusals(encoder, data):
    given = settings()
    ones = Split(data.splits["train"].texts, np.ones(96, np.int32))
    with pytest.raises(UserError, match="all 96 train rows have the class '1'"):
        finetune(encoder, data.replace(train=ones), given, seed=0)
    with pytest.raises(UserError, match="needs a model that writes"):
        finetune(encoder, data, settings(style="text_to_text"), seed=0)
    other = toy.backbone("encoder", emb_dim=32)
    mixed = dataclasses.replace(encoder, params=other.params)
    with pytest.raises(UserError, match=r"another architecture or size: parameter"):
        check_params(mixed)
    words = toy.ToyTokenizer(vocab_size=600)
    with pytest.raises(UserError, match="600 ids, the model's embedding 512 rows"):
        check_params(dataclasses.replace(encoder, tokenizer=words))
    with pytest.raises(UserError, match="SST-2 is scored by accuracy, loss"):
        finetune(encoder, data, settings(selection_metric="matthews"), seed=0)
    with pytest.raises(ValueError, match=r"schedule = 'linaer'.*linear, cosine"):
        settings(schedule="linaer")
    with pytest.raises(ValueError, match="max_length = 4"):
        settings(max_length=4)
    with pytest.raises(ValueError, match=r"epsilon = 0\.0: must be > 0"):
        settings(epsilon=0.0)
    with pytest.raises(ValueError, match=r"warmup_fraction = 6: must be from 0 to 1"):
        settings(warmup_fraction=6)
    with pytest.raises(ValueError, match=r"beta2 = 1\.0: must be >= 0 and < 1"):
        settings(beta2=1.0)
