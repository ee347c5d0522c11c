"""Masked language modelling at the size of the comparisons.

Paper: Devlin et al. 2019, "BERT: Pre-training of Deep Bidirectional Transformers for
Language Understanding" (arXiv:1810.04805), section 3.1, task 1, with the fresh masks of
Liu et al. 2019 (arXiv:1907.11692), section 4.1: 15% of the tokens, of which 80% become
[MASK] and 10% a random token.

A row of 128 tokens becomes 130 with [CLS] and [SEP] and gives 20 targets. The model is
the encoder of the size ladder with the blocks that the other objectives train. BERT
itself is bert and bert_base, RoBERTa roberta_base, higher rates masked_lm_40.

Command:
    python -m research.pretrain --config=experiments/masked_lm.py --workdir=runs/mlm
    ... --config.objective.masked_lm.unit=word             # whole words
    ... --config.objective.masked_lm.unit=ngram            # ALBERT's n-grams of words
    ... --config.objective.masked_lm.replacement=unigram   # random tokens by frequency

Hardware: any; sized for a CPU with two cores and 4 GB.
Time: 1000 steps of 32 rows are 9.2e13 FLOPs forward and backward, at 50 GFLOP/s about
30 minutes.
Expected: the loss starts at ln 8192 + 256 * 0.02^2 / 2 = 9.06 nats (tied embeddings of
deviation 0.02 behind a norm) and stays near the unigram entropy of the targets for some
hundred steps before the context is used.
"""

import ml_collections

from experiments import base, presets


def get_config() -> ml_collections.ConfigDict:
    config = base.get_config()
    config.model = presets.model("mini", architecture="encoder")
    config.objective = presets.objective("masked_lm")
    return config
