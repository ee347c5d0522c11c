"""Causal LM first, masked LM afterwards, on one decoder stack.

Paper: Gisserot-Boukhlef et al. 2025 (arXiv:2507.00994): under a fixed number of steps, a
causal phase before a masked one makes better encoders than masked LM alone.

The first half of the steps reads rows from left to right, the second half in both
directions, at 30% masks. One learning-rate schedule runs over both. The masked head
begins at the switch; it is there from step 0 and is left alone until then.

Command:
    python -m research.pretrain --config=clm_then_mlm --workdir=runs/p
    ... --config.objective.ends="(0.25, 1.0)"                 # switch after a quarter
    ... --config.objective.mlm.masked_lm.noise_density=0.15

Time: 1000 steps of 32 rows take 40 minutes (1.2e14 FLOPs).
Expected: clm/clm falls from 9.06 nats until the switch; the loss then jumps to that of a
fresh head, and mlm/mlm falls faster than it does from random initialisation.
"""

import ml_collections

from experiments import base, presets


def get_config() -> ml_collections.ConfigDict:
    config = base.get_config()
    config.model = presets.model("mini", architecture="decoder", position="rope")
    config.objective = presets.phases(
        clm=(presets.objective("causal_lm"), 0.5),
        mlm=(presets.objective("masked_lm", masked_lm={"noise_density": 0.3}), 1.0),
    )
    return config
