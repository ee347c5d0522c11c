"""A mixture of denoisers like UL2's at the size of the comparisons.

Paper: Tay et al. 2023 (arXiv:2205.05131), section 3.1: regular (R), extreme (X) and
sequential (S) denoising in equal parts.

    r3, r8     15% noise in spans of 3 and of 8 tokens
    x3, x8     50% noise in spans of 3 and of 8
    x64, x64d  15% and 50% noise in spans of 64
    s          a prefix, and the rest to be written

The paper's mode tokens, which say which denoiser a row is of, are not in this mixture.
Rows of 128 tokens hold one span of 64; the paper's have 512 tokens.

Command:
    python -m research.pretrain --config=ul2_small --workdir=runs/ul2
    python -m research.preview --config=ul2_small --rows=2

Time: 1000 steps of 56 rows take 75 minutes (2.2e14 FLOPs).
Expected: every term starts at 9.06 nats; those with many sentinels fall first.
"""

import ml_collections

from experiments import base, presets


def denoiser(density: float, length: float) -> ml_collections.ConfigDict:
    """Span corruption with other noise."""
    changes = {"noise_density": density, "mean_noise_span_length": length}
    return presets.objective("span_corruption", span_corruption=changes)


def get_config() -> ml_collections.ConfigDict:
    config = base.get_config()
    config.model = presets.model("mini", architecture="encoder_decoder")
    config.objective = presets.mixture(
        r3=(denoiser(0.15, 3.0), 1),
        r8=(denoiser(0.15, 8.0), 1),
        x3=(denoiser(0.5, 3.0), 1),
        x8=(denoiser(0.5, 8.0), 1),
        x64=(denoiser(0.15, 64.0), 1),
        x64d=(denoiser(0.5, 64.0), 1),
        s=(presets.objective("prefix_lm"), 1),
    )
    # A multiple of the seven denoisers.
    config.train.batch_size = 56
    return config
