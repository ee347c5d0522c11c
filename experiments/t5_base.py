"""T5 base, the baseline of its paper.

Paper: Raffel et al. 2020, "Exploring the Limits of Transfer Learning with a Unified
Text-to-Text Transformer" (arXiv:1910.10683), section 3.1: 2^19 steps of 128 sequences of
512 inputs (rows of 568 tokens, 114 targets), Adafactor at 1/sqrt(max(step, 10^4)),
dropout 0.1, on C4. Documents are merged without a boundary in the paper and with [EOD]
here, an ordinary token; z-loss is 1e-4 as in the reference.

Command:
    python -m research.pretrain --config=experiments/t5_base.py --workdir=runs/t5_base
    ... --config.data.tokenizer.kind=file --config.data.tokenizer.path=spiece.model
    ... --config.data.source=FOLDER    # C4 as JSONL files

Hardware: the paper used TPU pods; written for 8 accelerators with bfloat16.
Time: 2.9e19 FLOPs forward and backward: 2.5 hours at 40% of 8 x 990 TFLOP/s.
Expected: tied embeddings of unit deviation behind a norm, scaled by 768^-0.5, give
logits of about unit variance, so the loss starts near ln 32128 + 0.5 = 10.9, plus
0.01 of z-loss. Published, table 1: 83.28 GLUE average on development sets, 80.88 exact
match on SQuAD, after fine-tuning the baseline.
"""

import ml_collections

from experiments import presets, t5_small


def get_config() -> ml_collections.ConfigDict:
    config = t5_small.get_config()
    config.model = presets.paper_model("t5_base", dtype="bfloat16")
    return config
