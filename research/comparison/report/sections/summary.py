"""The head of a report: what is missing, key figures, the verdict, one line per arm."""

from __future__ import annotations

from research.comparison import budgets
from research.comparison.findings import ArmFindings, Findings
from research.comparison.report import formats
from research.comparison.report.document import Block, Callout, Facts, Table
from research.comparison.report.sections import common
from research.comparison.verdicts import Verdict
from research.evaluation import markdown

_KINDS = {
    "rate": "rate",
    "trial": "tuning run",
    "run": "pretraining run",
    "evaluation": "evaluation",
}
# Folders named for each kind of job that is missing.
_MAX_FOLDERS = 6
_OBSTACLES = {
    "plateau": "not testable at this budget",
    "incomparable": "not comparable across architectures",
}


def facts(found: Findings) -> list[Block]:
    """The strip of key figures."""
    config = found.config
    items = [
        (str(len(config.arms)), "arms"),
        (str(len(config.seeds)), "pretraining seeds"),
        (
            formats.large(config.budget.amount),
            f"{budgets.AXES[config.budget.axis]} a run",
        ),
        (str(len(config.evaluations)), "evaluations"),
        (formats.duration(found.pretraining_seconds), "pretraining in all"),
    ]
    return [Facts(items=items)]


def state(found: Findings) -> list[Block]:
    """What is missing, failed or damaged; nothing if all is there."""
    if not found.problems:
        return []
    items = []
    absent: dict[str, list[str]] = {}
    for problem in found.problems:
        job = problem.job
        if problem.state in ("failed", "damaged"):
            words = markdown.escape(f"{job.description}. {problem.detail}")
            items.append(f"**{problem.state}**: {words}")
        else:
            kind = f"{problem.state} {_KINDS[job.kind]}"
            absent.setdefault(kind, []).append(f"`{job.folder}`")
    redo = ""
    if items:
        redo = "Delete the folder of a failed or damaged job to redo it. "
    for kind, folders in absent.items():
        rest = len(folders) - _MAX_FOLDERS
        more = f" and {rest} more" if rest > 0 else ""
        shown = ", ".join(folders[:_MAX_FOLDERS])
        items.append(f"{formats.plural(len(folders), kind)}: {shown}{more}")
    items.append(f"{redo}Start the same command again to go on.")
    done = found.num_jobs - len(found.problems)
    title = f"Incomplete: {done} of {found.num_jobs} jobs are done"
    return [Callout(kind="warning", title=title, items=items)]


def verdict(found: Findings) -> list[Block]:
    """The declared comparison in words, and nothing beyond its intervals."""
    metric = found.config.primary.metric
    one_seed = len(found.config.seeds) == 1
    items = [_one_seed(found)] if one_seed else []
    items += [_plateau(found, arm) for arm in found.arms.values() if _on_plateau(arm)]
    if metric not in found.metrics:
        items.append(f"There are no scores on {markdown.escape(metric)} yet.")
    else:
        items += [_verdict(found, verdict) for verdict in found.verdicts]
        items += [
            _above_floor(found, arm)
            for arm in found.arms.values()
            if arm.above_floor is not None and not _on_plateau(arm)
        ]
    title = "What one seed shows" if one_seed else "Verdict"
    return [Callout(kind="verdict", title=title, items=items)]


def _one_seed(found: Findings) -> str:
    (seed,) = found.config.seeds
    more = (seed, *(s for s in range(4) if s != seed))[:3]
    return (
        f"**No winner can be named with one seed**: another seed may turn any difference "
        f"around. Start the same command again with `--config.seeds='{more}'` to add two; "
        f"what is done is kept."
    )


def cautions(found: Findings) -> list[Block]:
    """What makes arms differ besides what is asked; nothing if nothing does."""
    items = []
    for name, arm in found.arms.items():
        label = f"**{common.label(found, name)}**"
        if arm.confounded:
            reference = common.label(found, found.config.primary.reference)
            things = ", ".join(f"`{thing}`" for thing in arm.confounded)
            items.append(
                f"{label} differs from **{reference}** in more than one thing: {things}. "
                f"No difference between them can be put down to one of these."
            )
        if arm.next_rate is not None:
            items.append(
                f"{label} did best with a learning rate at the edge of those tried, "
                f"{formats.short(arm.chosen_rate)}: a better one may lie beyond. Try "
                f"{arm.next_rate:.2g} as well."
            )
    title = "Read this before the verdict"
    return [Callout(kind="warning", title=title, items=items)] if items else []


def _on_plateau(arm: ArmFindings) -> bool:
    return arm.learning is not None and arm.learning.on_plateau


def _plateau(found: Findings, arm: ArmFindings) -> str:
    """A warning about an arm that has learnt token frequencies only."""
    learnt = arm.learning
    assert learnt is not None
    return (
        f"**{common.label(found, arm.name)}** is still on its unigram plateau: its "
        f"held-out loss of {learnt.loss:.2f} nats is not clearly below what the "
        f"frequencies of its targets give ({learnt.content_unigram:.2f} if special "
        f"tokens cost nothing). At this budget it is not testable, and nothing is "
        f"claimed for or against it."
    )


def _verdict(found: Findings, verdict: Verdict) -> str:
    """One arm against the reference."""
    arm = f"**{common.label(found, verdict.arm)}**"
    primary = found.config.primary
    reference = f"**{common.label(found, primary.reference)}**"
    metric = found.metrics[primary.metric]
    what = f"{formats.evaluation_of(primary.metric)} ({markdown.escape(metric.label)})"
    compared = verdict.compared
    if verdict.outcome in _OBSTACLES:
        return f"{arm} against {reference} on {what}: {_OBSTACLES[verdict.outcome]}."
    if compared is None:
        return f"{arm} against {reference} on {what}: no scores of both yet."
    unit = formats.unit_of_difference(metric)
    shown = f"{formats.difference(compared, metric)} {unit}"
    seeds = common.seeds(found, compared.num_seeds)
    if verdict.outcome == "untested":
        why = f" There is no verdict ({compared.method})."
        return (
            f"{arm} minus {reference} on {what}: {shown}, {seeds}."
            f"{why if len(found.config.seeds) > 1 else ''}"
        )
    settings = found.config.statistics
    p_value = formats.p_value(verdict.adjusted_p)
    equals = "" if p_value.startswith("<") else "= "
    evidence = (
        f"{shown} ({1 - settings.alpha:.0%} interval, {seeds}, {compared.method}, "
        f"corrected p {equals}{p_value})"
    )
    if verdict.outcome != "tie":
        word = "better" if verdict.outcome == "win" else "worse"
        return f"{arm} is {word} than {reference} on {what}: {evidence}."
    alone = ""
    if compared.excludes_zero:
        alone = " The interval alone excludes 0; the correction does not let it count."
    return (
        f"**No difference shown** between {arm} and {reference} on {what}: {evidence}."
        f"{alone} At this spread only differences of "
        f"{formats.score(compared.detectable, metric)} {unit} or more would be found "
        f"{settings.power:.0%} of the time."
    )


def _above_floor(found: Findings, arm: ArmFindings) -> str:
    """An arm against its own random initialisation."""
    compared = arm.above_floor
    assert compared is not None
    metric = found.metrics[found.config.primary.metric]
    tested = ", uncorrected" if compared.tested else f", {compared.method}"
    if len(found.config.seeds) == 1:
        tested = ""
    return (
        f"**{common.label(found, arm.name)}** minus its own random initialisation: "
        f"{formats.difference(compared, metric)} {formats.unit_of_difference(metric)} "
        f"({common.seeds(found, compared.num_seeds)}{tested})."
    )


def overview(found: Findings) -> list[Block]:
    """One line per arm: what it is, what it learnt, what it scores."""
    primary = found.config.primary.metric
    metric = found.metrics.get(primary)
    score, above = "score", ""
    if metric is not None:
        label = markdown.escape(common.axis_label(metric))
        score = f"{formats.evaluation_of(primary)} {label}"
        if metric.floor is not None:
            chance = formats.score(metric.floor, metric)
            above = f" {markdown.escape(metric.floor_label).capitalize()}: {chance}."
    columns = [
        "arm",
        "objective",
        "architecture",
        "parameters",
        "held-out loss",
        "unigram entropy",
        "margin",
        score,
        "its floor",
    ]
    caption = (
        f"Losses in nats per target, means over seeds; the unigram entropy is that of "
        f"the arm's own held-out targets, and losses of different objectives are not "
        f"comparable. The floor is the same evaluation from random initialisation."
        f"{above}{common.interval_note(found)}"
    )
    rows = [_overview_row(found, arm) for arm in found.arms.values()]
    return [Table(columns=columns, rows=rows, aligns="lllrrrrrr", caption=caption)]


def _overview_row(found: Findings, arm: ArmFindings) -> list[str]:
    primary = found.config.primary.metric
    learnt, losses = arm.learning, [formats.DASH] * 3
    if learnt is not None:
        losses = [
            formats.number(value, 3)
            for value in (learnt.loss, learnt.unigram, learnt.margin)
        ]
        if learnt.on_plateau:
            losses[-1] += " (plateau)"
    return [
        f"**{common.label(found, arm.name)}**",
        arm.objective,
        arm.architecture.replace("_", "-"),
        formats.large(arm.cost.num_params if arm.cost else None),
        *losses,
        common.score_cell(found, primary, arm.name, 1.0),
        common.score_cell(found, primary, arm.name, None),
    ]
