"""Causal language modelling at the size of the comparisons.

Paper: Radford et al. 2019 (GPT-2), section 2: every token is predicted from those before
it, over rows cut from one stream of documents with an end-of-document token between them.
GPT-2's own model is gpt2_small.

Command:
    python -m research.pretrain --config=causal_lm --workdir=runs/clm
    ... --config.objective.causal_lm.isolate_documents=True   # no attention across [EOD]
    ... --config.objective.causal_lm.z_loss=1e-4              # PaLM's
    ... --config.optimizer.name=muon                          # Jordan et al. 2024

Time: 1000 steps of 32 rows take 45 minutes (1.4e14 FLOPs).
Expected: starts at ln 8192 + 256 * 0.02^2 / 2 = 9.06 nats.
"""

import ml_collections

from experiments import base, presets


def get_config() -> ml_collections.ConfigDict:
    config = base.get_config()
    config.model = presets.model("mini", architecture="decoder")
    config.objective = presets.objective("causal_lm")
    return config
