"""SpanBERT's objective at the size of the comparisons: span masking and boundaries.

Paper: Joshi et al. 2020 (arXiv:1907.10529), section 3. Single sequences without
next-sentence prediction, as the paper recommends. SpanBERT's own model is spanbert_base.

Command:
    python -m research.pretrain --config=spanbert --workdir=runs/spanbert
    python -m research.preview --config=spanbert --rows=2
    ... --config.objective.span_boundary.sbo_weight=0    # span masking alone

Time: 1000 steps of 32 rows take 35 minutes (1.0e14 FLOPs).
Expected: the loss, a sum of two means, starts at 2 (ln 8192 + 256 * 0.02^2 / 2) = 18.1
nats. The boundaries of a span say less than the whole row, so 'sbo' stays above 'mlm'.
"""

import ml_collections

from experiments import base, presets


def get_config() -> ml_collections.ConfigDict:
    config = base.get_config()
    config.model = presets.model("mini", architecture="encoder")
    config.objective = presets.objective("span_boundary")
    return config
