"""Masked diffusion: a masked LM of every rate, weighted to bound the likelihood.

Papers: Sahoo et al. 2024 (MDLM, arXiv:2406.07524) and Nie et al. 2025 (LLaDA,
arXiv:2502.09992), with exact counts: each row masks k of its n tokens, every k equally
likely, and weighs them n / k. The cosine schedule is Kosmopoulou et al. 2025's
(arXiv:2510.16967), which masks 36% on average.

Command:
    python -m research.pretrain --config=experiments/masked_diffusion.py --workdir=runs/d
    ... --config.objective.masked_diffusion.schedule=cosine
    ... --config.objective.masked_diffusion.weighting=none      # no bound: random rates

Cost: 1.4e14 FLOPs for 1000 steps of 32 rows.
Expected: starts at 9.06 nats. The loss is an upper bound on the negative log-likelihood
of a token; it compares with causal_lm's loss as a bound, and not with masked_lm's.
"""

import ml_collections

from experiments import base, presets


def get_config() -> ml_collections.ConfigDict:
    config = base.get_config()
    config.model = presets.model("mini", architecture="encoder")
    config.objective = presets.objective("masked_diffusion")
    return config
