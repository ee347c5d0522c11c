"""Prefix language modelling at the size of the comparisons.

Paper: Raffel et al. 2020 (T5, arXiv:1910.10683), sections 3.2.1 (the architecture) and
3.3.1 (the objective): a prefix of uniform length is read in both directions, the rest
is predicted.

Command:
    python -m research.pretrain --config=prefix_lm --workdir=runs/prefix
    ... --config.model.architecture=encoder_decoder    # T5's arrangement

Time: 1000 steps of 32 rows take 45 minutes (1.4e14 FLOPs).
Expected: starts at ln 8192 + 256 * 0.02^2 / 2 = 9.06 nats. On average half of a row's
tokens are targets. Published, table 4, at base size on C4: 80.69 GLUE average, against
82.96 for masked tokens.
"""

import ml_collections

from experiments import base, presets


def get_config() -> ml_collections.ConfigDict:
    config = base.get_config()
    config.model = presets.model("mini", architecture="decoder")
    config.objective = presets.objective("prefix_lm")
    return config
