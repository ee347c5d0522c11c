"""results.md of GLUE: scores beside their floors, the protocol, and what is missing."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

from research.evaluation import markdown
from research.evaluation.finetuning import cells
from research.evaluation.finetuning.cells import DASH, percent
from research.evaluation.finetuning.data import TaskData
from research.evaluation.finetuning.fits import PRETRAINED, RANDOM
from research.evaluation.finetuning.metrics import TITLES
from research.evaluation.glue import summary as summary_lib
from research.evaluation.glue.config import GlueConfig
from research.evaluation.glue.run import GlueFits, GlueRow, Rows
from research.evaluation.glue.summary import Average, Summary
from research.evaluation.glue.tasks import DIAGNOSTIC, TASKS

_HEADER = (
    "task",
    "split",
    "metric",
    "majority",
    "random init",
    "mean",
    "sd",
    "median",
    "seeds",
    "failed",
    "rate",
    "batch",
    "MNLI-init",
    "train rows",
)
# Values of experiments/glue.py that no protocol has.
_USUAL = {"style": "head", "readout": "auto", "z_loss": 0.0, "min_answer_length": 8}
# Fields that change the speed, and a score by no more than rounding.
_SPEED_ONLY = ("eval_batch_size", "bucket_lengths")
_ALWAYS = (
    (
        "These are dev scores unless the split says otherwise. Dev and test scores, F1 "
        "and accuracy, Pearson and Spearman, and runs that began from an MNLI model or "
        "not, are different columns."
    ),
    (
        "Failed runs (diverged, or one answer for every row) are counted and stay in "
        "mean and median."
    ),
    (
        "majority: the most frequent train class, or the mean train score, for every "
        "row. random init: the same protocol, with its own search, on the same "
        "architecture before any pretraining (± deviation, seeds in brackets)."
    ),
)


def write(fits: GlueFits, rows: Rows, missing: Sequence[str]) -> str:
    """The whole file; `missing` says why tasks that were asked for did not run."""
    summaries = {
        (name, init): summary_lib.summarise(TASKS[name], rows[name, init])
        for name in TASKS
        for init in (PRETRAINED, RANDOM)
        if (name, init) in rows
    }
    pretrained = [found for (_, init), found in summaries.items() if init == PRETRAINED]
    floors = {
        name: found for (name, init), found in summaries.items() if init == RANDOM
    }
    parts = [
        f"# GLUE: {markdown.escape(fits.checkpoint)}",
        markdown.bullets(_facts(fits, pretrained)),
        markdown.table(_HEADER, _main_rows(fits, pretrained, floors)),
        _averages(fits, pretrained, floors),
        "## All metrics",
        _all_metrics(summaries),
        "## Read this before comparing",
        markdown.bullets(_notes(fits, rows, missing)),
    ]
    return "\n\n".join(parts) + "\n"


def _facts(fits: GlueFits, pretrained: Sequence[Summary]) -> list[str]:
    config, rules = fits.config, fits.config.rules
    row = pretrained[0].rows[0]
    selected: dict[str, list[str]] = {}
    for found in pretrained:
        selected.setdefault(found.rows[0].selection, []).append(found.task.title)
    return [
        f"source: {markdown.escape(fits.source.name)}",
        (
            f"protocol: {config.protocol} ({rules.source}); "
            f"its published tables give the {rules.statistic} over seeds"
        ),
        f"changed from the protocol: {_changes(config) or 'nothing'}",
        (
            f"checkpoint: {markdown.escape(row.checkpoint)}, step {row.checkpoint_step:,}, "
            f"{row.objective}, {row.architecture}"
        ),
        *(f"selection ({', '.join(t)}): {rule}" for rule, t in selected.items()),
        f"code: {row.commit or 'no commit'}",
    ]


def _changes(config: GlueConfig) -> str:
    """What the config sets that the protocol does not say."""
    own = {
        name: getattr(config, name)
        for name in ("seeds", "learning_rates", "batch_sizes", "train_limit")
        if getattr(config, name)
    }
    for name, value in config.finetune.items():
        if value not in (None, _USUAL.get(name)) and name not in _SPEED_ONLY:
            own[name] = value
    return ", ".join(f"{name} = {value}" for name, value in own.items())


def _main_rows(
    fits: GlueFits, pretrained: Sequence[Summary], floors: dict[str, Summary]
) -> list[list[str]]:
    lines = []
    for found in pretrained:
        data = fits.source.tasks[found.task.name]
        metric = fits.config.rules.metric(found.task)
        majority = summary_lib.majority_scores(data)
        floor = floors.get(found.task.name)
        row = found.rows[0]
        for split in found.splits:
            floor_values = floor.values(split, metric) if floor else []
            lines.append(
                [
                    found.task.title,
                    split,
                    TITLES[metric],
                    percent(majority[split][metric]),
                    cells.floor(floor_values, floor.num_failed if floor else 0),
                    *cells.seeds(found.values(split, metric)),
                    str(len(found.rows)),
                    str(found.num_failed),
                    f"{row.learning_rate:g}",
                    str(row.batch_size),
                    "yes" if row.mnli_init else "no",
                    _train_rows(row, data),
                ]
            )
    return lines


def _train_rows(row: GlueRow, data: TaskData) -> str:
    """Rows trained on, and of how many where some were held back."""
    at_hand = len(data.splits["train"])
    held_back = "" if row.train_rows >= at_hand else f" of {at_hand:,}"
    return f"{row.train_rows:,}{held_back}"


def _averages(
    fits: GlueFits, pretrained: Sequence[Summary], floors: dict[str, Summary]
) -> str:
    rules = fits.config.rules
    mean = summary_lib.average(rules, pretrained)
    if mean is None:
        return "No average: none of these tasks is in the protocol's."
    floor = summary_lib.average(rules, list(floors.values()))
    contents, majorities = [], []
    for found in pretrained:
        if found.task.name in mean.members:
            metric = rules.metric(found.task)
            several = len(found.splits) > 1
            splits = f", mean of {' and '.join(found.splits)}" if several else ""
            contents.append(f"{found.task.title} ({TITLES[metric]}{splits})")
            scores = summary_lib.majority_scores(fits.source.tasks[found.task.name])
            majorities.append(statistics.fmean(s[metric] for s in scores.values()))
    absent = [TASKS[name].title for name in rules.average if name not in mean.members]
    outside = [f.task.title for f in pretrained if f.task.name not in rules.average]
    text = (
        f"**Average of {len(mean.members)}: {_with_spread(mean)}**; random init "
        f"{_with_spread(floor) if floor else DASH}; majority "
        f"{percent(statistics.fmean(majorities))}. In it ({rules.statistic} over "
        f"seeds): {', '.join(contents)}."
    )
    if absent:
        text += f" The protocol's average also has {', '.join(absent)}: not run here."
    if outside:
        text += f" Not in the protocol's average: {', '.join(outside)}."
    return text


def _with_spread(average: Average) -> str:
    """An average, ± the deviation of the seeds' own averages where there is one."""
    if average.deviation is None:
        return percent(average.value)
    return f"{percent(average.value)} ± {percent(average.deviation)}"


def _all_metrics(summaries: dict[tuple[str, str], Summary]) -> str:
    lines = []
    for (_, init), found in summaries.items():
        for split in found.splits:
            for metric in found.task.metrics:
                values = found.values(split, metric)
                title = [found.task.title, split, init, TITLES[metric]]
                lines.append([*title, *cells.seeds(values), str(len(values))])
    header = ("task", "split", "init", "metric", "mean", "sd", "median", "seeds")
    return markdown.table(header, lines)


def _notes(fits: GlueFits, rows: Rows, missing: Sequence[str]) -> list[str]:
    notes = list(_ALWAYS)
    pretrained = [
        row for (_, init), f in rows.items() if init == PRETRAINED for row in f
    ]
    failed = [row for row in pretrained if row.failed]
    if 2 * len(failed) > len(pretrained):
        rates = sorted({row.learning_rate for row in failed})
        notes.append(
            f"{len(failed)} of {len(pretrained)} runs failed, with the learning rates "
            f"{', '.join(f'{rate:g}' for rate in rates)}. Published rates are for large "
            f"models; small ones that learn nothing need higher ones, such as "
            f"--config.learning_rates='(1e-3,3e-4)', or --config.finetune.readout=mean."
        )
    selects = any(row.selection != "last step" for row in pretrained)
    if selects and not fits.config.selection_share:
        notes.append(
            "What was selected was selected on the split that is reported. Set "
            "selection_share to select on a share of train instead."
        )
    notes += map(markdown.escape, missing)
    for name, data in fits.source.tasks.items():
        if (name, PRETRAINED) in rows:
            notes += _task_notes(data, rows[name, PRETRAINED][0])
        elif name == DIAGNOSTIC.name:
            notes += [f"{data.task.title}: {note}" for note in data.notes]
            if ("mnli", PRETRAINED) in rows:
                notes.append(
                    "diagnostic: answered by the best MNLI run, for the leaderboard "
                    "alone, which has its labels"
                )
    return notes


def _task_notes(data: TaskData, row: GlueRow) -> list[str]:
    notes = [f"{data.task.title}: {note}" for note in data.notes]
    cut = {split: count for split, count in row.num_truncated.items() if count}
    if cut:
        counts = ", ".join(f"{count:,} of {split}" for split, count in cut.items())
        length = row.settings["max_length"]
        notes.append(
            f"{data.task.title}: rows longer than the model reads or than {length} "
            f"tokens were cut, the longer sentence first: {counts}"
        )
    return notes
