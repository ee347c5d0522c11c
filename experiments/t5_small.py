"""T5 small on unlabelled text.

Paper: Raffel et al. 2020 (arXiv:1910.10683). The model is that of section 3.7, the training
that of the baseline, section 3.1: 2^19 steps of 128 sequences of 512 inputs (rows of 568
tokens, 114 targets) of C4, Adafactor at 1/sqrt(max(step, 10^4)), dropout 0.1. Documents are
merged without a boundary in the paper and with [EOD] here, an ordinary token; z-loss is
1e-4 as in the reference. The released T5 small was trained on 16 times as many sequences a
step for 10^6 steps, in a mixture with supervised tasks.

Command:
    python -m research.pretrain --config=t5_small --workdir=runs/t5_small
    ... --config.data.tokenizer.kind=file --config.data.tokenizer.path=spiece.model
    ... --config.data.source=FOLDER    # C4 as JSONL files

Time: 40 minutes on 8 accelerators (7.1e18 FLOPs at 40% of 990 TFLOP/s each).
Expected: tied embeddings of unit deviation behind a norm, scaled by 512^-0.5, give
logits of about unit variance, so the loss starts near ln 32128 + 0.5 = 10.9, plus
0.01 of z-loss. Published for the released model, table 14: 82.4 on MNLI (matched) and
77.4 GLUE average on test sets.
"""

import ml_collections

from experiments import base, presets


def get_config() -> ml_collections.ConfigDict:
    config = base.get_config()
    config.model = presets.paper_model("t5_small", dtype="bfloat16")
    config.objective = presets.objective(
        "span_corruption", span_corruption=dict(z_loss=1e-4)
    )
    config.data.update(
        source="tfds:c4/en",
        row_length=568,  # 512 inputs and 114 targets
    )
    # 32,000 pieces, 100 sentinels and what rounds the table up to 32,128.
    config.data.tokenizer.update(kind="unigram", vocab_size=32128, num_sentinels=100)
    config.optimizer.update(
        name="adafactor",
        learning_rate=0.01,  # 1 / sqrt(10^4), flat for as many steps
        schedule="rsqrt",
        warmup_steps=10_000,
        decay_rate=0.8,
        weight_decay=0.0,
        clip_norm=0.0,
    )
    config.train.update(batch_size=128, num_train_steps=2**19, log_every_steps=100)
    config.eval.update(every_steps=5_000, batch_size=128)
    config.checkpoint.update(every_steps=5_000)
    return config
