"""GPT-2 small (124M parameters).

Paper: Radford et al. 2019, section 2: batches of 512 rows of 1024 tokens. The paper does
not state its schedule; here it is that of GPT-3's model of this size (Brown et al. 2020,
table 2.1 and appendix B): 6e-4 with a cosine to a tenth of it, beta2 = 0.95, decay 0.1.

Command:
    python -m research.pretrain --config=gpt2_small --workdir=runs/gpt2
    ... --config.data.source=FOLDER    # e.g. OpenWebText as JSONL files
    ... --config.data.tokenizer.kind=file --config.data.tokenizer.path=GPT2_FOLDER

Time: 24 hours on 8 accelerators (2.7e20 FLOPs at 40% of 990 TFLOP/s each).
Expected: starts at ln 50257 + 768 * 0.02^2 / 2 = 10.98 nats. Published for WebText,
table 3: perplexity 35.13 on LAMBADA and 37.50 on WikiText-103, zero-shot.
"""

import ml_collections

from experiments import base, presets


def get_config() -> ml_collections.ConfigDict:
    config = base.get_config()
    config.model = presets.paper_model("gpt2_small", dtype="bfloat16")
    config.objective = presets.objective("causal_lm")
    config.data.update(source="tfds:wikipedia/20230601.en", row_length=1024)
    config.data.tokenizer.update(kind="bpe", vocab_size=50257, num_sentinels=0)
    config.optimizer.update(
        learning_rate=6e-4,
        schedule="cosine",
        warmup_steps=2000,
        final_learning_rate=6e-5,
        beta1=0.9,
        beta2=0.95,
        epsilon=1e-8,
        weight_decay=0.1,
        clip_norm=1.0,
    )
    config.train.update(
        batch_size=512,
        num_microbatches=4,
        num_train_steps=600_000,
        log_every_steps=100,
    )
    config.eval.update(every_steps=5000, batch_size=256)
    config.checkpoint.update(every_steps=5000)
    return config
