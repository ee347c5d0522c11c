"""What differs and what is equal, the method, every run."""

from __future__ import annotations

import collections
import json
from typing import Any

from research.comparison import arms as arms_lib
from research.comparison import budgets, statistics, verdicts
from research.comparison.report import formats
from research.comparison.report.document import (
    Block,
    Bullets,
    Details,
    Heading,
    Paragraph,
    Table,
)
from research.comparison.report.sections import common
from research.comparison.results import Results
from research.data.run_data import describe_text


def design(results: Results) -> list[Block]:
    """What differs between the arms, and what is held equal."""
    config = results.config
    arms = list(config.arms)
    differing = arms_lib.differing_fields(arms)
    blocks: list[Block] = [Heading(text="What differs, what is equal", level=2)]
    if differing:
        blocks.append(
            Table(
                columns=["field", *(arm.label for arm in arms)],
                rows=[
                    [f"`{field}`", *(formats.setting(values[a.name]) for a in arms)]
                    for field, values in differing.items()
                ],
                aligns="l" + "l" * len(arms),
                caption=(
                    "Every field in which the arms' configs differ; a dash: the arm has "
                    "no such field. Allowed to differ: "
                    f"{', '.join(f'`{name}`' for name in config.varies)}. The comparison "
                    "was refused if anything else did."
                ),
            )
        )
    shared = arms_lib.shared_fields(arms)
    lines = "\n".join(
        f"{field} = {formats.setting(value)}" for field, value in shared.items()
    )
    experiments = "; ".join(
        f"{arm.label} starts from `experiments/{arm.experiment}.py`" for arm in arms
    )
    fitted = ", ".join(f"`{name}`" for name in budgets.FITTED)
    blocks += [
        Paragraph(
            "Held equal, because all arms have the same value: corpus, held-out "
            "documents, tokenizer, rows and their order (a function of the seed alone), "
            f"sizes, optimizer, schedule and evaluation. {experiments}. The comparison "
            f"sets these from the budget and the seed: {fitted}."
        ),
        Details(title=f"All {len(shared)} shared fields", text=lines),
    ]
    return blocks


def method(results: Results) -> list[Block]:
    """How the numbers were made, in words."""
    config = results.config
    items = [
        (
            "The unit is the pretraining seed. It sets initialisation, data order and "
            "corruption alike in every arm, so arms are compared seed by seed; fine-tuning "
            "seeds are averaged inside."
        ),
        *_corpus(results),
        *_tests(results),
        (
            f"One metric was declared primary: `{config.primary.metric}`, against "
            f"{common.label(results, config.primary.reference)}. Holm's correction covers the arms "
            "on it. All else is exploratory."
        ),
        (
            f"Budget: {formats.large(config.budget.amount)} {budgets.AXES[config.budget.axis]} "
            "a run; warm-up and decay of the learning rate are fitted to the steps that the "
            "budget gives each arm."
        ),
    ]
    if config.tuning.learning_rates:
        rates = ", ".join(f"{rate:g}" for rate in config.tuning.learning_rates)
        items.append(
            f"Every arm tried the learning rates {rates} on tuning seeds of their own, "
            "and took the one with its lowest held-out loss."
        )
    else:
        items.append("No hyperparameter was tuned: every arm has the shared ones.")
    failed = [p for p in results.problems if p.state == "failed"]
    items.append(
        f"{formats.plural(len(failed), 'run or evaluation')} failed for good and "
        f"{'is' if len(failed) == 1 else 'are'} missing above."
        if failed
        else "No run or evaluation failed for good."
    )
    return [Heading(text="Method", level=2), Bullets(items)]


def _corpus(results: Results) -> list[str]:
    """What text the runs read, which all arms share."""
    for run in results.runs.values():
        if run.config and "text" in run.summary:
            source = run.config["data"]["source"]
            return [f"Corpus `{source}`: {describe_text(run.summary['text'])}."]
    return []


def _tests(results: Results) -> list[str]:
    """What was done on each metric, which the finished seeds and scores decide."""
    planned = len(results.config.seeds)
    if planned < 2:
        count = formats.plural(planned, "pretraining seed")
        return [
            (
                f"{count}: there are no intervals and no tests, and differences may be "
                "due to the seed."
            )
        ]
    found = verdicts.against_reference(results)
    num_arms = collections.Counter(metric for _, metric in found)
    ways: dict[tuple[str, str, bool], dict[str, list[str]]] = {}
    for (arm, metric), compared in found.items():
        way = (compared.method, compared.examples, compared.tested)
        arms = ways.setdefault(way, {}).setdefault(metric, [])
        arms.append(common.label(results, arm))
    items = []
    for (test, examples, tested), metrics in ways.items():
        names = [
            f"`{metric}`"
            # Seeds that are missing can make the arms differ.
            + (f" ({formats.listed(arms)})" * (len(arms) < num_arms[metric]))
            for metric, arms in metrics.items()
        ]
        words = _test_words(results, test, examples) if tested else f"untested ({test})"
        items.append(f"{formats.listed(names)}: {words}.")
    return items or ["There are no differences between arms yet, and no tests."]


def _test_words(results: Results, test: str, examples: str) -> str:
    settings = results.config.statistics
    interval = (
        f"differences have {1 - settings.alpha:.0%} {test} intervals over the seeds that "
        "both arms finished"
    )
    if examples == "sampled":
        return (
            f"{interval}, and over examples: these are taken as sampled, and the "
            "intervals speak of new examples of the same kind"
        )
    reason = ""
    if settings.examples == "sampled":
        reason = " for want of scores of single examples"
        if test == "paired t":
            reason = f" below {statistics.MIN_BOOTSTRAP_SEEDS} seeds"
    return (
        f"{interval}; examples are taken as fixed{reason}, and the intervals speak of "
        "these examples only"
    )


def appendix(results: Results) -> list[Block]:
    """Every run: state, seed, numbers, config, commit, versions, hardware."""
    rows, details = [], []
    environments: dict[str, list[str]] = {}
    for run in [*results.runs.values(), *results.trials.values()]:
        summary = run.summary
        rows.append(
            [
                f"`{run.job.folder}`",
                run.state,
                str(run.job.seed),
                formats.large(summary.get("num_steps")),
                formats.number(summary.get("heldout_loss"), 4),
                f"{summary['learning_rate']:g}" if summary else formats.DASH,
                formats.duration(summary.get("seconds")),
            ]
        )
        if summary:
            key = json.dumps(summary["environment"], indent=1, sort_keys=True)
            environments.setdefault(key, []).append(run.job.folder)
        if run.config and run.job.kind == "run":
            details.append(
                Details(
                    title=f"Config of {run.job.folder}",
                    text=json.dumps(run.config, indent=1, sort_keys=True),
                )
            )
    blocks: list[Block] = [
        Heading(text="Appendix: every run", level=2),
        Table(
            columns=[
                "run",
                "state",
                "seed",
                "steps",
                "held-out loss",
                "learning rate",
                "time",
            ],
            rows=rows,
            aligns="llrrrrr",
            caption="",
        ),
    ]
    for text, folders in environments.items():
        title = (
            f"Commit, versions and hardware of {formats.plural(len(folders), 'run')}"
        )
        blocks.append(Details(title=title, text=f"{text}\n\n" + "\n".join(folders)))
    return blocks + details


def as_csv(results: Results) -> list[list[Any]]:
    """Every number of the report in long form, one row per run or score."""
    rows: list[list[Any]] = [
        ["kind", "arm", "seed", "point", "learning_rate", "metric", "unit", "value"]
    ]
    keys = {
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
    for run in [*results.runs.values(), *results.trials.values()]:
        for key, unit in keys.items():
            if key in run.summary:
                rate = run.summary["learning_rate"]
                job = run.job
                rows.append(
                    [
                        job.kind,
                        job.arm,
                        job.seed,
                        1,
                        rate,
                        key,
                        unit,
                        run.summary[key],
                    ]
                )
    for (evaluation, arm, point), by_seed in results.scores.items():
        kind = "floor" if point is None else "score"
        place = "" if point is None else point
        for seed, result in sorted(by_seed.items()):
            values = {
                name: (result.metrics[name].unit, found)
                for name, found in result.scores.items()
            }
            values |= {name: ("%", [found]) for name, found in result.details.items()}
            for name, (unit, found) in values.items():
                unit = "share" if unit == "%" else unit
                metric = f"{evaluation}/{name}"
                rows += [
                    [kind, arm, seed, place, "", metric, unit, value] for value in found
                ]
    return rows
