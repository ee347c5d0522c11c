"""BERT's two objectives at the size of the comparisons: next sentence and masked LM.

Paper: Devlin et al. 2019 (arXiv:1810.04805), section 3.1 and appendix A.1. Pairs of
segments first, then 80/10/10 masking of the pairs. Exactly half of the rows of every batch
have a random second segment. The model has two sentence types; BERT's own is bert_base.

Command:
    python -m research.pretrain --config=bert --workdir=runs/bert
    python -m research.preview --config=bert --rows=2

Time: 1000 steps of 32 rows take 30 minutes (9.4e13 FLOPs).
Expected: starts at ln 8192 + 256 * 0.02^2 / 2 + ln 2 = 9.75 nats. A sentence pair is one
target a row beside 20 tokens: next-sentence prediction leaves ln 2 = 0.693 late.
"""

import ml_collections

from experiments import base, presets


def get_config() -> ml_collections.ConfigDict:
    config = base.get_config()
    config.model = presets.model("mini", architecture="encoder", num_token_types=2)
    config.objective = presets.objective("next_sentence", "masked_lm")
    return config
