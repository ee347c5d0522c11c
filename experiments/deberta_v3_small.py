"""DeBERTaV3's pretraining at the size of the comparisons.

Paper: He et al. 2023 (arXiv:2111.09543), section 3: replaced-token detection with
gradient-disentangled embedding sharing. The generator has the model's width and half its
depth, and sees all selected tokens as [MASK]. The model's embedding tables are the
generator's plus a difference, and only the difference learns from the model's loss.

What is not here: DeBERTa's disentangled attention and the generator's enhanced mask
decoder (the blocks are BERT's), masks in windows of six tokens (exact counts over the
whole row), and the order of the updates (both at once; see objectives/replaced_token.py).

Command:
    python -m research.pretrain --config=experiments/deberta_v3_small.py --workdir=runs/d
    python -m research.preview --config=experiments/deberta_v3_small.py --rows=2
    ... --config.objective.replaced_token.sharing=shared     # ELECTRA's sharing
    ... --config.objective.replaced_token.sharing=separate   # tables of their own

Time: 1000 steps of 32 rows take 45 minutes (1.3e14 FLOPs).
Expected: the loss starts at ln 8192 + 256 * 0.02^2 / 2 + 50 ln 2 = 43.7 nats. 'rtd' falls at
once to what the share of replaced tokens says, about 0.4.
"""

import ml_collections

from experiments import base, presets


def get_config() -> ml_collections.ConfigDict:
    config = base.get_config()
    config.model = presets.paper_model("bert_base", **presets.SIZES["mini"])
    config.objective = presets.objective(
        "replaced_token",
        replaced_token=dict(
            mask_prob=1.0,
            sharing="disentangled",
            generator_width=1.0,
            generator_depth=0.5,
        ),
    )
    return config
