"""The head of a report: what is there, the verdict, one line per arm."""

from __future__ import annotations

from research.comparison import budgets, verdicts
from research.comparison.report import formats
from research.comparison.report.document import Block, Callout, Facts, Table
from research.comparison.report.sections import common
from research.comparison.results import Results
from research.evaluation.interface import Metric


def facts(results: Results) -> list[Block]:
    """The strip of key figures."""
    config = results.config
    runs = [run for arm in config.arms for run in results.finished_runs(arm.name)]
    seconds = sum(run.summary["seconds"] for run in runs)
    items = [
        (str(len(config.arms)), "arms"),
        (str(len(config.seeds)), "pretraining seeds"),
        (
            formats.large(config.budget.amount),
            f"{budgets.AXES[config.budget.axis]} a run",
        ),
        (str(len(config.evaluations)), "evaluations"),
        (formats.duration(seconds), "pretraining in all"),
    ]
    return [Facts(items=items)]


def state(results: Results) -> list[Block]:
    """What is missing, failed or damaged; nothing if all is there."""
    if results.is_complete:
        return []
    items = []
    for problem in results.problems:
        if problem.state in ("failed", "damaged"):
            items.append(
                f"**{problem.state}**: {problem.job.description}. {problem.detail}"
            )
    counts: dict[str, list[str]] = {}
    for problem in results.problems:
        if problem.state in ("unfinished", "missing"):
            kind = {"run": "pretraining run", "trial": "tuning run"}.get(
                problem.job.kind, problem.job.kind
            )
            counts.setdefault(f"{problem.state} {kind}", []).append(problem.job.folder)
    for what, folders in counts.items():
        shown = ", ".join(f"`{folder}`" for folder in folders[:6])
        more = f" and {len(folders) - 6} more" if len(folders) > 6 else ""
        items.append(f"{formats.plural(len(folders), what)}: {shown}{more}")
    done = results.num_jobs - len(results.problems)
    return [
        Callout(
            kind="warning",
            title=f"Incomplete: {done} of {results.num_jobs} jobs are done",
            items=[*items, _how_to_go_on(results)],
        )
    ]


def _how_to_go_on(results: Results) -> str:
    states = {problem.state for problem in results.problems}
    again = "Start the same command again to go on."
    if states & {"failed", "damaged"}:
        return f"Delete the folder of a failed or damaged job to redo it. {again}"
    return again


def verdict(results: Results) -> list[Block]:
    """The declared comparison in words, and nothing beyond its intervals."""
    config = results.config
    meaning = results.metrics().get(config.primary.metric)
    items = [plateau_sentence(results, arm.name) for arm in config.arms]
    items = [item for item in items if item]
    if meaning is None:
        items.append(f"There are no scores on `{config.primary.metric}` yet.")
    else:
        items += [
            verdict_sentence(results, item, meaning)
            for item in verdicts.primary(results)
        ]
        items += floor_sentences(results, config.primary.metric, meaning)
    title = "What one seed shows" if len(config.seeds) == 1 else "Verdict"
    return [Callout(kind="verdict", title=title, items=items)]


def plateau_sentence(results: Results, arm: str) -> str:
    """A warning about an arm that has learnt frequencies only, or ''."""
    learnt = verdicts.learning(results, arm)
    if learnt is None or not learnt.on_plateau:
        return ""
    return (
        f"**{common.label(results, arm)}** is still on its unigram plateau: its held-out loss of "
        f"{learnt.loss:.2f} nats is not clearly below what the frequencies of its targets "
        f"give ({learnt.content_unigram:.2f} with markers for free). At this budget it is "
        f"not testable, and nothing is claimed for or against it."
    )


def verdict_sentence(
    results: Results, verdict: verdicts.Verdict, meaning: Metric
) -> str:
    """One arm against the reference."""
    arm, reference = (
        common.label(results, verdict.arm),
        common.label(results, verdict.reference),
    )
    what = f"{verdict.metric.partition('/')[0]} ({meaning.label})"
    compared = verdict.compared
    if verdict.outcome == "plateau":
        reason = "not testable at this budget"
        if not verdicts.comparable(results, meaning, verdict.arm, verdict.reference):
            reason = "not comparable across architectures"
        return f"**{arm}** against **{reference}** on {what}: {reason}."
    if compared is None:
        return f"**{arm}** against **{reference}** on {what}: no scores of both yet."
    unit = formats.points(meaning)
    shown = formats.difference(compared, meaning)
    seeds = common.seeds(results, compared.num_seeds)
    if verdict.outcome == "untested":
        return (
            f"**{arm}** minus **{reference}** on {what}: {shown} {unit}, {seeds}. "
            f"There is no test ({compared.method}): other seeds may turn this around."
        )
    level = f"{1 - results.config.statistics.alpha:.0%}"
    factor, places = formats.scale(meaning), formats.digits(meaning)
    evidence = (
        f"{shown} {unit} ({level} interval, {seeds}, {compared.method}, corrected "
        f"p {_equals(formats.p_value(verdict.adjusted_p))})"
    )
    if verdict.outcome == "tie":
        assert compared.detectable is not None
        smallest = formats.number(factor * compared.detectable, places)
        alone = ""
        if compared.excludes_zero:
            alone = (
                " The interval alone excludes 0; the correction does not let it count."
            )
        return (
            f"**No difference shown** between **{arm}** and **{reference}** on {what}: "
            f"{evidence}.{alone} At this spread only differences of {smallest} {unit} or "
            f"more would be found {results.config.statistics.power:.0%} of the time."
        )
    word = "better" if verdict.outcome == "win" else "worse"
    return f"**{arm}** is {word} than **{reference}** on {what}: {evidence}."


def _equals(text: str) -> str:
    return text if text.startswith("<") else f"= {text}"


def floor_sentences(results: Results, metric: str, meaning: Metric) -> list[str]:
    """Each arm against its own random initialisation."""
    sentences = []
    for arm in results.config.arms:
        learnt = verdicts.learning(results, arm.name)
        compared = verdicts.above_floor(results, metric, arm.name)
        if compared is None or (learnt is not None and learnt.on_plateau):
            continue
        shown = formats.difference(compared, meaning)
        tested = "uncorrected" if compared.tested else compared.method
        sentences.append(
            f"**{arm.label}** minus its own random initialisation: {shown} "
            f"{formats.points(meaning)} "
            f"({common.seeds(results, compared.num_seeds)}, {tested})."
        )
    return sentences


def overview(results: Results) -> list[Block]:
    """One line per arm: what it is, what it learnt, what it scores."""
    config = results.config
    metric = config.primary.metric
    meaning = results.metrics().get(metric)
    rows = []
    for arm in config.arms:
        model, objective = arm.config["model"], arm.config["objective"]
        learnt = verdicts.learning(results, arm.name)
        runs = results.finished_runs(arm.name)
        row = [
            f"**{arm.label}**",
            " + ".join(objective["name"]),
            model["architecture"].replace("_", "-"),
            formats.large(runs[0].summary["num_params"]) if runs else formats.DASH,
        ]
        if learnt is None:
            row += [formats.DASH] * 3
        else:
            note = " (plateau)" if learnt.on_plateau else ""
            row += [
                formats.number(learnt.loss, 3),
                formats.number(learnt.unigram, 3),
                f"{formats.number(learnt.margin, 3)}{note}",
            ]
        row.append(common.score_cell(results, metric, arm.name, 1.0, meaning))
        row.append(common.score_cell(results, metric, arm.name, None, meaning))
        rows.append(row)
    score = (
        "score" if meaning is None else f"{metric.partition('/')[0]} {meaning.label}"
    )
    unit = "" if meaning is None else f" ({meaning.unit})"
    chance = results.floor_value(metric)
    above = ""
    if meaning is not None and chance is not None:
        value = formats.number(formats.scale(meaning) * chance, formats.digits(meaning))
        above = f" {meaning.floor_label.capitalize()}: {value}."
    return [
        Table(
            columns=[
                "arm",
                "objective",
                "architecture",
                "parameters",
                "held-out loss",
                "unigram entropy",
                "margin",
                f"{score}{unit}",
                "its floor",
            ],
            rows=rows,
            aligns="lllrrrrrr",
            caption=(
                "Losses in nats per target, means over seeds; the unigram entropy is that "
                "of the arm's own held-out targets, and losses of different objectives "
                "are not comparable. The floor is the same evaluation from random "
                f"initialisation.{above}{common.interval_note(results)}"
            ),
        )
    ]
