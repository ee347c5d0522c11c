"""ALBERT's two objectives at the size of the comparisons: order of sentences, n-grams.

Paper: Lan et al. 2020 (arXiv:1909.11942), section 3.1. Two consecutive segments, in order
or swapped, cut so that neither their lengths nor their ends tell which; then n-grams of
one to three words are masked, p(n) ~ 1 / n. The model has two sentence types and a
factorised embedding, but not ALBERT's shared layers.

Command:
    python -m research.pretrain --config=sentence_order --workdir=runs/so
    python -m research.preview --config=sentence_order --rows=2

Time: 1000 steps of 32 rows take 30 minutes (9e13 FLOPs).
Expected: starts at ln 8192 + 128 * 0.02^2 / 2 + ln 2 = 9.73 nats. Both segments are about
the same thing, so the topic does not help as it does in bert.
"""

import ml_collections

from experiments import base, presets


def get_config() -> ml_collections.ConfigDict:
    config = base.get_config()
    config.model = presets.model(
        "mini", architecture="encoder", num_token_types=2, embedding_dim=128
    )
    config.objective = presets.objective(
        "next_sentence",
        "masked_lm",
        next_sentence={"negatives": "swapped"},
        masked_lm={"unit": "ngram"},
    )
    return config
