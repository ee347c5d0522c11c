"""The experiment that measures published differences again."""

import pytest

from experiments import compare_published
from research.comparison import config as config_lib
from research.comparison import runner


@pytest.mark.parametrize("scale", compare_published.SCALES)
def test_every_contrast_has_arms_that_its_metric_can_judge(scale):
    config = config_lib.parse(compare_published.get_config(scale))
    runner.check_evaluations(config)
    assert config.contrasts


def test_an_accelerator_measures_all_that_is_published():
    contrasts = compare_published.get_config("gpu").contrasts.values()
    measured = {(contrast.arm, contrast.reference) for contrast in contrasts}
    assert measured == set(compare_published.PUBLISHED)
