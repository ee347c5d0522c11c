"""SpanBERT base, cased.

Paper: Joshi et al. 2020, "SpanBERT: Improving Pre-training by Representing and
Predicting Spans" (arXiv:1907.10529), sections 3 and 4.2; the base model and its values
are those of the authors' repository (facebookresearch/SpanBERT).

A sequence of the reference is within one document; here rows are packed, and documents
do not see each other. The paper starts its runs from nothing, trains without
next-sentence prediction, and on full sequences of 512 throughout.

Command:
    python -m research.pretrain --config=experiments/spanbert_base.py --workdir=runs/sb
    ... --config.data.source=FOLDER    # the paper adds BooksCorpus
    ... --config.data.tokenizer.kind=file --config.data.tokenizer.path=VOCAB_TXT

Hardware: the paper used 32 V100 GPUs; written for 8 accelerators with bfloat16.
Time: 1.9e20 FLOPs forward and backward: 17 hours at 40% of 8 x 990 TFLOP/s.
Expected: the loss, a sum of two means, starts at 2 (ln 28996 + 768 * 0.02^2 / 2) = 20.9
nats (tied embeddings of deviation 0.02 behind a norm, twice). Published by the authors
for base: 92.4 F1 on SQuAD 1.1, 83.6 on SQuAD 2.0 (development).
"""

import ml_collections

from experiments import base, presets


def get_config() -> ml_collections.ConfigDict:
    config = base.get_config()
    config.model = presets.paper_model("bert_base", dtype="bfloat16")
    config.objective = presets.objective(
        "span_boundary", span_boundary={"isolate_documents": True}
    )
    config.data.update(
        source="tfds:wikipedia/20230601.en",
        row_length=510,  # 512 with [CLS] and [SEP]
    )
    config.data.tokenizer.update(
        kind="wordpiece", vocab_size=28996, lowercase=False, num_sentinels=0
    )
    config.optimizer.update(
        learning_rate=1e-4,
        schedule="linear",
        warmup_steps=10_000,
        beta1=0.9,
        beta2=0.999,
        epsilon=1e-8,
        weight_decay=0.01,
        clip_norm=1.0,
    )
    config.train.update(batch_size=256, num_train_steps=2_400_000, log_every_steps=100)
    config.eval.update(every_steps=20_000, batch_size=256)
    config.checkpoint.update(every_steps=20_000)
    return config
