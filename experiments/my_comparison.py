r"""Your own comparison: a template. Copy it, change four lines, run it.

    cp experiments/my_comparison.py mine.py     # or from where the package is installed
    python -m research.compare --config=mine --workdir=runs/mine

Or leave it as it is and give flags. After the colon: arms and evaluations by name.

    python -m research.compare --workdir=runs/mine \
        --config=my_comparison:causal_lm,masked_lm,t5,glue \
        --config.shared.data.source=corpus.jsonl.gz --config.seeds="(0, 1, 2, 3, 4)" \
        --config.budget.axis=tokens --config.budget.amount=2e6 \
        --config.evaluations.glue.glue.source=FOLDER_OF_THE_TSVS

--print_config shows every field; the same command again goes on where it stopped.

Hardware: a CPU with two cores and 4 GB.
Time: 20 minutes on two cores as it stands, GLUE left out.
Expected: an interval and a verdict for every arm against the first, and the smallest
difference that three seeds would have found.
"""

import ml_collections

from experiments import (
    bert,
    causal_lm,
    comparison_base,
    deshuffling,
    hybrid,
    masked_lm,
    masked_lm_40,
    prefix_lm,
    presets,
    sentence_order,
    spanbert,
    t5,
)

# 1. Your text: a file, folder or glob of .txt, .jsonl[.gz|.zst] or .parquet, or tfds:NAME.
SOURCE = "embedded"
# 2. What is compared: names of EXPERIMENTS. The others are tested against the first.
ARMS = ("causal_lm", "masked_lm", "prefix_lm", "t5")
# 3. What every run of every arm may spend: 'flops', 'tokens', 'device_seconds' or 'steps'.
BUDGET = {"axis": "flops", "amount": 3e12}
# 4. What judges them, of EVALUATIONS. The first evaluation's metric is the one tested.
JUDGES = ("acceptability",)

# An experiment of your own: import it above, and add it here.
EXPERIMENTS = {
    module.__name__.rpartition(".")[2]: module
    for module in (
        bert,
        causal_lm,
        deshuffling,
        hybrid,
        masked_lm,
        masked_lm_40,
        prefix_lm,
        sentence_order,
        spanbert,
        t5,
    )
}
# name -> its settings, and the metric of it that is tested.
EVALUATIONS = {
    # Fine-tuned to tell held-out sentences from shuffled ones; needs no other data.
    "acceptability": (
        comparison_base.acceptability(num_train=400, num_test=300, seeds=(0,)),
        "accuracy",
    ),
    # 'tfds' downloads GLUE; a folder of the official TSVs does without a network.
    "glue": (
        comparison_base.glue_tasks(
            "tfds", ("mrpc", "rte", "stsb"), protocol="turc", train_limit=2000
        ),
        "average",
    ),
}


def get_config(names: str = "") -> ml_collections.ConfigDict:
    """The comparison; `names` are arms and evaluations instead of ARMS and JUDGES."""
    given = [name for name in names.split(",") if name]
    unknown = [name for name in given if name not in {**EXPERIMENTS, **EVALUATIONS}]
    if unknown:
        raise ValueError(
            f"{', '.join(unknown)}: give names of {', '.join(EXPERIMENTS)}, and of "
            f"evaluations, {', '.join(EVALUATIONS)}."
        )
    arms = [name for name in given if name in EXPERIMENTS] or ARMS
    judges = [name for name in given if name in EVALUATIONS] or JUDGES

    config = comparison_base.get_config()
    config.name = "my_comparison"
    config.title = "My comparison"
    config.seeds = (0, 1, 2)  # The more seeds, the smaller the differences it can show.
    config.budget.update(BUDGET)
    # Every arm tries these learning rates on a seed of its own, at a quarter of the budget.
    config.tuning.update(
        learning_rates=(1e-3, 3e-3), seeds=(1000,), budget_fraction=0.25
    )

    # What all arms share. Small enough for two cores; SIZES has larger ones.
    shared = config.shared
    shared.data.source = SOURCE
    shared.data.row_length = 64
    shared.data.heldout_fraction = 0.05
    shared.data.tokenizer.update(vocab_size=2048, num_sentinels=32)
    shared.model.update(presets.SIZES["tiny"], position="rope", dropout_rate=0.0)
    runs = {name: EXPERIMENTS[name].get_config() for name in arms}
    # An objective over pairs of sentences needs two types; then all arms have them.
    shared.model.num_token_types = max(r.model.num_token_types for r in runs.values())

    for name, run in runs.items():
        label = name.replace("_", " ")
        comparison_base.add_arm(config, name, label=label, experiment=name, run=run)
    for name in judges:
        config.evaluations[name] = EVALUATIONS[name][0]
    metric = f"{judges[0]}/{EVALUATIONS[judges[0]][1]}"
    config.primary.update(metric=metric, reference=arms[0])
    return config
