r"""Masked language modelling at a rate of 40%, without 80/10/10.

Paper: Wettig et al. 2023 (arXiv:2202.08005), sections 3 and 5: at 40% a model has more to
predict in a row and less to predict it from; every selected token becomes [MASK].
ModernBERT (Warner et al. 2024) keeps 80/10/10 at 30%.

A row of 128 tokens gives 52 targets where masked_lm has 20. Losses at different rates
are not comparable with each other: compare what the models have learnt.

Command:
    python -m research.pretrain --config=masked_lm_40 --workdir=runs/mlm40
    ... --config.objective.masked_lm.noise_density=0.3 \
        --config.objective.masked_lm.mask_prob=0.8 \
        --config.objective.masked_lm.random_prob=0.1       # ModernBERT's

Time: 1000 steps of 32 rows take 35 minutes (1.1e14 FLOPs).
Expected: starts at ln 8192 + 256 * 0.02^2 / 2 = 9.06 nats.
"""

import ml_collections

from experiments import masked_lm, presets


def get_config() -> ml_collections.ConfigDict:
    config = masked_lm.get_config()
    config.objective = presets.objective(
        "masked_lm",
        masked_lm={"noise_density": 0.4, "mask_prob": 1.0, "random_prob": 0.0},
    )
    return config
