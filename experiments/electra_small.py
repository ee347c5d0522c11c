"""ELECTRA at the size of the comparisons: replaced-token detection.

Paper: Clark et al. 2020 (arXiv:2003.10555), section 3.3: a generator of a quarter of the
width, which shares the embedding tables, fills 15% of the tokens; the model finds what it
replaced. The blocks are ELECTRA's (BERT's, with embeddings of half the width), the size is
mini. Only the model is fine-tuned and exported, as ElectraForPreTraining.

ELECTRA's own code draws the 15% with replacement; its author advises against it.

Command:
    python -m research.pretrain --config=experiments/electra_small.py --workdir=runs/e
    python -m research.preview --config=experiments/electra_small.py --rows=2
    ... --config.objective.replaced_token.draws=with_replacement   # as in ELECTRA's code
    ... --config.objective.replaced_token.sharing=separate         # tables of their own

Time: 1000 steps of 32 rows take 35 minutes (9.9e13 FLOPs).
Expected: the loss starts at ln 8192 + 128 * 0.02^2 / 2 + 50 ln 2 = 43.7 nats. 'rtd' falls at
once to what the share of replaced tokens says, about 0.4, and further when the generator
leaves its plateau.
"""

import ml_collections

from experiments import base, presets


def get_config() -> ml_collections.ConfigDict:
    config = base.get_config()
    config.model = presets.paper_model("electra_small", **presets.SIZES["mini"])
    config.objective = presets.objective("replaced_token")
    return config
