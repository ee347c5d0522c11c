"""SQuAD as an evaluation of a comparison."""

from __future__ import annotations

import dataclasses
import pathlib
import time
from typing import ClassVar

from research.config.sections import RunConfig
from research.evaluation.finetuning.fits import PRETRAINED
from research.evaluation.interface import (
    CHANCE,
    Evaluation,
    Result,
    Say,
    failure_notes,
    silent,
)
from research.evaluation.squad import data, scoring
from research.evaluation.squad import run as squad_run
from research.evaluation.squad.run import SquadConfig, SquadFits, SquadRow
from research.evaluation.squad.scoring import TITLES
from research.machine.run_store import RunStore
from research.training.trained_run import TrainedRun


@dataclasses.dataclass(frozen=True, kw_only=True)
class Squad(Evaluation):
    """Questions about passages: the span that answers them.

    Attributes:
      squad: as of research.squad; no floor of its own.
    """

    primary: ClassVar[str] = "f1"
    trains: ClassVar[bool] = True

    squad: SquadConfig

    def refusal(self, run: RunConfig) -> str:
        del run
        if self.squad.floor_seeds:
            return "a comparison has floors of its own; set squad.floor_seeds = 0."
        chosen = self.squad.finetune
        if chosen.selection != "last" or chosen.patience:
            return (
                "SQuAD runs keep their last step; set squad.finetune.selection = 'last' "
                "and squad.finetune.patience = 0."
            )
        return ""

    def metric_names(self) -> tuple[str, ...]:
        return ("f1", "exact_match")

    def check_data(self, run: RunConfig) -> None:
        del run
        squad_run.load_questions(self.squad)

    def run(
        self, trained: TrainedRun, folder: pathlib.Path, say: Say = silent
    ) -> Result:
        started = time.monotonic()
        train, dev = squad_run.load_questions(self.squad)
        fits = SquadFits(
            config=self.squad,
            checkpoint=str(trained.workdir),
            trained=trained,
            train=train,
            dev=dev,
            store=RunStore(folder, SquadRow),
            say=say,
        )
        rows = fits.run()[PRETRAINED]
        golds = data.golds_of(dev)
        silence = scoring.score(dict.fromkeys(golds, ""), golds)
        names = self.metric_names()
        notes = [f"{len(train):,} train questions, {len(dev):,} dev questions"]
        notes += failure_notes([row.failed for row in rows])
        return Result(
            scores={name: [row.scores[name] for row in rows] for name in names},
            examples={},
            metrics={
                name: dataclasses.replace(
                    CHANCE,
                    label=TITLES[name],
                    floor=silence[name],
                    floor_label="answering nothing",
                )
                for name in names
            },
            details={},
            notes=notes,
            seconds=time.monotonic() - started,
        )
