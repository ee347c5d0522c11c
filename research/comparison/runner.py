"""Does the jobs of a comparison, alone or together with other processes.

Any number of processes may run this over one workdir: each takes the first job that can
be done and that no other process is doing. Finished jobs are never done again,
interrupted ones go on where they stopped, failed ones are tried once more.
"""

from __future__ import annotations

import json
import pathlib
import time
from collections.abc import Callable
from typing import Any

from research.comparison import config as config_lib
from research.comparison import jobs, outcomes, pretraining, results
from research.comparison.claims import Claims
from research.comparison.config import ComparisonConfig
from research.comparison.jobs import Job
from research.comparison.pretraining import Stopped
from research.comparison.report import build
from research.comparison.view import View
from research.config import kinds
from research.config import parse as run_config
from research.errors import UserError, nearest
from research.evaluation import table
from research.machine import compilation_cache, host_memory, provenance
from research.training import trained_run
from research.training import workdir as workdir_lib

# Time between looks at whether other processes have finished what a job needs.
_POLL_SECONDS = 2.0


def run(config: Any, workdir: pathlib.Path) -> int:
    """Does all jobs that are left, and writes the report.

    Args:
      config: of the comparison, as its experiment gives it.
      workdir: its folder.

    Returns:
      The exit code: 0 when all is done, 1 if jobs failed for good, else that of the
      signal that stopped it.

    Raises:
      UserError: before any work, for a config that cannot be run, or a workdir of another
        comparison or with damaged results.
    """
    compilation_cache.enable()
    parsed = config_lib.parse(config)
    check_evaluations(parsed)
    _create(workdir)
    adopt(parsed, workdir)
    check_results(workdir)
    check_data(parsed, workdir)
    pretraining.check_budget(parsed)
    claims = Claims()
    exit_code = 0
    with View(parsed, workdir) as view:
        try:
            _work(parsed, workdir, claims, view)
        except Stopped as stopped:
            exit_code = stopped.exit_code
        finally:
            claims.close()
    found = build.build(workdir)
    print(build.closing(found, workdir), flush=True)
    has_failed = any(
        problem.state in ("failed", "damaged") for problem in found.problems
    )
    return exit_code or int(has_failed)


def _create(workdir: pathlib.Path) -> None:
    try:
        workdir.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(
            f"workdir {workdir} cannot be written: {error.strerror}. Choose another."
        ) from error


def check_evaluations(config: ComparisonConfig) -> None:
    """Refuses evaluations that do not exist, or that an arm cannot do.

    Raises:
      UserError: naming evaluation, arm and reason; or a metric that no evaluation has.
    """
    metrics = []
    for name, settings in config.evaluations.items():
        evaluation = table.create(name, settings)
        metrics += [f"{name}/{metric}" for metric in evaluation.metric_names()]
        for arm in config.arms:
            reason = evaluation.refusal(run_config.parse(arm.config))
            if reason:
                raise UserError(
                    f"config.evaluations.{name} cannot judge the arm {arm.name!r}: "
                    f"{reason}"
                )
    named = {"config.primary.metric": config.primary.metric}
    named |= {
        f"config.contrasts.{name}.metric": contrast.metric
        for name, contrast in config.contrasts.items()
    }
    for field, metric in named.items():
        if metric not in metrics:
            raise UserError(
                f"{field} = {metric!r}: no metric of config.evaluations."
                f"{nearest(metric, metrics)} Valid: {', '.join(metrics) or 'none yet'}."
            )


def check_results(workdir: pathlib.Path) -> None:
    """Refuses damaged results before anything is built on them.

    Raises:
      UserError: naming every one, and what to delete.
    """
    damaged = [
        f"  {problem.detail}"
        for problem in results.load(workdir).problems
        if problem.state == "damaged"
    ]
    if damaged:
        listed = "\n".join(damaged)
        raise UserError(f"workdir {workdir} holds results that are damaged:\n{listed}")


def check_data(config: ComparisonConfig, workdir: pathlib.Path) -> None:
    """Reads the data of the evaluations that are left, before anything is trained.

    Raises:
      UserError: if some of it is missing or damaged.
    """
    left = {
        job.evaluation
        for job in jobs.plan(config)
        if job.evaluation and not outcomes.is_done(workdir / job.folder)
    }
    for name in sorted(left):
        evaluation = table.create(name, config.evaluations[name])
        for arm in config.arms:
            evaluation.check_data(run_config.parse(arm.config))


def adopt(config: ComparisonConfig, workdir: pathlib.Path) -> None:
    """Writes the comparison's config, or checks that the workdir holds the same one.

    Seeds and evaluations may be added to a comparison; anything else is another one.

    Raises:
      UserError: if the workdir holds another comparison, naming what differs.
    """
    path = workdir / results.COMPARISON_FILE
    raw = json.loads(json.dumps(config.raw))
    if path.exists():
        saved = results.load_config(workdir)
        _check_same(config, saved, workdir)
        if saved.raw == config.raw:
            return
    workdir_lib.check_kind(workdir, kinds.COMPARISON)
    outcomes.write(path, {"config": raw})


def _check_same(
    config: ComparisonConfig, saved: ComparisonConfig, workdir: pathlib.Path
) -> None:
    differing = run_config.differing_fields(saved.raw, config.raw)
    refused = []
    for field, (old, new) in differing.items():
        if field == "seeds" and set(old) <= set(new):
            continue
        if field.startswith("evaluations.") and old is None:
            continue
        refused.append(f"  config.{field}: {old!r} there, {new!r} now")
    if refused:
        listed = "\n".join(refused[:20])
        more = f"\n  and {len(refused) - 20} more" if len(refused) > 20 else ""
        raise UserError(
            f"workdir {workdir} holds another comparison"
            f"{workdir_lib.written_by(workdir)}:\n{listed}{more}\n"
            f"Choose another workdir. Only seeds and evaluations may be added."
        )


def _work(
    config: ComparisonConfig, workdir: pathlib.Path, claims: Claims, view: View
) -> None:
    plan = jobs.plan(config)
    while True:
        left = [job for job in plan if not _ended(workdir / job.folder)]
        blocked = _blocked(plan, workdir)
        possible = [job for job in left if job.folder not in blocked]
        if not possible:
            return
        if not any(_try(job, config, workdir, claims, view) for job in possible):
            view.waiting()
            time.sleep(_POLL_SECONDS)


def _ended(folder: pathlib.Path) -> bool:
    return outcomes.is_done(folder) or outcomes.has_failed(folder)


def _blocked(plan: list[Job], workdir: pathlib.Path) -> set[str]:
    """Jobs that need one that has failed for good, directly or through others."""
    blocked: set[str] = set()
    for job in plan:  # which lists a job after those that it needs
        needs = job.needs
        if job.kind == "run":
            # A failed trial does not stop a run: its learning rate is not chosen.
            needs = tuple(need for need in needs if not need.startswith("tuning/"))
        if any(n in blocked or outcomes.has_failed(workdir / n) for n in needs):
            blocked.add(job.folder)
    return blocked


def _try(
    job: Job,
    config: ComparisonConfig,
    workdir: pathlib.Path,
    claims: Claims,
    view: View,
) -> bool:
    """Does a job that is ready and not another process's; returns whether it did."""
    folder = workdir / job.folder
    if not all(_ended(workdir / need) for need in job.needs):
        return False
    if not claims.acquire(folder):
        return False
    try:
        if _ended(folder):
            return True
        view.begin(job)
        started = time.monotonic()
        value = EXECUTE[job.kind](config, job, workdir, view.say)
        if not claims.holds(folder):
            # Another machine took this process for dead, and does the job again.
            view.end(job, "taken over by another process")
            return True
        seconds = time.monotonic() - started
        outcomes.write(folder / outcomes.DONE, {**value, "task_seconds": seconds})
        view.end(job, "")
    except workdir_lib.InUseError as error:
        # In use by the last holder, which lives: only its heartbeat had stalled.
        claims.leave_alone(folder)
        view.end(job, f"left to another process: {error}")
        return False
    except Exception as error:  # noqa: BLE001 - whatever it is, it is recorded
        outcomes.write_failure(folder, error)
        view.end(job, f"failed: {type(error).__name__}: {error}")
    finally:
        claims.release(folder)
        # The next job has arrays of other shapes, and cannot use this one's memory.
        host_memory.give_back()
    return True


Execute = Callable[
    [ComparisonConfig, Job, pathlib.Path, Callable[[str], None]], dict[str, Any]
]


def _rate(config, job, workdir, say) -> dict[str, Any]:
    del workdir, say
    return pretraining.measure_rate(config.arm(job.arm))


def _evaluate(config, job, workdir, say) -> dict[str, Any]:
    run_folder, step = pretraining.point_folder(config, job, workdir)
    trained = trained_run.load(run_folder, str(step))
    if job.point is None:
        trained = trained_run.random_init(trained, job.seed)
    evaluation = table.create(job.evaluation, config.evaluations[job.evaluation])
    result = evaluation.run(trained, workdir / job.folder, say)
    return {
        "result": result.to_json(),
        "step": trained.step,
        "environment": provenance.provenance(),
    }


EXECUTE: dict[str, Execute] = {
    "rate": _rate,
    "trial": pretraining.run,
    "run": pretraining.run,
    "evaluation": _evaluate,
}
