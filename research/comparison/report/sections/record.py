"""What differs and what is equal, the method, every run."""

from __future__ import annotations

import json
from typing import Any

from research.comparison import budgets, statistics
from research.comparison.findings import Findings
from research.comparison.report import formats
from research.comparison.report.document import Block, Details, Table
from research.comparison.report.sections import common
from research.data.run_data import describe_text
from research.evaluation import markdown

# Numbers of a run in results.csv, with their units.
_RUN_NUMBERS = {
    "heldout_loss": "nats/target",
    "unigram_loss": "nats/target",
    "content_unigram_loss": "nats/target",
    "num_params": "",
    "num_steps": "",
    "tokens": "",
    "targets": "",
    "flops": "",
    "seconds": "s",
    "tokens_per_second": "1/s",
    "peak_memory_bytes": "bytes",
}
_CSV_COLUMNS = [
    "kind",
    "arm",
    "seed",
    "point",
    "learning_rate",
    "metric",
    "unit",
    "value",
]


def design(found: Findings) -> list[Block]:
    """What differs between the arms, and what is held equal."""
    config = found.config
    blocks: list[Block] = ["## What differs, what is equal"]
    if found.differing:
        allowed = ", ".join(f"`{name}`" for name in config.varies)
        blocks.append(
            Table(
                columns=["field", *(common.label(found, arm) for arm in found.arms)],
                rows=[
                    [
                        f"`{field}`",
                        *(
                            markdown.escape(formats.setting(values[arm]))
                            for arm in found.arms
                        ),
                    ]
                    for field, values in found.differing.items()
                ],
                aligns="l" * (1 + len(found.arms)),
                caption=(
                    f"Every field in which the arms' configs differ; a dash: the arm has "
                    f"no such field. Allowed to differ: {allowed}. The comparison was "
                    f"refused if anything else did."
                ),
            )
        )
    experiments = "; ".join(
        f"{common.label(found, arm.name)} starts from the experiment "
        f"{markdown.escape(arm.experiment)}"
        for arm in config.arms
    )
    fitted = ", ".join(f"`{name}`" for name in budgets.FITTED)
    shared = [f"{name} = {formats.setting(x)}" for name, x in found.shared.items()]
    return [
        *blocks,
        (
            f"Held equal, because all arms have the same value: corpus, held-out "
            f"documents, tokenizer, rows and their order (a function of the seed alone), "
            f"sizes, optimizer, schedule and evaluation. {experiments}. The comparison "
            f"sets these from the budget and the seed: {fitted}."
        ),
        Details(title=f"All {len(shared)} shared fields", text="\n".join(shared)),
    ]


def method(found: Findings) -> list[Block]:
    """How the numbers were made, in words."""
    config = found.config
    budget = config.budget
    tuned = "No hyperparameter was tuned: every arm has the shared ones."
    if config.tuning.learning_rates:
        rates = ", ".join(f"{rate:g}" for rate in config.tuning.learning_rates)
        tuned = (
            f"Every arm tried the learning rates {rates} on tuning seeds of their own, "
            f"and took the one with its lowest held-out loss."
        )
    count = sum(problem.state == "failed" for problem in found.problems)
    failed = "No run or evaluation failed for good."
    if count:
        failed = (
            f"{formats.plural(count, 'run or evaluation')} failed for good and "
            f"{'is' if count == 1 else 'are'} missing above."
        )
    items = [
        (
            "The unit is the pretraining seed. It sets initialisation, data order and "
            "corruption alike in every arm, so arms are compared seed by seed; "
            "fine-tuning seeds are averaged inside."
        ),
        *_corpus(found),
        _tests(found),
        (
            f"One metric was declared primary: {markdown.escape(config.primary.metric)}, "
            f"against {common.label(found, config.primary.reference)}. Holm's correction covers "
            f"the arms on it. All else is exploratory."
        ),
        (
            f"Budget: {formats.large(budget.amount)} {budgets.AXES[budget.axis]} a run; "
            f"warm-up and decay of the learning rate are fitted to the steps that the "
            f"budget gives each arm."
        ),
        tuned,
        failed,
    ]
    return ["## Method", markdown.bullets(items)]


def _corpus(found: Findings) -> list[str]:
    """What text the runs read, which all arms share."""
    for run in found.runs:
        if run.config and "text" in run.summary:
            source = markdown.escape(run.config["data"]["source"])
            return [f"Corpus {source}: {describe_text(run.summary['text'])}."]
    return []


def _tests(found: Findings) -> str:
    """What was done for intervals and tests, as far as the seeds allow it."""
    settings = found.config.statistics
    least = statistics.MIN_BOOTSTRAP_SEEDS
    if len(found.config.seeds) < 2:
        return (
            "1 pretraining seed: there are no intervals and no tests, and differences may "
            "be due to the seed."
        )
    sampled = settings.examples == "sampled"
    over = " over seeds and, where each has its score, examples" if sampled else ""
    return (
        f"Differences have {1 - settings.alpha:.0%} intervals over the seeds that both "
        f"arms finished: of a paired t test below {least} of them, else of the "
        f"multi-bootstrap{over}. The table of differences says of each which it was, "
        f"and whether it speaks of new examples ('sampled') or of these alone ('fixed')."
    )


def appendix(found: Findings) -> list[Block]:
    """Every run: state, seed, numbers, commit, versions, hardware."""
    table = Table(
        columns=[
            "run",
            "state",
            "seed",
            "steps",
            "held-out loss",
            "learning rate",
            "time",
        ],
        rows=[
            [
                f"`{run.job.folder}`",
                run.state,
                str(run.job.seed),
                formats.large(run.summary.get("num_steps")),
                formats.number(run.summary.get("heldout_loss"), 4),
                formats.short(run.summary.get("learning_rate")),
                formats.duration(run.summary.get("seconds")),
            ]
            for run in found.runs
        ],
        aligns="llrrrrr",
        caption="The folder of each holds its config.json.",
    )
    environments: dict[str, list[str]] = {}
    for run in found.runs:
        if run.summary:
            text = json.dumps(run.summary["environment"], indent=1, sort_keys=True)
            environments.setdefault(text, []).append(run.job.folder)
    provenance = [
        Details(
            title=(
                f"Commit, versions and hardware of "
                f"{formats.plural(len(folders), 'run')}"
            ),
            text="\n".join([text, "", *folders]),
        )
        for text, folders in environments.items()
    ]
    return ["## Appendix: every run", table, *provenance]


def as_csv(found: Findings) -> list[list[Any]]:
    """Every number of the report in long form, one row per run or score."""
    rows: list[list[Any]] = [_CSV_COLUMNS]
    start: list[Any]
    for run in found.runs:
        start = [run.job.kind, run.job.arm, run.job.seed, 1]
        rows += [
            [*start, run.summary["learning_rate"], name, unit, run.summary[name]]
            for name, unit in _RUN_NUMBERS.items()
            if name in run.summary
        ]
    for record in found.records:
        is_floor = record.point is None
        start = ["floor" if is_floor else "score", record.arm, record.seed]
        start += ["" if is_floor else record.point, ""]
        result = record.result
        for name, values in result.scores.items():
            metric = f"{record.evaluation}/{name}"
            unit = found.metrics[metric].unit
            unit = "share" if unit == "%" else unit
            rows += [[*start, metric, unit, value] for value in values]
        for name, value in result.details.items():
            if name not in result.scores:
                rows.append([*start, f"{record.evaluation}/{name}", "share", value])
    return [[_csv_cell(value) for value in row] for row in rows]


def _csv_cell(value: Any) -> Any:
    """A value that no spreadsheet takes for a formula."""
    is_formula = isinstance(value, str) and value.startswith(("=", "+", "-", "@"))
    return f"'{value}" if is_formula else value
