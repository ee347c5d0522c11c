"""BERT base, uncased.

Paper: Devlin et al. 2019 (arXiv:1810.04805), section 3.1 and appendix A.2. The reference
masks its data once, in ten copies; here masks and pairs are fresh at every step. It trains
nine tenths of its steps on sequences of 128 tokens: do the same by two runs, the second
with --config.train.init_from and the first with row_length=125.

Command:
    python -m research.pretrain --config=bert_base --workdir=runs/bert_base
    ... --config.data.source=FOLDER    # the paper adds BooksCorpus
    ... --config.data.tokenizer.kind=file --config.data.tokenizer.path=VOCAB_TXT

Time: 7 hours on 8 accelerators (7.7e19 FLOPs at 40% of 990 TFLOP/s each).
Expected: starts at ln 30522 + 768 * 0.02^2 / 2 + ln 2 = 11.17 nats. Published, tables 1
and 2: 84.6 on MNLI matched, 79.6 GLUE average (test); 88.5 F1 on SQuAD 1.1 (development).
"""

import ml_collections

from experiments import base, presets


def get_config() -> ml_collections.ConfigDict:
    config = base.get_config()
    config.model = presets.paper_model("bert_base", dtype="bfloat16")
    config.objective = presets.objective("next_sentence", "masked_lm")
    config.data.update(
        source="tfds:wikipedia/20230601.en",
        row_length=509,  # 512 with [CLS], [SEP] and [SEP]
    )
    config.data.tokenizer.update(
        kind="wordpiece", vocab_size=30522, lowercase=True, num_sentinels=0
    )
    config.optimizer.update(
        learning_rate=1e-4,
        schedule="linear",
        warmup_steps=10_000,
        beta1=0.9,
        beta2=0.999,
        epsilon=1e-6,
        bias_correction=False,  # the reference's Adam has none
        weight_decay=0.01,
        clip_norm=1.0,
    )
    config.train.update(batch_size=256, num_train_steps=1_000_000, log_every_steps=100)
    config.eval.update(every_steps=10_000, batch_size=256)
    config.checkpoint.update(every_steps=10_000)
    return config
