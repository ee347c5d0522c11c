"""SpanBERT's objective at the size of the comparisons: span masking and boundaries.

Paper: Joshi et al. 2020, "SpanBERT: Improving Pre-training by Representing and
Predicting Spans" (arXiv:1907.10529), section 3.

Single sequences without next-sentence prediction, as the paper recommends. The model is
the encoder of the size ladder with the blocks that the other objectives train;
SpanBERT's own is spanbert_base.

Command:
    python -m research.pretrain --config=experiments/spanbert.py --workdir=runs/spanbert
    python -m research.preview --config=experiments/spanbert.py --rows=2
    ... --config.objective.span_boundary.sbo_weight=0    # span masking alone

Hardware: any; sized for a CPU with two cores and 4 GB.
Time: 1000 steps of 32 rows are 1.0e14 FLOPs forward and backward, at 50 GFLOP/s about
35 minutes.
Expected: the loss, a sum of two means, starts at 2 (ln 8192 + 256 * 0.02^2 / 2) = 18.1
nats: tied embeddings of deviation 0.02 behind a norm, twice. The boundaries of a span
say less than the whole row, so 'sbo' stays above 'mlm'.
"""

import ml_collections

from experiments import base, presets


def get_config() -> ml_collections.ConfigDict:
    config = base.get_config()
    config.model = presets.model("mini", architecture="encoder")
    config.objective = presets.objective("span_boundary")
    return config
