"""Causal and masked LM at once, on one decoder stack.

Paper: Charpentier and Samuel 2024, "GPT or BERT: why not both?" (arXiv:2410.24159),
section 2, mixes the two in one network. There the masked component predicts the token
after the position that it is read at, and both share a head; here they are the two
objectives as they are, with a head each.

Half of the rows are read from left to right, half in both directions. The stack has
rotary positions, which mean the same in either direction.

Command:
    python -m research.pretrain --config=hybrid --workdir=runs/h
    ... --config.objective.shares="(3, 1)"
    ... --config.objective.masked.masked_lm.noise_density=0.3

Time: 1000 steps of 32 rows take 40 minutes (1.2e14 FLOPs).
Expected: both losses start at 9.06 nats; causal LM leaves the unigram entropy first.
Held-out terms are measured on all rows for each component, so causal/clm and masked/mlm
compare with the losses of causal_lm and masked_lm.
"""

import ml_collections

from experiments import base, presets


def get_config() -> ml_collections.ConfigDict:
    config = base.get_config()
    config.model = presets.model("mini", architecture="decoder", position="rope")
    config.objective = presets.mixture(
        causal=(presets.objective("causal_lm"), 1),
        masked=(presets.objective("masked_lm"), 1),
    )
    return config
