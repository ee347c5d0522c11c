"""BART base: text infilling and sentence permutation.

Paper: Lewis et al. 2020 (arXiv:1910.13461), sections 2.2, 4 and 5.1. The optimizer's values
are those its authors gave for BART large (fairseq issue 1899): 30% of the words in spans
of 3.5 on average (the paper says 3), a tenth of the masks random, all sentences permuted.

Command:
    python -m research.pretrain --config=bart_base --workdir=runs/bart
    ... --config.data.tokenizer.kind=file --config.data.tokenizer.path=GPT2_FOLDER
    ... --config.data.source=FOLDER    # the paper adds books, news, web text, stories
    ... --config.train.num_microbatches=100    # for less memory

Time: 7 days on 8 accelerators (1.9e21 FLOPs at 40% of 990 TFLOP/s each).
Expected: starts at ln 50265 + 768 * 0.02^2 / 2 = 10.98 nats. Most targets are copied from
the inputs, so the loss falls far below a language model's. Published, table 1, 10^6 steps
on books and Wikipedia: 90.8 F1 on SQuAD 1.1, 83.8 on MNLI.
"""

import ml_collections

from experiments import base, presets


def get_config() -> ml_collections.ConfigDict:
    config = base.get_config()
    config.model = presets.paper_model("bart_base", dtype="bfloat16")
    config.objective = presets.objective("text_infilling")
    config.data.update(
        source="tfds:wikipedia/20230601.en",
        row_length=510,  # 512 with <s> and </s>
    )
    config.data.tokenizer.update(kind="bpe", vocab_size=50265, num_sentinels=0)
    config.optimizer.update(
        learning_rate=4e-4,
        schedule="linear",
        warmup_steps=10_000,
        beta1=0.9,
        beta2=0.98,
        epsilon=1e-6,
        weight_decay=0.01,
        clip_norm=0.1,
    )
    config.train.update(
        batch_size=8000,
        num_microbatches=25,
        num_train_steps=500_000,
        log_every_steps=100,
    )
    config.eval.update(every_steps=5_000, batch_size=320)
    config.checkpoint.update(every_steps=5_000)
    return config
