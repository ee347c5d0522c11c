"""Every experiment is parsed, built and trained for two steps; its losses are known."""

import pytest

from tests import golden


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    return golden.Golden(tmp_path_factory.mktemp("golden"))


def cases():
    """Papers' sizes and comparisons with the slow tests: their objectives are in others."""
    for name in golden.names():
        runs = golden.runs(name).values()
        is_slow = len(runs) > 1 or any(
            run.model.emb_dim > 256 or len(run.objective.get("mixture", ())) > 2
            for run in runs
        )
        marks = [pytest.mark.slow] if is_slow else []
        yield pytest.param(name, marks=marks)


@pytest.mark.parametrize("name", cases())
def test_losses_are_those_of_the_table(name, measured):
    lines = golden.differences(measured.measure(name), golden.read_table())
    assert not lines, "\n".join(
        [*lines, f"If they should differ: {golden.REFRESH}, and say why in the commit."]
    )


def test_the_table_has_no_other_experiments():
    known = {run.partition("/")[0] for run in golden.read_table()}
    assert known <= set(golden.names())
