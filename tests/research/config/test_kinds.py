"""A config of another kind is named, with the command that takes it."""

import pytest

from experiments import base, compare_small, glue, quickstart, squad
from research.comparison import config as comparison_config
from research.config import kinds
from research.config import parse as run_config
from research.errors import UserError
from research.evaluation.glue import config as glue_config
from research.evaluation.squad import run

CONFIGS = {
    "RUN": (base.get_config, run_config.parse),
    "COMPARISON": (compare_small.get_config, comparison_config.parse),
    "GLUE": (glue.get_config, glue_config.parse),
    "SQUAD": (squad.get_config, run.parse),
}


@pytest.mark.parametrize("given", CONFIGS)
@pytest.mark.parametrize("wanted", CONFIGS)
def test_every_parser_takes_its_own_kind_and_names_the_others(given, wanted):
    config, parse = CONFIGS[given][0](), CONFIGS[wanted][1]
    if given == wanted:
        parse(config)
        return
    with pytest.raises(UserError) as error:
        parse(config)
    message = str(error.value)
    assert "\n" not in message
    assert message.startswith(f"this is the config of {getattr(kinds, given).name}")
    assert f"python -m {getattr(kinds, given).commands[-1]} take" in message
    assert f"begin with {getattr(kinds, wanted).complete}" in message


@pytest.mark.parametrize("kind", CONFIGS)
def test_what_lacks_a_field_begins_with_the_file_that_has_it(kind):
    make, parse = CONFIGS[kind]
    config = make()
    with config.unlocked():
        del config[next(name for name in config if name != getattr(kinds, kind).mark)]
    with pytest.raises(UserError) as error:
        parse(config)
    assert f"begin with {getattr(kinds, kind).complete}" in str(error.value)


def test_arms_of_a_comparison_are_runs():
    for arm in quickstart.get_config().arms.values():
        run_config.parse(arm.config)
