"""Published protocols stay what was published."""

import dataclasses
import runpy

import pytest

from research.evaluation.glue import protocols, tasks

# The datasets of Wang et al. 2019, table 1.
GLUE = {"cola", "sst2", "mrpc", "stsb", "qqp", "mnli", "qnli", "rte", "wnli"}


def averages(module: dict) -> dict[str, tuple[str, ...]]:
    return {name: protocol.average for name, protocol in module["PROTOCOLS"].items()}


def test_the_table_holds_the_nine_tasks_of_glue():
    assert set(protocols.NINE) == set(tasks.TASKS) == GLUE


@pytest.mark.parametrize("name", protocols.PROTOCOLS)
def test_averages_are_over_tasks_of_glue_each_once(name):
    average = protocols.get(name).average
    assert set(average) <= GLUE
    assert len(set(average)) == len(average)


def test_a_task_that_is_added_changes_no_published_average(monkeypatch):
    added = dataclasses.replace(tasks.TASKS["rte"], name="boolq", title="BoolQ")
    monkeypatch.setitem(tasks.TASKS, added.name, added)
    fresh = runpy.run_path(protocols.__file__)
    assert averages(fresh) == averages(vars(protocols))
