"""BART base: text infilling and sentence permutation.

Paper: Lewis et al. 2020, "BART: Denoising Sequence-to-Sequence Pre-training for Natural
Language Generation, Translation, and Comprehension" (arXiv:1910.13461), sections 2.2,
4 and 5.1. The values of the optimizer are those its authors gave for BART large
(fairseq issue 1899): 30% of the words in spans of 3.5 on average (the paper says 3), a
tenth of the masks random, all sentences permuted. It trains on 8000 sequences a step.

Command:
    python -m research.pretrain --config=experiments/bart_base.py --workdir=runs/bart
    ... --config.data.tokenizer.kind=file --config.data.tokenizer.path=GPT2_FOLDER
    ... --config.data.source=FOLDER    # the paper adds books, news, web text, stories
    ... --config.train.num_microbatches=100    # for less memory

Hardware: the paper used clusters of GPUs; written for 8 accelerators with bfloat16.
Time: 1.9e21 FLOPs forward and backward: 7 days at 40% of 8 x 990 TFLOP/s.
Expected: the loss starts at ln 50265 + 768 * 0.02^2 / 2 = 10.98 nats (tied embeddings of
deviation 0.02 behind a norm). Every token is a target, and most are copied from the
inputs, so it falls far below that of a language model. Published, table 1, BART base
trained on books and Wikipedia for 10^6 steps: 90.8 F1 on SQuAD 1.1, 83.8 on MNLI.
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
