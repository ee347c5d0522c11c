"""Three objectives on three architectures, compared in minutes: the first report.

A decoder learns the next token, an encoder masked tokens, an encoder-decoder corrupted
spans, on the same rows of the embedded corpus. Then each is fine-tuned to tell held-out
sentences from copies with shuffled words, from its pretrained and from random parameters.

Command:
    python -m research.compare --config=quickstart --workdir=runs/quickstart

Hardware: a CPU with two cores and 4 GB.
Time: 5 to 6 minutes on 2 cores.
Expected: every arm ends below the unigram baseline of its own targets, causal LM by more
than 1 nat; each beats its own random initialisation in the end. One seed: nothing is said
about which is better.
"""

import ml_collections

from experiments import base, comparison_base, presets

# Two layers and short rows: in minutes on two cores, many small steps teach more than
# few large ones. Rotary positions, because a tiny masked LM with learned positions
# stays on its unigram plateau for longer than this whole budget.
ARMS = (
    ("causal_lm", "causal_lm", "Causal LM", "decoder"),
    ("masked_lm", "masked_lm", "Masked LM", "encoder"),
    ("span_corruption", "t5", "Span corruption", "encoder_decoder"),
)


def get_config() -> ml_collections.ConfigDict:
    return comparison(ARMS)


def comparison(arms: tuple) -> ml_collections.ConfigDict:
    """The same for other arms: (objective, experiment, label, architecture)."""
    config = comparison_base.get_config()
    config.name = "quickstart"
    config.title = "Three objectives on the same rows"
    shared = config.shared
    shared.model.update(presets.SIZES["tiny"], position="rope", dropout_rate=0.0)
    shared.model.max_seq_len = 128
    shared.data.row_length = 64
    shared.data.heldout_fraction = 0.05
    shared.data.tokenizer.vocab_size = 2048
    shared.data.tokenizer.num_sentinels = 32
    shared.optimizer.learning_rate = 3e-3
    for name, experiment, label, architecture in arms:
        run = base.get_config()
        run.model.architecture = architecture
        run.objective = presets.objective(name)
        comparison_base.add_arm(
            config, name, label=label, experiment=experiment, run=run
        )
    config.seeds = (0,)
    config.budget.update(axis="tokens", amount=2e6, num_evals=8)
    config.evaluations.acceptability = comparison_base.acceptability(
        num_train=400, num_test=200, seeds=(0,)
    )
    config.primary.update(metric="acceptability/accuracy", reference="causal_lm")
    return config
