"""RoBERTa base.

Paper: Liu et al. 2019 (arXiv:1907.11692), section 3 and table 9: masked LM alone, on full
rows, fresh masks, large batches. The number of masked tokens is the reference's:
floor(0.15 n + u), u uniform. Unlike the reference, [CLS] and [SEP] (its <s> and </s>) are
never masked.

Command:
    python -m research.pretrain --config=roberta_base --workdir=runs/roberta
    ... --config.data.source=FOLDER    # the paper's 160 GB of text
    ... --config.data.tokenizer.kind=file --config.data.tokenizer.path=GPT2_FOLDER

Time: 4.6 days on 8 accelerators (1.3e21 FLOPs at 40% of 990 TFLOP/s each).
Expected: starts at ln 50265 + 768 * 0.02^2 / 2 = 10.98 nats. Published with the
reference's model, development sets: 87.6 on MNLI, 94.8 on SST-2, 63.6 on CoLA.
"""

import ml_collections

from experiments import base, presets


def get_config() -> ml_collections.ConfigDict:
    config = base.get_config()
    config.model = presets.paper_model("roberta_base", dtype="bfloat16")
    config.objective = presets.objective(
        "masked_lm", masked_lm={"budget": "stochastic"}
    )
    config.data.update(
        source="tfds:wikipedia/20230601.en",
        row_length=510,  # 512 with [CLS] and [SEP]
    )
    config.data.tokenizer.update(kind="bpe", vocab_size=50265, num_sentinels=0)
    config.optimizer.update(
        learning_rate=6e-4,
        schedule="linear",
        warmup_steps=24_000,
        beta1=0.9,
        beta2=0.98,
        epsilon=1e-6,
        weight_decay=0.01,
        clip_norm=0.0,
    )
    config.train.update(
        batch_size=8192,
        num_microbatches=16,
        num_train_steps=500_000,
        log_every_steps=100,
    )
    config.eval.update(every_steps=10_000, batch_size=256)
    config.checkpoint.update(every_steps=10_000)
    return config
