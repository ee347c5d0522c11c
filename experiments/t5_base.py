"""T5 base, the baseline of its paper.

Paper: Raffel et al. 2020 (arXiv:1910.10683), section 3.1; the training is t5_small's.

Command: as in t5_small.

Time: 2.5 hours on 8 accelerators (2.9e19 FLOPs at 40% of 990 TFLOP/s each).
Expected: the loss starts near 10.9, plus 0.01 of z-loss, as in t5_small. Published,
table 1: 83.28 GLUE average on development sets, 80.88 exact match on SQuAD, after
fine-tuning the baseline.
"""

import ml_collections

from experiments import presets, t5_small


def get_config() -> ml_collections.ConfigDict:
    config = t5_small.get_config()
    config.model = presets.paper_model("t5_base", dtype="bfloat16")
    return config
