"""Several future tokens, fewer from phase to phase: three, two, then the next alone.

The curriculum of the modded-nanogpt speed runs: the same logits are asked for the next
three tokens in the first third of the run, for two in the second, and for one in the
last, which makes their probabilities those of the next token again. Gloeckle et al. 2024
(arXiv:2404.19737) predict several tokens all along, with heads of their own.

Differs: weights are constant within a phase.

Command:
    python -m research.pretrain --config=experiments/multi_token.py --workdir=runs/mt
    ... --config.objective.ends="(0.2, 0.6, 1.0)"

Cost: 1.9e14 FLOPs for 1000 steps of 32 rows, by the mean over the phases.
Expected: every term starts at 9.06 nats; clm falls as causal_lm does.
"""

import ml_collections

from experiments import base, presets


def get_config() -> ml_collections.ConfigDict:
    config = base.get_config()
    config.model = presets.model("mini", architecture="decoder")

    def ahead(*weights: float) -> ml_collections.ConfigDict:
        settings = {"heads": "shared", "future_weights": weights}
        return presets.objective("multi_token", multi_token=settings)

    config.objective = presets.phases(
        three=(ahead(0.5, 0.25), 1 / 3),
        two=(ahead(0.5), 2 / 3),
        one=(presets.objective("causal_lm"), 1.0),
    )
    return config
