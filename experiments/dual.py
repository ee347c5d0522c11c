"""Autoregression and masked diffusion at once, by one decoder and one head.

Paper: Samuel and Charpentier 2025, "Dual-objective language models"
(arXiv:2512.14549): a share of diffusion keeps a causal LM from overfitting text that it
sees many times. Diffusion rows mask any share of their tokens and are read in both
directions; a token is predicted at the position before it, as in the causal rows.

Differs from the paper: rows of one step are dealt out, not repetitions of the corpus;
the causal loss is not doubled; AdamW for Muon.

Command:
    python -m research.pretrain --config=experiments/dual.py --workdir=runs/dual
    ... --config.objective.shares="(1, 15)"       # causal rows : diffusion rows

Cost: 1.4e14 FLOPs for 1000 steps of 32 rows.
Expected: both losses start at 9.06 nats; diffusion's is an upper bound.
"""

import ml_collections

from experiments import base, presets


def get_config() -> ml_collections.ConfigDict:
    config = base.get_config()
    config.model = presets.model("mini", architecture="decoder", position="rope")
    shifted = {"shift": True}
    config.objective = presets.mixture(
        causal=(presets.objective("causal_lm"), 1),
        diffusion=(presets.objective("masked_diffusion", masked_diffusion=shifted), 1),
    )
    return config
