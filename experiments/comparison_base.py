"""Every field of a comparison, and how arms are added to it.

A comparison is a list of arms (whole run configs), the fields in which they may differ,
a budget, seeds and evaluations. `shared` holds what the arms share: an arm's fields
refer to it, so that ``--config.shared.train.batch_size=8`` changes all of them.
"""

import ml_collections

from experiments import base, glue, presets, squad


def get_config() -> ml_collections.ConfigDict:
    """A comparison without arms and evaluations."""
    shared = base.get_config()
    del shared.objective
    return ml_collections.ConfigDict(
        {
            "name": "comparison",
            "title": "Comparison of pretraining objectives",
            "shared": shared,
            # Arms and evaluations stand in reports in the order in which they are added.
            "arms": ml_collections.ConfigDict(sort_keys=False),
            # Fields or sections in which arms may differ; the rest must be equal.
            "varies": ("objective", "model.architecture"),
            "seeds": (0, 1, 2),  # pretraining seeds, the unit of all statistics
            "budget": {
                "axis": "tokens",  # or 'flops', 'device_seconds', 'steps'
                "amount": 1e6,  # per run
                "warmup_fraction": 0.06,
                "num_evals": 8,
                "num_logs": 100,
                "num_checkpoints": 4,
            },
            # Shares of the budget at which the arms are evaluated.
            "points": (1.0,),
            "tuning": {
                # The same learning rates for every arm; () = none are tried.
                "learning_rates": (),
                "seeds": (1000,),  # of their own: never among `seeds`
                "budget_fraction": 1.0,  # of the budget, for each trial
            },
            # name -> settings; see research/evaluation/table.py
            "evaluations": ml_collections.ConfigDict(sort_keys=False),
            "primary": {
                "metric": "",  # 'evaluation/metric', declared before the runs
                "reference": "",  # the arm that the others are compared with
            },
            "statistics": {
                "alpha": 0.05,
                "power": 0.8,
                "examples": "fixed",  # or 'sampled' (from 20 seeds)
            },
            # name -> published difference to measure again; see `contrast`
            "contrasts": {},
            "floor": True,  # evaluate every arm from random initialisation as well
        }
    )


def acceptability(*, num_train: int, num_test: int, seeds: tuple, **overrides) -> dict:
    """Held-out sentences against shuffled copies; `overrides` are of fine-tuning."""
    return {
        "kind": "acceptability",
        "sampling": {
            "num_train": num_train,
            "num_test": num_test,
            "min_words": 5,
            "max_words": 20,
            "seed": 0,
        },
        "finetune": presets.finetune(**overrides),
        "seeds": seeds,  # of fine-tuning
    }


def blimp(source: str, *, pairs_per_paradigm: int = 100) -> dict:
    """Minimal pairs, from a folder of the official files or 'tfds:blimp'; 0 = all."""
    return {
        "kind": "blimp",
        "source": source,
        "pairs_per_paradigm": pairs_per_paradigm,
    }


def probe() -> dict:
    """The same held-out question for all arms of an architecture."""
    return {
        "kind": "probe",
        "num_batches": 16,
        "batch_size": 32,
        "objectives": {
            "encoder": presets.objective(
                "masked_lm",
                masked_lm={"noise_density": 0.15, "mask_prob": 1.0, "random_prob": 0.0},
            ),
            "decoder": presets.objective("causal_lm"),
            "encoder_decoder": presets.objective("span_corruption"),
        },
    }


def glue_tasks(source: str, tasks: tuple, **overrides) -> dict:
    """GLUE tasks by a protocol; `overrides` as in experiments/glue.py."""
    settings = glue.get_config()
    # Arms are compared on the dev set, so a share of train selects.
    settings.update(source=source, floor_seeds=0, submission=False, selection_share=0.1)
    settings.update(overrides)
    return {"kind": "glue", "tasks": tasks, "glue": settings}


def squad_questions(train_file: str, dev_file: str, **overrides) -> dict:
    """SQuAD; `overrides` as in experiments/squad.py."""
    settings = squad.get_config()
    settings.update(train_file=train_file, dev_file=dev_file, floor_seeds=0)
    settings.update(overrides)
    return {"kind": "squad", "squad": settings}


def contrast(
    arm: str, reference: str, metric: str, *, published: float, of: str, source: str
) -> dict:
    """A published difference: `arm` minus `reference` in points `of` a metric.

    `metric` is what stands for it here; reference 'random_init' is no pretraining.
    """
    return {
        "arm": arm,
        "reference": reference,
        "metric": metric,
        "published": published,
        "published_metric": of,
        "source": source,
    }


def add_arm(
    config: ml_collections.ConfigDict,
    name: str,
    *,
    label: str,
    experiment: str,
    run: ml_collections.ConfigDict,
    **overrides,
) -> None:
    """Adds an arm that starts from the config `run` of the experiment `experiment`.

    Fields of `config.shared` replace the experiment's, except its objective and
    architecture; `overrides` (sections of a run's config) are the arm's own. A model of
    another backbone has that backbone's fields, and shares those that both have.
    """
    own = {section: dict(values) for section, values in overrides.items()}
    own.setdefault("model", {})["architecture"] = run.model.architecture
    arm = _referring(config.shared, own)
    if run.model.backbone != config.shared.model.backbone:
        model = run.model.copy_and_resolve_references()
        for field in model:
            if field in own["model"]:
                model[field] = own["model"][field]
            elif field in config.shared.model and field != "backbone":
                model[field] = config.shared.model.get_oneway_ref(field)
        arm.model = model
    arm.objective = run.objective
    config.arms[name] = {
        "label": label,
        "experiment": experiment,
        "base": run.copy_and_resolve_references(),
        "config": arm,
    }


def _referring(
    shared: ml_collections.ConfigDict, own: dict
) -> ml_collections.ConfigDict:
    """A config whose fields refer to `shared` wherever `own` says nothing."""
    unknown = set(own) - set(shared)
    if unknown:
        raise ValueError(
            f"{sorted(unknown)} are no fields of a run; it has {list(shared)}."
        )
    result = ml_collections.ConfigDict()
    for key in shared:
        if isinstance(shared[key], ml_collections.ConfigDict):
            result[key] = _referring(shared[key], own.get(key, {}))
        else:
            result[key] = own[key] if key in own else shared.get_oneway_ref(key)
    return result
