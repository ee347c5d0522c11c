"""SpanBERT base, cased.

Paper: Joshi et al. 2020 (arXiv:1907.10529), sections 3 and 4.2; the base model and its
values are those of the authors' repository (facebookresearch/SpanBERT). A sequence of the
reference is within one document; here rows are packed, and documents do not see each
other. The paper trains on full sequences of 512 throughout. What is not given here is as
in bert_base.

Command:
    python -m research.pretrain --config=spanbert_base --workdir=runs/sb
    ... --config.data.source=FOLDER    # the paper adds BooksCorpus
    ... --config.data.tokenizer.kind=file --config.data.tokenizer.path=VOCAB_TXT

Time: 17 hours on 8 accelerators (1.9e20 FLOPs at 40% of 990 TFLOP/s each).
Expected: the loss, a sum of two means, starts at 2 (ln 28996 + 768 * 0.02^2 / 2) = 20.9
nats. Published by the authors for base: 92.4 F1 on SQuAD 1.1, 83.6 on 2.0 (development).
"""

import ml_collections

from experiments import bert_base, presets


def get_config() -> ml_collections.ConfigDict:
    config = bert_base.get_config()
    config.objective = presets.objective(
        "span_boundary", span_boundary={"isolate_documents": True}
    )
    config.data.row_length = 510  # 512 with [CLS] and [SEP]
    config.data.tokenizer.update(vocab_size=28996, lowercase=False)
    config.optimizer.update(epsilon=1e-8, bias_correction=True)
    config.train.num_train_steps = 2_400_000
    config.eval.every_steps = 20_000
    config.checkpoint.every_steps = 20_000
    return config
