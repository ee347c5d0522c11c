"""results.md: every score beside its floors, its protocol and what is missing."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

from research.evaluation.finetuning.data import TaskData
from research.evaluation.finetuning.metrics import TITLES
from research.evaluation.glue import summary as summary_lib
from research.evaluation.glue.config import GlueConfig
from research.evaluation.glue.results import RunRow
from research.evaluation.glue.run import PRETRAINED, RANDOM, GlueRun
from research.evaluation.glue.summary import Average, Summary
from research.evaluation.glue.tasks import DIAGNOSTIC, TASKS
from research.evaluation.markdown import bullets, table

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
DASH = "–"
# Fields that change how fast a number comes, hardly the number.
_SPEED_ONLY = ("eval_batch_size", "bucket_lengths")


def write(
    evaluation: GlueRun,
    rows: dict[tuple[str, str], list[RunRow]],
    missing: Sequence[str],
) -> str:
    """The whole file."""
    summaries = {
        (name, init): summary_lib.summarise(TASKS[name], found)
        for (name, init), found in rows.items()
    }
    order = [name for name in TASKS if (name, PRETRAINED) in summaries]
    parts = [
        f"# GLUE: {evaluation.checkpoint}",
        _provenance(evaluation, rows),
        table(_HEADER, _main_rows(evaluation, summaries, order)),
        _averages(evaluation, summaries, order),
        "## All metrics",
        _all_metrics(summaries, order),
        "## Read this before comparing",
        bullets(_notes(evaluation, rows, missing)),
    ]
    return "\n\n".join(parts) + "\n"


def _provenance(evaluation: GlueRun, rows: dict[tuple[str, str], list[RunRow]]) -> str:
    config, rules = evaluation.config, evaluation.config.rules
    any_row = next(iter(rows.values()))[0]
    rules_used: dict[str, list[str]] = {}
    for (name, init), found in rows.items():
        if init == PRETRAINED:
            rules_used.setdefault(found[0].selection, []).append(TASKS[name].title)
    lines = [
        f"source: {evaluation.source.name}",
        (
            f"protocol: {config.protocol} ({rules.source}); "
            f"its published tables give the {rules.statistic} over seeds"
        ),
        f"changed from the protocol: {_changes(config) or 'nothing'}",
        (
            f"checkpoint: {any_row.checkpoint}, step {any_row.checkpoint_step:,}, "
            f"{any_row.objective}, {any_row.architecture}"
        ),
        *(
            f"selection ({', '.join(titles)}): {rule}"
            for rule, titles in rules_used.items()
        ),
        f"code: {any_row.commit or 'no commit'}",
    ]
    return bullets(lines)


def _changes(config: GlueConfig) -> str:
    """What the config sets that the protocol does not say."""
    own = {
        name: getattr(config, name)
        for name in ("seeds", "learning_rates", "batch_sizes", "train_limit")
        if getattr(config, name)
    }
    usual = {"style": "head", "readout": "auto"}
    for name, value in vars(config.finetune).items():
        same = name in _SPEED_ONLY or value is None or usual.get(name) == value
        if not same:
            own[name] = value
    return ", ".join(f"{name} = {value}" for name, value in own.items())


def _main_rows(
    evaluation: GlueRun, summaries: dict[tuple[str, str], Summary], order: list[str]
) -> list[list[str]]:
    cells = []
    for name in order:
        found = summaries[name, PRETRAINED]
        floor = summaries.get((name, RANDOM))
        metric = evaluation.config.rules.metric(found.task)
        majority = summary_lib.majority_scores(evaluation.source.tasks[name])
        for split in found.splits:
            floor_cell = DASH
            if floor is not None:
                floor_cell = floor_statistics(
                    floor.values(split, metric), floor.num_failed
                )
            row = found.rows[0]
            cells.append(
                [
                    found.task.title,
                    split,
                    TITLES[metric],
                    percent(majority[split][metric]),
                    floor_cell,
                    *statistics_of(found.values(split, metric)),
                    str(len(found.rows)),
                    str(found.num_failed),
                    f"{row.learning_rate:g}",
                    str(row.batch_size),
                    "yes" if row.mnli_init else "no",
                    _train_rows(row, evaluation.source.tasks[name]),
                ]
            )
    return cells


def floor_statistics(values: list[float], num_failed: int) -> str:
    """Mean, deviation, and number of seeds of the floor, with those that failed."""
    mean, deviation, _ = statistics_of(values)
    score = f"{mean} ± {deviation}" if len(values) > 1 else mean
    failed = f", {num_failed} failed" if num_failed else ""
    return f"{score} ({len(values)}{failed})"


def _train_rows(row: RunRow, data: TaskData) -> str:
    """Rows trained on, and of how many where some were held back."""
    at_hand = len(data.splits["train"])
    if row.train_rows >= at_hand:
        return f"{row.train_rows:,}"
    return f"{row.train_rows:,} of {at_hand:,}"


def statistics_of(values: list[float]) -> list[str]:
    """Mean, sample deviation and median, as cells."""
    deviation = statistics.stdev(values) if len(values) > 1 else None
    return [
        percent(statistics.fmean(values)),
        DASH if deviation is None else percent(deviation),
        percent(statistics.median(values)),
    ]


def _averages(
    evaluation: GlueRun, summaries: dict[tuple[str, str], Summary], order: list[str]
) -> str:
    rules = evaluation.config.rules
    found = [summaries[name, PRETRAINED] for name in order]
    mean = summary_lib.average(rules, found)
    if mean is None:
        return "No average: none of these tasks is in the protocol's."
    floors = [summaries[n, RANDOM] for n in order if (n, RANDOM) in summaries]
    floor = summary_lib.average(rules, floors)
    majority = statistics.fmean(
        statistics.fmean(
            scores[rules.metric(TASKS[name])]
            for scores in summary_lib.majority_scores(
                evaluation.source.tasks[name]
            ).values()
        )
        for name in mean.members
    )
    contents = ", ".join(
        f"{TASKS[name].title} ({TITLES[rules.metric(TASKS[name])]}"
        f"{', mean of ' + ' and '.join(s.splits) if len(s.splits) > 1 else ''})"
        for name in mean.members
        for s in [summaries[name, PRETRAINED]]
    )
    absent = [TASKS[name].title for name in rules.average if name not in mean.members]
    outside = [TASKS[name].title for name in order if name not in rules.average]
    sentences = [
        f"**Average of {len(mean.members)}: {_with_spread(mean)}**",
        f"random init {_with_spread(floor) if floor else DASH}",
        f"majority {percent(majority)}",
    ]
    text = f"{'; '.join(sentences)}. In it ({rules.statistic} over seeds): {contents}."
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


def _all_metrics(summaries: dict[tuple[str, str], Summary], order: list[str]) -> str:
    cells = []
    for name in order:
        for init in (PRETRAINED, RANDOM):
            found = summaries.get((name, init))
            if found is None:
                continue
            for split in found.splits:
                for metric in found.task.metrics:
                    values = found.values(split, metric)
                    title = [found.task.title, split, init, TITLES[metric]]
                    cells.append([*title, *statistics_of(values), str(len(values))])
    header = ("task", "split", "init", "metric", "mean", "sd", "median", "seeds")
    return table(header, cells)


def _notes(
    evaluation: GlueRun,
    rows: dict[tuple[str, str], list[RunRow]],
    missing: Sequence[str],
) -> list[str]:
    notes = [
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
    ]
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
            f"--config.learning_rates=(1e-3,3e-4), or --config.finetune.readout=mean."
        )
    selects = any(
        row.settings["selection"] == "best" or len(evaluation.config.grid(task)) > 1
        for (name, _), found in rows.items()
        for task, row in [(TASKS[name], found[0])]
    )
    if selects and evaluation.config.selection_share == 0.0:
        notes.append(
            "What was selected was selected on the split that is reported. Set "
            "selection_share to select on a share of train instead."
        )
    notes += list(missing)
    for name, data in evaluation.source.tasks.items():
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


def _task_notes(data: TaskData, row: RunRow) -> list[str]:
    notes = [f"{data.task.title}: {note}" for note in data.notes]
    cut = {split: count for split, count in row.truncated.items() if count}
    if cut:
        counts = ", ".join(f"{count:,} of {split}" for split, count in cut.items())
        length = row.settings["max_length"]
        notes.append(
            f"{data.task.title}: rows longer than the model reads or than {length} "
            f"tokens were cut, the longer sentence first: {counts}"
        )
    return notes


def percent(value: float) -> str:
    """A share with one digit and a true minus."""
    text = f"{100 * value:.1f}"
    return "0.0" if text == "-0.0" else text.replace("-", "\u2212")
