"""T5 1.1 base: gated feed-forward layers, an untied output table, no dropout.

Paper: Shazeer 2020, "GLU Variants Improve Transformer" (arXiv:2002.05202), for the model;
the training is t5_small's.

Command: as in t5_small, also
    ... --config.objective.span_corruption.loss_normalizing_factor=1    # T5X's sum

Time: 2.5 hours on 8 accelerators (2.9e19 FLOPs at 40% of 990 TFLOP/s each).
Expected: an untied output table of deviation 768^-0.5 gives logits of unit variance:
the loss starts at ln 32128 + 0.5 = 10.88, plus 0.01 of z-loss. Published for the gated
GELU, table 1: 1.942 nats a target on held-out text after 65,536 steps and 1.633 after
524,288.
"""

import ml_collections

from experiments import presets, t5_small


def get_config() -> ml_collections.ConfigDict:
    config = t5_small.get_config()
    config.model = presets.paper_model("t5_1_1_base", dtype="bfloat16")
    return config
