"""T5 1.1 base: gated feed-forward layers, an untied output table, no dropout.

Paper: Shazeer 2020, "GLU Variants Improve Transformer" (arXiv:2002.05202), for the
model; Raffel et al. 2020 (arXiv:1910.10683), section 3.1, for the training: 2^19 steps
of 128 sequences of 512 inputs and 114 targets of C4.

Command:
    python -m research.pretrain --config=experiments/t5_1_1_base.py --workdir=runs/t5v11
    ... --config.data.tokenizer.kind=file --config.data.tokenizer.path=spiece.model
    ... --config.data.source=FOLDER    # C4 as JSONL files
    ... --config.objective.span_corruption.loss_normalizing_factor=1    # T5X's sum

Hardware: the paper used TPU pods; written for 8 accelerators with bfloat16.
Time: 2.9e19 FLOPs forward and backward: 2.5 hours at 40% of 8 x 990 TFLOP/s.
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
