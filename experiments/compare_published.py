r"""Contrasts whose published effect is large, measured again beside what was published.

Every contrast names two arms, the published difference and its source; the report shows
published and measured differences with intervals, whether or not they agree. An arm that
is still on its unigram plateau makes its contrasts "not testable at this budget".

Command:
    python -m research.compare --config=experiments/compare_published.py:cpu \
        --workdir=runs/published
    python -m research.compare --config=experiments/compare_published.py:gpu \
        --workdir=runs/published-gpu --config.shared.data.source=CORPUS \
        --config.evaluations.glue.glue.source=FOLDER \
        --config.evaluations.squad.squad.train_file=... \
        --config.evaluations.squad.squad.dev_file=...

Hardware: cpu: two cores and 5 GB; gpu: one accelerator with 40 GB.
Time: cpu: two hours, 13 minutes a seed; gpu: about a day, by FLOPs. Both go on where they
were stopped, and several processes over one workdir divide the work. Seeds come one after
another, so that python -m research.report can show the seeds that are done.
Expected: cpu: span corruption against none +19.7 points [17.0, 22.4], as published; masked
LM is shown to differ neither from none nor, at 15%, from 80%; span corruption against
deshuffling and prefix LM, and masked LM against causal LM, come out opposite to what was
published (README). Judged by acceptability on a CPU, by GLUE and SQuAD on an accelerator,
where it has not been run.
"""

import ml_collections

from experiments import base, comparison_base, presets

T5 = "Raffel et al. 2020"
GLUE = "GLUE average"
CLASSIFICATION = "sequence classification"

# (arm, reference) -> (published difference in points, of what, where). Each number is
# the difference of two that the source prints.
PUBLISHED = {
    ("span_corruption", "random_init"): (17.06, GLUE, f"{T5}, table 1"),
    ("span_corruption", "deshuffling"): (10.11, GLUE, f"{T5}, tables 4 and 5"),
    ("span_corruption", "prefix_lm"): (2.59, GLUE, f"{T5}, tables 4 and 5"),
    ("span_corruption", "span_corruption_50"): (2.01, GLUE, f"{T5}, table 6"),
    ("masked_lm", "random_init"): (
        33.1,
        GLUE,
        "Geiping and Goldstein 2023, crammed BERT",
    ),
    ("masked_lm", "masked_lm_80"): (3.4, "MNLI", "Wettig et al. 2023, large size"),
    # Both of theirs were fine-tuned without a causal mask; our decoder keeps it.
    ("masked_lm", "causal_lm"): (
        2.09,
        CLASSIFICATION,
        "Gisserot-Boukhlef et al. 2025, 210M",
    ),
    ("span_boundary", "span_masking"): (
        0.1,
        "SQuAD 2.0 F1",
        "Joshi et al. 2020, table 7, large size",
    ),
}

# name -> (label, experiment, architecture, objective, its overrides)
ARMS = {
    "masked_lm": (
        "Masked LM, 15%",
        "masked_lm",
        "encoder",
        presets.objective(
            "masked_lm", masked_lm={"mask_prob": 1.0, "random_prob": 0.0}
        ),
    ),
    "masked_lm_80": (
        "Masked LM, 80%",
        "masked_lm",
        "encoder",
        presets.objective(
            "masked_lm",
            masked_lm={"noise_density": 0.8, "mask_prob": 1.0, "random_prob": 0.0},
        ),
    ),
    "causal_lm": ("Causal LM", "causal_lm", "decoder", presets.objective("causal_lm")),
    "span_corruption": (
        "Span corruption, 15%",
        "t5",
        "encoder_decoder",
        presets.objective("span_corruption"),
    ),
    "span_corruption_50": (
        "Span corruption, 50%",
        "t5",
        "encoder_decoder",
        presets.objective("span_corruption", span_corruption={"noise_density": 0.5}),
    ),
    "prefix_lm": (
        "Prefix LM",
        "prefix_lm",
        "encoder_decoder",
        presets.objective("prefix_lm"),
    ),
    "deshuffling": (
        "Deshuffling",
        "deshuffling",
        "encoder_decoder",
        presets.objective("deshuffling"),
    ),
    "span_masking": (
        "Span masking",
        "spanbert",
        "encoder",
        presets.objective("span_boundary", span_boundary={"sbo_weight": 0.0}),
    ),
    "span_boundary": (
        "Span masking with SBO",
        "spanbert",
        "encoder",
        presets.objective("span_boundary"),
    ),
}


def get_config(scale: str = "cpu") -> ml_collections.ConfigDict:
    """The contrasts that `scale`, 'cpu' or 'gpu', can test."""
    if scale not in SCALES:
        raise ValueError(f"scale {scale!r}: must be one of {', '.join(SCALES)}.")
    config = comparison_base.get_config()
    config.name = f"compare_published_{scale}"
    config.title = "Published differences, measured again"
    config.varies = ("objective", "model.architecture")
    SCALES[scale](config)
    return config


def _add_arms(config: ml_collections.ConfigDict, names: tuple) -> None:
    for name in names:
        label, experiment, architecture, objective = ARMS[name]
        run = base.get_config()
        run.model.architecture = architecture
        run.objective = objective
        comparison_base.add_arm(
            config, name, label=label, experiment=experiment, run=run
        )


def _add_contrasts(config: ml_collections.ConfigDict, metrics: dict) -> None:
    """Contrasts (arm, reference), each judged by the metric that stands for it here."""
    for (arm, reference), metric in metrics.items():
        published, of, source = PUBLISHED[arm, reference]
        config.contrasts[f"{arm}_against_{reference}"] = comparison_base.contrast(
            arm, reference, metric, published=published, of=of, source=source
        )


def _cpu(config: ml_collections.ConfigDict) -> None:
    shared = config.shared
    shared.model.update(presets.SIZES["tiny"], position="rope", dropout_rate=0.0)
    shared.model.max_seq_len = 144
    shared.data.row_length = 64
    shared.data.heldout_fraction = 0.05
    shared.data.tokenizer.update(vocab_size=2048, num_sentinels=64)
    shared.optimizer.learning_rate = 3e-3
    _add_arms(
        config,
        (
            "span_corruption",
            "deshuffling",
            "prefix_lm",
            "masked_lm",
            "masked_lm_80",
            "causal_lm",
        ),
    )
    # Seeds come one after another: what is done of them at any time can be reported.
    config.seeds = tuple(range(8))
    config.budget.update(axis="tokens", amount=2e6)
    config.evaluations.acceptability = comparison_base.acceptability(
        num_train=400, num_test=300, seeds=(0, 1)
    )
    metric = "acceptability/accuracy"
    config.primary.update(metric=metric, reference="span_corruption")
    contrasts = (
        ("span_corruption", "random_init"),
        ("masked_lm", "random_init"),
        ("span_corruption", "deshuffling"),
        ("span_corruption", "prefix_lm"),
        ("masked_lm", "masked_lm_80"),
        ("masked_lm", "causal_lm"),
    )
    _add_contrasts(config, dict.fromkeys(contrasts, metric))


def _gpu(config: ml_collections.ConfigDict) -> None:
    shared = config.shared
    shared.model.update(presets.SIZES["medium"], position="rope", dropout_rate=0.0)
    shared.model.update(max_seq_len=320, dtype="bfloat16")
    shared.data.source = "tfds:wikipedia/20230601.en"
    shared.data.row_length = 128
    shared.data.tokenizer.vocab_size = 16384
    shared.optimizer.learning_rate = 1e-3
    shared.train.batch_size = 512
    _add_arms(config, tuple(ARMS))
    config.seeds = (0, 1, 2)
    config.budget.update(axis="tokens", amount=1e9, num_checkpoints=10)
    config.evaluations.glue = comparison_base.glue_tasks(
        "tfds", ("cola", "sst2", "mrpc", "stsb", "rte", "mnli"), protocol="turc"
    )
    config.evaluations.squad = comparison_base.squad_questions(
        "train-v1.1.json", "dev-v1.1.json", seeds=(0,)
    )
    average, squad = "glue/average", "squad/f1"
    config.primary.update(metric=average, reference="masked_lm")
    _add_contrasts(
        config,
        {
            ("span_corruption", "random_init"): average,
            ("masked_lm", "random_init"): average,
            ("span_corruption", "deshuffling"): average,
            ("span_corruption", "prefix_lm"): average,
            ("span_corruption", "span_corruption_50"): average,
            ("masked_lm", "masked_lm_80"): "glue/mnli",
            ("masked_lm", "causal_lm"): average,
            ("span_boundary", "span_masking"): squad,
        },
    )


SCALES = {"cpu": _cpu, "gpu": _gpu}
