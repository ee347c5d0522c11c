"""Fill-in-the-middle: causal LM in which half of the documents end with their middle.

Paper: Bavarian et al. 2022 (arXiv:2207.14255), sections 2 and 3: rate 0.5, half of it
in the order prefix, suffix, middle (PSM) and half in suffix, prefix, middle (SPM). Cuts
fall between tokens, not characters.

Command:
    python -m research.pretrain --config=experiments/fill_in_the_middle.py --workdir=runs/f
    ... --config.objective.fill_in_the_middle.fim_rate=0.9

Cost: 1.4e14 FLOPs for 1000 steps of 32 rows.
Expected: starts at 9.06 nats and falls as causal_lm does, a little higher: sentinels and
the starts of suffixes and middles are hard to predict.
"""

import ml_collections

from experiments import base, presets


def get_config() -> ml_collections.ConfigDict:
    config = base.get_config()
    config.model = presets.model("mini", architecture="decoder")
    config.objective = presets.objective("fill_in_the_middle")
    return config
