"""Three objectives, three seeds, tuned alike: a small comparison with intervals.

The quickstart with what a comparison needs beside it: every arm tries the same learning
rates on a seed of its own, three pretraining seeds give paired intervals, scores are
taken in the middle and at the end of the budget. The encoder-decoder learns prefix LM:
span corruption is still on its plateau after so few steps.

Command:
    python -m research.compare --config=compare_small --workdir=runs/c
    ... --config=compare_small:blimp adds minimal pairs, with
    --config.evaluations.blimp.source=FOLDER or from TFDS

Hardware: a CPU with two cores and 4 GB.
Time: 12 min 48 s, of which 7 min 32 s are pretraining; 2 to 6 s an evaluation.
Expected: all arms below their unigram entropy (causal LM 4.34 of 6.33 nats, masked LM
5.55 of 6.34, prefix LM 5.14 of 6.28); masked LM behind causal LM by some 15 points;
differences of less than some 10 points remain open with three seeds.
"""

import ml_collections

from experiments import comparison_base, quickstart

ARMS = (
    ("causal_lm", "causal_lm", "Causal LM", "decoder"),
    ("masked_lm", "masked_lm", "Masked LM", "encoder"),
    ("prefix_lm", "prefix_lm", "Prefix LM", "encoder_decoder"),
)


def get_config(option: str = "") -> ml_collections.ConfigDict:
    """The comparison; option 'blimp' adds minimal pairs from tfds:blimp or a folder."""
    if option not in ("", "blimp"):
        raise ValueError(f"option {option!r}: must be 'blimp' or nothing.")
    config = quickstart.comparison(ARMS)
    config.name = "compare_small"
    config.title = "Three objectives, three seeds"
    config.seeds = (0, 1, 2)
    config.points = (0.5, 1.0)
    config.budget.update(amount=8e5, num_evals=4)
    config.tuning.update(
        learning_rates=(1e-3, 3e-3), seeds=(1000,), budget_fraction=0.25
    )
    config.evaluations.acceptability = comparison_base.acceptability(
        num_train=300, num_test=200, seeds=(0,), num_epochs=4
    )
    if option == "blimp":
        config.evaluations.blimp = comparison_base.blimp(
            "tfds:blimp", pairs_per_paradigm=20
        )
    return config
