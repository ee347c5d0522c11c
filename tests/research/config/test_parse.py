"""Every mistake in a config is named before any work, with what is allowed."""

import dataclasses

import ml_collections
import pytest

from experiments import base, presets
from research.config import objective_section
from research.config import parse as config_lib
from research.errors import UserError
from tests.research.training import tiny


def test_the_base_config_is_valid_and_complete():
    run = config_lib.parse(base.get_config())
    assert run.train.batch_size == 32
    assert run.objective.name == ("masked_lm",)
    for section in dataclasses.fields(run):
        for field in dataclasses.fields(getattr(run, section.name)):
            assert field.default is dataclasses.MISSING, field.name


def test_integers_serve_as_floats_and_nothing_else_changes():
    config = base.get_config()
    config.optimizer.clip_norm = 1
    run = config_lib.parse(config)
    assert run.optimizer.clip_norm == 1.0
    assert isinstance(run.optimizer.clip_norm, float)


WRONG = {
    "no devices": (
        {"parallel__data": 0},
        "config.parallel.data = 0: a number of devices, or -1",
    ),
    "pmap with fsdp": (
        {"parallel__mode": "pmap", "parallel__fsdp": 2},
        "'pmap' replicates the parameters",
    ),
    "mode": (
        {"parallel__mode": "pmpa"},
        "'pmpa': must be one of jit, pmap. Did you mean pmap?",
    ),
    "tensor and heads": (
        {"parallel__tensor": 8},
        "config.model.num_heads = 4 is not divisible by config.parallel.tensor = 8",
    ),
    "microbatches": (
        {"train__num_microbatches": 3},
        "config.train.batch_size = 8 is not divisible by config.train.num_microbatches",
    ),
    "no tensor parallelism": (
        {"parallel__tensor": 0},
        "config.parallel.tensor = 0: must be at least 1",
    ),
    "not a number": (
        {"optimizer__decay_fraction": float("nan")},
        "config.optimizer.decay_fraction = nan: must be finite",
    ),
    "infinite": (
        {"objective__masked_lm__noise_density": float("inf")},
        "noise_density = inf: must be finite",
    ),
    "more rows than there are": (
        {"train__batch_size": 10**20},
        "config.train.batch_size = 100000000000000000000: must be finite and at most",
    ),
    "features": (
        {"model__emb_dim": 10**12},
        "config.model.emb_dim = 1000000000000: must be at most 16,777,216",
    ),
    "layers": (
        {"model__num_layers": 10**6},
        "config.model.num_layers = 1000000: must be at most 4,096",
    ),
    "pieces": (
        {"data__tokenizer__vocab_size": 10**10},
        "vocab_size = 10000000000: must be at least 0 and at most 16,777,216",
    ),
    "schedule": (
        {"optimizer__schedule": "cosin"},
        "must be one of linear, cosine, constant, wsd, rsqrt. Did you mean cosine?",
    ),
    "optimizer": ({"optimizer__name": "adam"}, "Did you mean adamw?"),
    "learning rate": (
        {"optimizer__learning_rate": 0.0},
        "config.optimizer.learning_rate = 0.0: must be at least",
    ),
    "epsilon": (
        {"optimizer__epsilon": 0.0},
        "config.optimizer.epsilon = 0.0: must be at least",
    ),
    "final rate": (
        {"optimizer__final_learning_rate": 1.0},
        "must not exceed learning_rate = 0.01",
    ),
    "beta": ({"optimizer__beta2": 1.0}, "config.optimizer.beta2 = 1.0: must be"),
    "seed": ({"train__seed": -1}, "config.train.seed = -1: must be at least 0"),
    "steps": (
        {"train__num_train_steps": 0, "optimizer__warmup_steps": 0},
        "config.train.num_train_steps = 0",
    ),
    "extend": (
        {"train__extend_vocabulary": True},
        "needs config.train.init_from",
    ),
    "trainable": (
        {"train__trainable": "model/(.*"},
        "is no regular expression: missing ), unterminated subpattern",
    ),
    "held-out share": (
        {"data__heldout_fraction": 0.0},
        "config.data.heldout_fraction = 0.0: must be between 0 and 1",
    ),
    "source": ({"data__source": ""}, "config.data.source is empty"),
    "tokenizer kind": (
        {"data__tokenizer__kind": "bep"},
        "must be one of bpe, wordpiece, unigram, file. Did you mean bpe?",
    ),
    "tokenizer path": (
        {"data__tokenizer__kind": "file"},
        "needs config.data.tokenizer.path",
    ),
    "vocabulary": (
        {"data__tokenizer__vocab_size": 300},
        "config.data.tokenizer.vocab_size = 300: must be at least num_sentinels + 300",
    ),
    "row too long": (
        {"data__row_length": 31},
        "makes sequences of 33 tokens, longer than config.model.max_seq_len = 32",
    ),
    "architecture": (
        {"model__architecture": "encoder_decoder"},
        "cannot train architecture 'encoder_decoder'",
    ),
    "backbone": (
        {"model__backbone": "transfromer"},
        "no such backbone. Did you mean transformer? Valid: transformer.",
    ),
    "model": ({"model__num_heads": 5}, "emb_dim = 32 is not divisible by num_heads"),
    "hyperparameter": (
        {"objective__masked_lm__noise_density": 1.5},
        "noise_density",
    ),
    "checkpoints": ({"checkpoint__keep_last": 0}, "config.checkpoint.keep_last = 0"),
    "evaluation": ({"eval__num_batches": 0}, "config.eval.num_batches = 0"),
}


@pytest.mark.parametrize("case", WRONG)
def test_values_that_are_not_allowed(case):
    changes, words = WRONG[case]
    with pytest.raises(UserError) as error:
        config_lib.parse(tiny.config(**changes))
    assert words in str(error.value)
    assert "problems in the config" not in str(error.value)


def test_too_few_sentinels():
    config = tiny.config("span_corruption", data__tokenizer__num_sentinels=0)
    with pytest.raises(UserError, match="sentinel"):
        config_lib.parse(config)


@pytest.mark.parametrize(
    ("path", "name", "words"),
    [
        ("optimizer", "learning_rat", "Did you mean learning_rate"),
        ("train", "num_train_step", "Did you mean num_train_steps"),
        ("data.tokenizer", "vocabsize", "Did you mean vocab_size"),
        ("objective.masked_lm", "noise_densty", "Did you mean noise_density"),
        ("model", "num_layer", "Did you mean num_layers"),
        ("eval", "zzz", "Valid: batch_size, every_steps, num_batches"),
    ],
)
def test_unknown_fields_are_named_with_their_nearest(path, name, words):
    config = tiny.config()
    section = config
    for part in path.split("."):
        section = section[part]
    with section.unlocked():
        section[name] = 1
    with pytest.raises(UserError) as error:
        config_lib.parse(config)
    assert f"config.{path} has no field {name!r}." in str(error.value)
    assert words in str(error.value)


def test_unknown_sections_and_missing_fields():
    config = tiny.config()
    with config.unlocked():
        config.optimiser = {}
        del config.train["seed"]
    with pytest.raises(UserError) as error:
        config_lib.parse(config)
    assert "config has no field 'optimiser'. Did you mean optimizer?" in str(
        error.value
    )
    assert "config.train lacks seed" in str(error.value)


@pytest.mark.parametrize(
    ("field", "value", "words"),
    [
        ("learning_rate", "fast", "must be float, got str"),
        ("warmup_steps", 1.5, "must be int, got float"),
        ("warmup_steps", True, "must be int, got bool"),
        ("bias_correction", 1, "must be bool, got int"),
        ("name", None, "must be str, got None"),
    ],
)
def test_wrong_types(field, value, words):
    config = tiny.config()
    with config.ignore_type():
        config.optimizer[field] = value
    with pytest.raises(UserError) as error:
        config_lib.parse(config)
    assert f"config.optimizer.{field} = {value!r}: {words}" in str(error.value)


def test_all_problems_come_in_one_message():
    config = tiny.config(
        train__batch_size=7, train__num_microbatches=2, eval__every_steps=0
    )
    with config.optimizer.unlocked():
        config.optimizer.wamup = 3
    with pytest.raises(UserError) as error:
        config_lib.parse(config)
    assert str(error.value).startswith("3 problems in the config:\n")


def test_objectives():
    config = tiny.config()
    config.objective = {"name": ("masked_ml",)}
    with pytest.raises(
        UserError, match="no objective 'masked_ml'. Did you mean masked"
    ):
        config_lib.parse(config)
    config.objective = presets.objective("masked_lm")
    config.objective.name = ("causal_lm",)
    with pytest.raises(UserError) as error:
        config_lib.parse(config)
    assert "lacks the section 'causal_lm'" in str(error.value)
    assert "or begin with --config=experiments/causal_lm.py" in str(error.value)
    assert "config.objective.masked_lm is none of config.objective.name" in str(
        error.value
    )
    config.objective = ml_collections.ConfigDict()
    with pytest.raises(
        UserError, match="config.objective must be one of presets.objective"
    ):
        config_lib.parse(config)
    config.objective = presets.objective("masked_lm")
    with config.ignore_type():
        config.objective.name = "masked_lm"
    assert config_lib.parse(config).objective.name == ("masked_lm",)


def test_mixtures_and_phases_are_built_from_their_sections():
    config = tiny.config("causal_lm", train__num_train_steps=8)
    hybrid = presets.mixture(
        causal=(presets.objective("causal_lm"), 3),
        masked=(presets.objective("masked_lm"), 1),
    )
    config.objective = presets.phases(
        hybrid=(hybrid, 0.5), masked=(presets.objective("masked_lm"), 1.0)
    )
    objective = objective_section.provisional(config_lib.parse(config))
    assert objective.switches == (4,)
    assert [(name, share) for name, _, share in objective.parts()] == [
        ("hybrid/causal", 0.375),
        ("hybrid/masked", 0.125),
        ("masked", 0.5),
    ]
    assert config.objective.hybrid.weights == (1.0, 1.0)


@pytest.mark.parametrize(
    "changes,message",
    [
        ({"shares": (1,)}, "mixture.shares = (1,): must be a positive number for each"),
        ({"shares": (1.5, 1)}, "config.objective.shares[0] = 1.5: must be int"),
        ({"mixture": ()}, "config.objective.mixture = (): must be one name or several"),
        ({"mixture": ("causal", "mask")}, "config.objective.mask must be one of"),
        ({"causal": {"phases": ("x",)}}, "config.objective.causal must be one of"),
        ({"name": ("causal_lm",)}, "config.objective must be one of"),
        ({"rates": 3}, "config.objective.rates is none of config.objective.mixture"),
    ],
)
def test_wrong_mixtures_are_refused(changes, message):
    config = tiny.config("causal_lm")
    section = presets.mixture(
        causal=(presets.objective("causal_lm"), 1),
        masked=(presets.objective("masked_lm"), 1),
    ).to_dict()
    config.objective = ml_collections.ConfigDict({**section, **changes})
    with pytest.raises(UserError) as error:
        config_lib.parse(config)
    assert message in str(error.value)


def test_differences_are_found_in_any_depth_and_lists_are_tuples():
    first, second = tiny.config(), tiny.config(data__tokenizer__vocab_size=700)
    with second.unlocked():
        second.objective.name = ["masked_lm"]
    assert config_lib.differing_fields(first, second) == {
        "data.tokenizer.vocab_size": (512, 700)
    }
