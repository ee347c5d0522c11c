"""GPT-BERT: causal and masked next-token prediction by one decoder and one head.

Paper: Charpentier and Samuel 2024, "GPT or BERT: why not both?" (arXiv:2410.24159),
section 2. Masked rows are read in both directions, causal ones from left to right; both
read the prediction of a token at the position before it. Of 16 rows 15 are masked, the
paper's default. `hybrid` has two heads and no shift instead.

Differs from the paper: AdamW for LAMB, no schedule of mask rates and lengths, and
causal_lm's head without a layer before it.

Command:
    python -m research.pretrain --config=experiments/gpt_bert.py --workdir=runs/gb
    ... --config.objective.shares="(1, 1)"
    ... --config.objective.masked.masked_next_token.noise_density=0.3

Cost: 8.3e13 FLOPs for 1000 steps of 32 rows.
Expected: both losses start at 9.06 nats.
"""

import ml_collections

from experiments import base, presets


def get_config() -> ml_collections.ConfigDict:
    config = base.get_config()
    config.model = presets.model("mini", architecture="decoder", position="rope")
    config.objective = presets.mixture(
        masked=(presets.objective("masked_next_token"), 15),
        causal=(presets.objective("causal_lm"), 1),
    )
    return config
