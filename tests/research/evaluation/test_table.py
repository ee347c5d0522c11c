"""Fine-tuned evaluations refuse what would mislead, and count the runs that failed."""

import types

import ml_collections
import numpy as np
import pytest

from research.comparison import runner
from research.config.parse import plain
from research.errors import UserError
from research.evaluation import acceptability, interface, table
from research.evaluation.glue.run import GlueFits
from research.evaluation.squad import evaluation as squad_evaluation
from tests.research.comparison import fixtures
from tests.research.evaluation.glue import made_up

FAILED = ("", "constant predictions", "not finite", "constant predictions")
COUNT = (
    "3 of 4 fine-tuning runs failed and stay in the mean (constant predictions 2, "
    "not finite 1)"
)


def create(settings):
    """The evaluation of a section of a comparison's config."""
    return table.create("x", plain(ml_collections.ConfigDict(settings)))


def trained():
    """What the evaluations read of one before they hand it on."""
    config = types.SimpleNamespace(data=None)
    return types.SimpleNamespace(config=config, workdir="runs/made-up")


def test_no_failure_is_no_note():
    assert interface.failure_notes(["", ""]) == []


def test_acceptability_counts_failed_runs(tmp_path, monkeypatch):
    labels = np.array([0, 1])
    dev = types.SimpleNamespace(labels=labels)
    task = types.SimpleNamespace(splits={"dev": dev})
    monkeypatch.setattr(acceptability, "_sentences", lambda *_: task)

    def finetune(*_, seed, **__):
        return types.SimpleNamespace(
            scores={"dev": {"accuracy": 0.5}},
            predictions={"dev": np.zeros(2)},
            failed=FAILED[seed],
        )

    monkeypatch.setattr(acceptability, "finetune", finetune)
    settings = fixtures.comparison_base.acceptability(
        num_train=2, num_test=2, seeds=(0, 1, 2, 3)
    )
    result = create(settings).run(trained(), tmp_path)
    assert COUNT in result.notes


def test_glue_counts_failed_runs_by_task(tmp_path, monkeypatch):
    made_up.write(tmp_path / "glue")
    settings = fixtures.comparison_base.glue_tasks(
        str(tmp_path / "glue"), ("rte", "wnli")
    )

    def run(evaluation):
        return {
            (data.task.name, "pretrained"): [
                types.SimpleNamespace(
                    seed=seed,
                    grid_point=(1e-3, 32),
                    selection_score=0.5,
                    scores={"dev": {"accuracy": 0.5}},
                    failed=reason if data.task.name == "rte" else "",
                )
                for seed, reason in enumerate(FAILED)
            ]
            for data in evaluation.tasks
        }

    monkeypatch.setattr(GlueFits, "run", run)
    result = create(settings).run(trained(), tmp_path)
    assert [note for note in result.notes if "runs failed" in note] == [f"RTE: {COUNT}"]


def test_squad_counts_failed_runs(tmp_path, monkeypatch):
    monkeypatch.setattr(
        squad_evaluation.squad_run, "load_questions", lambda config: ((), ())
    )
    rows = [
        types.SimpleNamespace(scores={"f1": 0.5, "exact_match": 0.5}, failed=reason)
        for reason in FAILED
    ]
    monkeypatch.setattr(
        squad_evaluation.SquadFits, "run", lambda self: {"pretrained": rows}
    )
    silence = {"f1": 0.0, "exact_match": 0.0}
    monkeypatch.setattr(squad_evaluation.scoring, "score", lambda *_: silence)
    settings = fixtures.comparison_base.squad_questions("train.json", "dev.json")
    result = create(settings).run(trained(), tmp_path)
    assert COUNT in result.notes


@pytest.mark.parametrize("changes", [{"selection": "best"}, {"patience": 2}])
def test_acceptability_does_not_select_on_what_it_compares(changes):
    config = fixtures.comparison()
    config.evaluations.acceptability.finetune.update(changes)
    with pytest.raises(UserError, match=r"selects on the dev set.*selection = 'last'"):
        runner.check_evaluations(fixtures.config_lib.parse(config))


def test_squad_keeps_the_last_step():
    config = fixtures.comparison()
    config.evaluations.squad = fixtures.comparison_base.squad_questions("a", "b")
    config.evaluations.squad.squad.finetune.selection = "best"
    with pytest.raises(UserError, match="set squad.finetune.selection = 'last'"):
        runner.check_evaluations(fixtures.config_lib.parse(config))


def test_the_diagnostic_of_glue_is_no_metric():
    config = fixtures.comparison(**{"primary.metric": "glue/ax"})
    config.evaluations.glue = fixtures.comparison_base.glue_tasks(
        "FOLDER", ("mnli", "ax")
    )
    with pytest.raises(UserError, match=r"'glue/ax'.*Valid:.*glue/average, glue/mnli"):
        runner.check_evaluations(fixtures.config_lib.parse(config))
