"""Masked language modelling at the size of the comparisons.

Paper: Devlin et al. 2019 (BERT, arXiv:1810.04805), section 3.1, task 1, with the fresh
masks of Liu et al. 2019 (RoBERTa, arXiv:1907.11692), section 4.1: 15% of the tokens, of
which 80% become [MASK] and 10% a random token.

A row of 128 tokens becomes 130 with [CLS] and [SEP] and gives 20 targets. BERT itself is
bert and bert_base, RoBERTa roberta_base, higher rates masked_lm_40.

Command:
    python -m research.pretrain --config=masked_lm --workdir=runs/mlm
    ... --config.objective.masked_lm.unit=word             # whole words
    ... --config.objective.masked_lm.unit=ngram            # ALBERT's n-grams of words
    ... --config.objective.masked_lm.replacement=unigram   # random tokens by frequency

Time: 1000 steps of 32 rows take 30 minutes (9.2e13 FLOPs).
Expected: starts at ln 8192 + 256 * 0.02^2 / 2 = 9.06 nats and stays near the unigram
entropy of the targets for some hundred steps before the context is used.
"""

import ml_collections

from experiments import base, presets


def get_config() -> ml_collections.ConfigDict:
    config = base.get_config()
    config.model = presets.model("mini", architecture="encoder")
    config.objective = presets.objective("masked_lm")
    return config
