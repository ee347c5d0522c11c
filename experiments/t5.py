"""T5's span corruption at the size of the comparisons.

Paper: Raffel et al. 2020 (arXiv:1910.10683), sections 3.1.4 and 3.3.4: 15% of the tokens
are noise, in spans of three on average.

A row of 128 tokens, as long as every other arm's, gives 116 inputs and 26 targets (19
noise tokens, 6 sentinels, EOS) without padding. T5's own models are t5_small, t5_base
and t5_1_1_base.

Command:
    python -m research.pretrain --config=t5 --workdir=runs/t5
    ... --config.model.architecture=decoder       # the same over one sequence
    ... --config.data.row_length=141              # 128 inputs, 29 targets

Time: 1000 steps of 32 rows take 40 minutes (1.2e14 FLOPs).
Expected: starts at ln 8192 + 256 * 0.02^2 / 2 = 9.06 nats. Of the 26 targets 7 are
sentinels and EOS, which are learnt first, so the loss is no measure of the text alone.
"""

import ml_collections

from experiments import base, presets


def get_config() -> ml_collections.ConfigDict:
    config = base.get_config()
    config.model = presets.model("mini", architecture="encoder_decoder")
    config.objective = presets.objective("span_corruption")
    return config
