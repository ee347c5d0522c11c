"""Which arms share what is evaluated from random initialisation."""

import pytest

from experiments import base, comparison_base, presets, quickstart
from research.comparison import config as config_lib
from research.comparison import jobs


def comparison(*sections, architecture, evaluation=None):
    """Arms a, b, .. whose models are equal and whose objectives are the sections."""
    config = quickstart.comparison(())
    for name, section in zip("abc", sections):
        run = base.get_config()
        run.model.architecture = architecture
        run.objective = section
        comparison_base.add_arm(config, name, label=name, experiment="", run=run)
    config.primary.reference = "a"
    if evaluation is not None:
        config.evaluations.added = evaluation
    return config_lib.parse(config)


CAUSAL = presets.objective("causal_lm")
RATES = [
    presets.objective("masked_lm", masked_lm={"noise_density": rate})
    for rate in (0.15, 0.4)
]


@pytest.mark.parametrize(
    "sections,architecture,shared",
    [
        (RATES, "encoder", {"a": "a", "b": "a"}),
        (RATES, "decoder", {"a": "a", "b": "a"}),
        ([CAUSAL, RATES[0]], "decoder", {"a": "a", "b": "b"}),
        ([CAUSAL, presets.objective("prefix_lm")], "decoder", {"a": "a", "b": "b"}),
    ],
)
def test_arms_share_a_floor_if_they_have_texts_read_alike(
    sections, architecture, shared
):
    config = comparison(*sections, architecture=architecture)
    assert jobs.floor_arms(config) == shared


def test_without_training_a_floor_is_the_objectives_own():
    blimp = comparison_base.blimp("somewhere")
    config = comparison(*RATES, architecture="encoder", evaluation=blimp)
    assert jobs.floor_arms(config) == {"a": "a", "b": "b"}
