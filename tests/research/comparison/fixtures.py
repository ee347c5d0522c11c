"""Small comparisons, and workdirs filled with results that nobody trained for."""

import json
import pathlib

import ml_collections
import numpy as np

from experiments import base, comparison_base, presets
from research.comparison import config as config_lib
from research.comparison import jobs, outcomes, results
from research.comparison.config import ComparisonConfig
from research.comparison.jobs import Job
from research.evaluation.interface import CHANCE, Result

ARMS = {
    "causal_lm": ("Causal LM", "decoder"),
    "masked_lm": ("Masked LM", "encoder"),
    "span_corruption": ("Span corruption", "encoder_decoder"),
}
UNIGRAM = 6.0
SCORES = {"causal_lm": 0.6, "masked_lm": 0.8, "span_corruption": 0.8}
SPEND = {
    "num_steps": 100,
    "tokens": 2e5,
    "targets": 2e5,
    "flops": 1e12,
    "seconds": 60.0,
    "tokens_per_second": 3e3,
    "num_params": 6e5,
    "peak_memory_bytes": 1e9,
    "utilisation": 0.4,
    "text": {"num_documents": 1234, "num_bytes": 10_900_000, "digest": "0f1e2d3c"},
}


def comparison(arms=ARMS, seeds=(0, 1, 2), **changes) -> ml_collections.ConfigDict:
    """A comparison of tiny models judged by acceptability."""
    config = comparison_base.get_config()
    config.shared.model.update(presets.SIZES["tiny"], max_seq_len=64)
    config.shared.data.row_length = 32
    for name in arms:
        label, architecture = ARMS[name]
        run = base.get_config()
        run.model.architecture = architecture
        run.objective = presets.objective(name)
        comparison_base.add_arm(config, name, label=label, experiment=name, run=run)
    config.seeds = seeds
    config.evaluations.acceptability = comparison_base.acceptability(
        num_train=20, num_test=10, seeds=(0,)
    )
    config.primary.update(metric="acceptability/accuracy", reference=next(iter(arms)))
    config.update_from_flattened_dict(changes)
    return config


def parsed(**settings) -> ComparisonConfig:
    """The same, checked."""
    return config_lib.parse(comparison(**settings))


def save_config(workdir: pathlib.Path, config: ComparisonConfig) -> None:
    """comparison.json, as the runner writes it."""
    raw = json.loads(json.dumps(config.raw))
    outcomes.write(workdir / results.COMPARISON_FILE, {"config": raw})


def fill(workdir: pathlib.Path, config: ComparisonConfig, **settings) -> None:
    """Finishes every job with made-up results."""
    save_config(workdir, config)
    for job in jobs.plan(config):
        finish(workdir, config, job, **settings)


def finish(
    workdir: pathlib.Path,
    config: ComparisonConfig,
    job: Job,
    *,
    losses: dict[str, float] | None = None,
    spread: float = 0.01,
) -> None:
    """Finishes one job with made-up results, the same every time."""
    folder = workdir / job.folder
    folder.mkdir(parents=True, exist_ok=True)
    values = made_up(folder, config, job, losses or {}, spread)
    outcomes.write(folder / outcomes.DONE, values)


def made_up(folder, config, job, losses, spread) -> dict:
    """What a job's done.json holds."""
    arm_number = list(ARMS).index(job.arm)
    rng = np.random.default_rng([job.seed or 0, arm_number, job.point is None])
    if job.kind == "rate":
        return {"device_seconds": 0.1}
    if job.kind == "evaluation":
        mean = 0.5 if job.point is None else SCORES[job.arm]
        score = mean + spread * rng.normal()
        return {
            "result": Result(
                scores={"accuracy": [score]},
                examples={},
                metrics={"accuracy": CHANCE},
                details={"first_paradigm": score},
                notes=["10 held-out sentences"],
                seconds=1.0,
            ).to_json()
        }
    loss = losses.get(job.arm, 4.0) + 0.01 * rng.normal()
    if job.learning_rate is not None:
        loss += abs(np.log10(job.learning_rate / 1e-3))
    lines = [
        {"step": 50 * i, "split": split, "loss": loss + 1.0 / i}
        for i in (1, 2)
        for split in ("train", "eval")
    ]
    text = "".join(json.dumps(line) + "\n" for line in lines)
    (folder / results.METRICS).write_text(text)
    arm = config.arm(job.arm)
    (folder / "config.json").write_text(json.dumps(arm.config))
    summary = {
        **SPEND,
        "heldout_loss": loss,
        "unigram_loss": UNIGRAM,
        "content_unigram_loss": UNIGRAM,
        "learning_rate": job.learning_rate or 1e-3,
        "environment": {"commit": "0123abc", "devices": "1 x cpu"},
    }
    return {"summary": summary, "metrics_sha256": results.metrics_digest(folder)}
