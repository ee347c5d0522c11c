"""Three objectives, three seeds, tuned alike: a small comparison with intervals.

The arms of the quickstart with what a comparison needs beside them: every arm tries the
same learning rates on a seed of its own, three pretraining seeds give paired intervals,
scores are taken in the middle and at the end of the budget.

Command:
    python -m research.compare --config=experiments/compare_small.py --workdir=runs/c
    ... --config.evaluations.blimp.source=FOLDER, with get_config's argument 'blimp':
    --config=experiments/compare_small.py:blimp

Hardware: a CPU with two cores and 4 GB.
Time: at most 15 minutes.
Expected: all arms well above their random initialisation; with three seeds, differences
between arms of less than some points remain open.
"""

import ml_collections

from experiments import comparison_base, quickstart


def get_config(option: str = "") -> ml_collections.ConfigDict:
    """The comparison; option 'blimp' adds minimal pairs from tfds:blimp or a folder."""
    if option not in ("", "blimp"):
        raise ValueError(f"option {option!r}: must be 'blimp' or nothing.")
    config = quickstart.get_config()
    config.name = "compare_small"
    config.title = "Three objectives, three seeds"
    config.seeds = (0, 1, 2)
    config.points = (0.5, 1.0)
    config.budget.update(amount=1e6, num_evals=4)
    config.tuning.update(
        learning_rates=(1e-3, 3e-3), seeds=(1000,), budget_fraction=0.5
    )
    config.evaluations.acceptability = comparison_base.acceptability(
        num_train=300, num_test=200, seeds=(0,), num_epochs=4
    )
    if option == "blimp":
        config.evaluations.blimp = comparison_base.blimp(
            "tfds:blimp", pairs_per_paradigm=20
        )
    return config
