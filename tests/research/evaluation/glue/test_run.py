"""A whole evaluation: searches, floors, MNLI first, tables, skipping, submissions."""

import dataclasses
import json

import numpy as np
import pytest

from experiments import glue as experiment
from research.errors import UserError
from research.evaluation.finetuning import fits as fits_lib
from research.evaluation.finetuning.data import Split
from research.evaluation.finetuning.fits import PRETRAINED, RANDOM
from research.evaluation.glue import config as config_lib
from research.evaluation.glue import protocols, submission, summary, tables
from research.evaluation.glue import run as run_lib
from research.evaluation.glue.evaluate import write_submission
from research.evaluation.glue.run import GlueFits, GlueRow, prepare
from research.evaluation.glue.sources import Source, check_trainable, skipped
from research.evaluation.glue.tasks import DIAGNOSTIC, TASKS
from research.machine.run_store import RunStore
from tests.research.evaluation import toy
from tests.research.evaluation.toy import word_task


def config(**changes):
    """Two seeds, two rates, one epoch."""
    section = experiment.get_config()
    finetune = dict(num_epochs=1, max_length=32, bucket_lengths=(), dropout_rate=0.0)
    section.finetune.update({**finetune, **changes.pop("finetune", {})})
    values = dict(protocol="mosaic", seeds=(0, 1), learning_rates=(1e-3, 1e-2))
    section.update({**values, "batch_sizes": (16,), **changes})
    return config_lib.parse(section)


def source_of(*names, rows=48):
    tasks = {name: word_task(TASKS[name], rows=rows) for name in names}
    if "mnli" in names:
        ax = Split(tuple(("w1 good", "w2") for _ in range(5)), None)
        tasks["ax"] = dataclasses.replace(
            word_task(DIAGNOSTIC, rows=4), splits={"test": ax}
        )
    return Source("toy data", tasks, {"qqp": "QQP: no files in X"})


@pytest.fixture
def random_init(monkeypatch):
    """The toy's floor: another random backbone."""
    made = []

    def make(trained, seed):
        made.append(seed)
        fresh = toy.backbone("encoder", seed=100 + seed)
        return dataclasses.replace(trained, params=fresh.params)

    monkeypatch.setattr(fits_lib.trained_run, "random_init", make)
    return made


def evaluation(workdir, given, source, said=None):
    workdir.mkdir(exist_ok=True)
    return GlueFits(
        config=given,
        source=source,
        checkpoint="runs/toy",
        trained=toy.backbone("encoder"),
        store=RunStore(workdir, GlueRow),
        say=(said if said is not None else []).append,
    )


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """MNLI and RTE under the mosaic protocol, and everything it wrote."""
    patch = pytest.MonkeyPatch()
    patch.setattr(
        fits_lib.trained_run,
        "random_init",
        lambda trained, seed: dataclasses.replace(
            trained, params=toy.backbone("encoder", seed=100 + seed).params
        ),
    )
    workdir = tmp_path_factory.mktemp("glue")
    said: list[str] = []
    made = evaluation(workdir, config(), source_of("rte", "mnli"), said)
    rows = made.run()
    patch.undo()
    return made, rows, said


def test_every_run_is_there_once(whole):
    made, rows, said = whole
    # Two rates with the first seed, the better one with the second; one floor seed.
    assert {key: len(found) for key, found in rows.items()} == {
        ("mnli", PRETRAINED): 3,
        ("mnli", RANDOM): 2,
        ("rte", PRETRAINED): 3,
        ("rte", RANDOM): 2,
    }
    lines = made.store.path.read_text().splitlines()
    assert len(lines) == len(said) == 10
    for line in lines:
        row = json.loads(line)
        for field in ("protocol", "selection", "seed", "mnli_init", "checkpoint"):
            assert field in row
        assert row["source"] == "toy data" and row["settings"]["num_epochs"] == 1
        assert row["mnli_init"] == (row["task"] == "rte")


def test_the_second_seed_uses_the_better_rate(whole):
    _, rows, _ = whole
    first, second, other_seed = rows["mnli", PRETRAINED]
    assert {first.seed, second.seed} == {0} and other_seed.seed == 1
    better = max((first, second), key=lambda row: row.selection_score)
    assert other_seed.grid_point == better.grid_point
    found = summary.summarise(TASKS["mnli"], rows["mnli", PRETRAINED])
    assert found.rows == (better, other_seed)


def test_a_second_start_runs_nothing(whole, monkeypatch):
    made, rows, _ = whole

    def never(*args, **kwargs):
        raise AssertionError("a finished run ran again")

    monkeypatch.setattr(run_lib.finetune_lib, "finetune", never)
    monkeypatch.setattr(fits_lib.trained_run, "random_init", never)
    # One result line that a kill cut off does no harm.
    path = made.store.workdir / "copy"
    path.mkdir()
    text = made.store.path.read_text()
    (path / "results.jsonl").write_text(text + text.splitlines()[0][:80])
    for folder in ("mnli", "predictions"):
        (path / folder).symlink_to(made.store.workdir / folder)
    again = evaluation(path, made.config, made.source).run()

    def plain(found):
        return {
            key: [json.dumps(dataclasses.asdict(row)) for row in group]
            for key, group in found.items()
        }

    assert plain(again) == plain(rows)


def test_other_settings_are_other_runs(whole, monkeypatch):
    made, _, _ = whole
    asked = []

    class Enough(Exception):
        pass

    def note(trained, data, settings, **kwargs):
        asked.append(settings)
        raise Enough

    monkeypatch.setattr(run_lib.finetune_lib, "finetune", note)
    changed = config(finetune=dict(weight_decay=0.5))
    again = dataclasses.replace(made, config=changed)
    with pytest.raises(Enough):
        again.run()
    assert asked[0].weight_decay == 0.5


def test_the_table_says_everything(whole):
    made, rows, _ = whole
    text = tables.write(made, rows, skipped(made.source))
    for needed in (
        "mosaic (Portes et al. 2023",
        "changed from the protocol: seeds = (0, 1)",
        "| task | split | metric | majority | random init | mean | sd | median | seeds",
        "| MNLI | dev_matched | acc |",
        "| MNLI | dev_mismatched | acc |",
        "**Average of 2:",
        "MNLI (acc, mean of dev_matched and dev_mismatched), RTE (acc)",
        "The protocol's average also has CoLA, SST-2, MRPC",
        "QQP: no files in X",
        "selection (MNLI): best of 2 rates and batch sizes by accuracy on dev_matched",
        "selection (RTE): ",
    ):
        assert needed in text, needed
    rte = next(line for line in text.splitlines() if line.startswith("| RTE | dev |"))
    assert rte.split(" | ")[-2] == "yes"


def test_submission_files(whole):
    made, rows, _ = whole
    lacking = write_submission(made, rows)
    folder = made.store.workdir / "submission"
    assert sorted(path.name for path in folder.iterdir()) == [
        "AX.tsv",
        "MNLI-m.tsv",
        "MNLI-mm.tsv",
        "RTE.tsv",
    ]
    lines = (folder / "MNLI-m.tsv").read_text().split("\n")
    assert lines[0] == "index\tprediction" and lines[-1] == "" and len(lines) == 14
    index, label = lines[1].split("\t")
    assert index == "0" and label in TASKS["mnli"].labels
    assert len((folder / "AX.tsv").read_text().splitlines()) == 6
    assert "CoLA.tsv" in lacking[0] and "RTE.tsv" not in lacking[0]


def test_submission_formats():
    scores = submission.lines(TASKS["stsb"], np.array([-0.2, 2.34567, 5.5]))
    assert scores == ["index\tprediction", "0\t0.000", "1\t2.346", "2\t5.000"]
    labels = submission.lines(TASKS["qnli"], np.array([0, 1, 2]))
    # A text that is no label (2) becomes the first one.
    assert labels[1:] == ["0\tentailment", "1\tnot_entailment", "2\tentailment"]
    wanted = {"CoLA.tsv", "SST-2.tsv", "MRPC.tsv", "STS-B.tsv", "QQP.tsv", "MNLI-m.tsv"}
    wanted |= {"MNLI-mm.tsv", "QNLI.tsv", "RTE.tsv", "WNLI.tsv", "AX.tsv"}
    files = [f for t in (*TASKS.values(), DIAGNOSTIC) for f in t.submission.values()]
    assert set(files) == wanted and len(files) == 11


def test_selection_share_leaves_dev_alone(tmp_path, random_init):
    given = config(
        protocol="bert", selection_share=0.25, floor_seeds=0, learning_rates=(1e-3,)
    )
    source = source_of("sst2")
    data = prepare(source.tasks["sst2"], given, source)
    assert len(data.splits["train"]) == 36 and len(data.splits["selection"]) == 12
    rows = evaluation(tmp_path / "w", given, source).run()
    row = rows["sst2", PRETRAINED][0]
    assert row.selection_split == "selection" and row.train_rows == 36
    assert set(row.scores) == {"dev", "selection"}


def test_a_limit_on_train_rows_is_said(tmp_path):
    given = config(protocol="bert", train_limit=20, seeds=(0,), learning_rates=(1e-3,))
    source = source_of("sst2")
    train = prepare(source.tasks["sst2"], given, source).splits["train"]
    assert len(train) == 20
    assert (
        train.texts
        == prepare(source.tasks["sst2"], given, source).splits["train"].texts
    )
    made = evaluation(tmp_path / "w", dataclasses.replace(given, floor_seeds=0), source)
    rows = made.run()
    (row,) = rows["sst2", PRETRAINED]
    assert row.train_rows == 20 and row.config["train_limit"] == 20
    text = tables.write(made, rows, [])
    assert "20 of 48 |" in text and "train_limit = 20" in text
    # The smaller of the protocol's and the config's.
    babylm = config(protocol="babylm", train_limit=20_000)
    limits = {name: babylm.task_limit(TASKS[name]) for name in ("mnli", "rte")}
    assert limits == {"mnli": 10_000, "rte": 20_000}
    assert config().task_limit(TASKS["mnli"]) is None


def test_checkpoints_of_one_shape_share_their_floor(whole):
    """A floor run is not repeated for another checkpoint in the same workdir."""
    made, _, _ = whole
    other = dataclasses.replace(made, trained=toy.backbone("encoder", seed=9))
    data = prepare(made.source.tasks["rte"], made.config, made.source)

    def key(one, init):
        settings = one.config.settings(data.task, (1e-3, 16))
        return one.key(data, init, "", 0, settings)

    assert key(made, RANDOM) == key(other, RANDOM)
    assert key(made, PRETRAINED) != key(other, PRETRAINED)
    wider = dataclasses.replace(made, trained=toy.backbone("encoder", emb_dim=32))
    assert key(made, RANDOM) != key(wider, RANDOM)


def test_protocols_prepare_their_data():
    electra = config(protocol="electra")
    source = source_of("mrpc", "qqp")
    assert len(prepare(source.tasks["mrpc"], electra, source).splits["train"]) == 96
    assert len(prepare(source.tasks["qqp"], electra, source).splits["train"]) == 48
    babylm = dataclasses.replace(protocols.get("babylm"), train_limit={"qqp": 10})
    given = config(protocol="babylm")
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(protocols.PROTOCOLS, "babylm", babylm)
        assert len(prepare(source.tasks["qqp"], given, source).splits["train"]) == 10


def test_failed_runs_are_counted(whole):
    _, rows, _ = whole
    row = rows["rte", PRETRAINED][0]
    failed = dataclasses.replace(row, failed="constant predictions", seed=5)
    found = summary.summarise(TASKS["rte"], [row, failed])
    assert found.num_failed == bool(row.failed) + 1


def test_many_failed_runs_are_explained(whole):
    made, rows, _ = whole
    advice = "need higher ones, such as --config.learning_rates"

    def with_failed(failed):
        changed = {
            key: [dataclasses.replace(row, failed=failed) for row in found]
            for key, found in rows.items()
        }
        return tables.write(made, changed, [])

    num_runs = sum(
        len(found) for (_, init), found in rows.items() if init == PRETRAINED
    )
    text = with_failed("constant predictions")
    assert f"{num_runs} of {num_runs} runs failed" in text and advice in text
    assert "0.001, 0.01" in text
    assert advice not in with_failed("")


def test_averages_are_means_of_the_statistic(whole):
    _, rows, _ = whole
    row = rows["rte", PRETRAINED][0]

    def summary_of(task, metric, values):
        copies = tuple(
            dataclasses.replace(row, seed=i, scores={split: {metric: value}})
            for i, value in enumerate(values)
            for split in ["dev"]
        )
        return summary.Summary(task=TASKS[task], rows=copies)

    summaries = [
        summary_of("rte", "accuracy", [0.5, 0.6, 1.0]),
        summary_of("cola", "matthews", [0.0, 0.2, 0.1]),
        summary_of("wnli", "accuracy", [1.0, 1.0, 1.0]),
    ]
    mean = summary.average(protocols.get("bert"), summaries)
    assert mean.members == ("rte", "cola")  # WNLI is not in BERT's average.
    assert mean.value == pytest.approx((0.7 + 0.1) / 2)
    assert mean.deviation == pytest.approx(np.std([0.25, 0.4, 0.55], ddof=1))
    median = summary.average(protocols.get("roberta"), summaries)
    assert median.value == pytest.approx((0.6 + 0.1) / 2)
    assert summary.average(protocols.get("turc"), summaries).members[-1] == "wnli"
    assert summary.average(protocols.get("babylm"), summaries[1:]) is None


@pytest.mark.parametrize("name", protocols.PROTOCOLS)
def test_every_protocol_gives_settings_for_every_task(name):
    given = config(
        protocol=name,
        seeds=(),
        learning_rates=(),
        batch_sizes=(),
        finetune=dict(num_epochs=None, max_length=None, dropout_rate=None),
    )
    for task in TASKS.values():
        metric = given.rules.metric(task)
        assert metric in task.metrics
        assert given.task_seeds(task, PRETRAINED) and given.grid(task)
        for rate, size in given.grid(task):
            found = given.settings(task, (rate, size))
            assert found.selection_metric in (*task.metrics, "loss")
    assert set(given.rules.average) <= set(TASKS)


def test_protocol_values():
    """The values that tell protocols apart, as their sources have them."""

    def of(name, task="cola"):
        rules = protocols.get(name)
        given = config_lib.parse(experiment.get_config()).finetune
        rate = rules.for_task(TASKS[task], "learning_rates")[0]
        size = rules.for_task(TASKS[task], "batch_sizes")[0]
        return protocols.settings(
            rules, TASKS[task], given, learning_rate=rate, batch_size=size
        )

    assert protocols.get("bert").learning_rates == (5e-5, 4e-5, 3e-5, 2e-5)
    assert of("bert").num_epochs == 3 and of("bert").max_length == 128
    assert of("roberta").weight_decay == 0.1 and of("roberta").selection == "best"
    assert of("roberta").selection_metric == "accuracy"
    assert of("roberta", "stsb").selection_metric == "loss"
    assert of("roberta", "qqp").warmup_fraction == 0.25
    assert of("electra").layer_decay == 0.8 and of("electra", "rte").num_epochs == 10
    assert len(protocols.get("electra").seeds) == 10
    assert of("mosaic", "mrpc").learning_rate == 8e-5
    assert of("mosaic", "mnli").batch_size == 48
    assert protocols.get("mosaic").mnli_init == ("rte", "mrpc", "stsb")
    assert of("cramming").learning_rate == 4e-5 and of("cramming").schedule == "cosine"
    assert of("babylm").final_fraction == 0.1 and of("babylm").max_length == 512
    assert protocols.get("babylm").train_limit == {"mnli": 10_000, "qqp": 10_000}


def test_bad_configs():
    with pytest.raises(UserError, match=r"no protocol 'robreta'.*roberta.*Valid: bert"):
        config(protocol="robreta")
    with pytest.raises(UserError, match="selection_share = 1.0"):
        config(selection_share=1.0)
    section = experiment.get_config()
    with section.unlocked():
        section.epochs = 3
    with pytest.raises(UserError, match="no field 'epochs'"):
        config_lib.parse(section)
    for changes, message in (
        ({"schedule": "polynomial"}, "schedule = 'polynomial'"),
        ({"num_epoch": 3}, "no field 'num_epoch'. Did you mean num_epochs"),
        ({"weight_decay": float("nan")}, "weight_decay = nan: must be finite"),
        ({"learning_rate": 1e-3}, "set learning_rates instead"),
    ):
        with pytest.raises(UserError, match=message):
            config(finetune=changes)


def test_missing_pieces_are_said():
    source = source_of("sst2")
    no_train = dataclasses.replace(source.tasks["sst2"], splits={})
    source = Source("x", {"sst2": no_train, "ax": word_task(DIAGNOSTIC)}, {})
    assert skipped(source) == [
        "SST-2: no labelled train set",
        "diagnostic: its rows are answered by MNLI's model; add mnli",
    ]
    with pytest.raises(UserError, match="nothing of x can be trained"):
        check_trainable(source)
    check_trainable(source_of("sst2"))
