"""The parts of the benchmarks that decide what is printed; speeds are no tests."""

import json
import shutil

import pytest

from research.benchmarks import (
    finetuning,
    generation,
    gpu,
    inputs,
    ours,
    scaling,
    suites,
    table,
    training,
    worker,
)
from research.config import parse as config_lib
from research.errors import UserError

LIMITS = {"platform": "gpu", "kind": "NVIDIA H200", "matrix_rate": 700e12}
CPU = {"platform": "cpu", "kind": "cpu"}


def test_a_source_that_lacks_a_task_is_refused_before_anything_is_measured(tmp_path):
    with pytest.raises(UserError, match="no such folder"):
        finetuning.check(str(tmp_path / "nope"))
    glue = tmp_path / "glue"
    glue.mkdir()
    finetuning.write_made_up(glue)
    finetuning.check(str(glue))
    assert len(finetuning.make_case("rte", "2 x 128", str(glue)).train) == 512
    shutil.rmtree(glue / "MRPC")
    with pytest.raises(UserError, match="MRPC: no files in"):
        finetuning.check(str(glue))


def test_without_a_gpu_one_message_says_what_to_do():
    with pytest.raises(UserError) as caught:
        gpu.check(CPU)
    for words in ("needs an NVIDIA GPU", "sees cpu", "--suite=cpu", "research.plan"):
        assert words in str(caught.value)
    gpu.check(LIMITS)


@pytest.mark.parametrize(
    ("speeds", "best"),
    [
        ({8: 100.0, 16: 150.0, 32: 151.0, 64: 400.0}, 32),  # no longer pays: stops
        ({8: 100.0, 16: 150.0, 32: None}, 16),  # does not fit
        ({8: 100.0, 16: 90.0, 32: 400.0}, 8),
    ],
)
def test_the_best_batch_size_is_where_doubling_no_longer_pays(speeds, best):
    assert gpu.best_rows(lambda rows: speeds[rows], sorted(speeds)) == best


def test_a_card_that_is_full_is_an_error():
    with pytest.raises(UserError, match="not even 8 rows fit"):
        gpu.best_rows(lambda _: None, [8, 16])


def test_a_side_that_no_longer_fits_steps_down_and_all_begin_anew():
    asked = []

    def measure(side, rows, number):
        asked.append((side, rows, number))
        fits = side == "peer" or rows < 32 or number == 0
        return {"seconds": [rows]} if fits else worker.OUT_OF_MEMORY

    best, turns = gpu.final_turns(measure, {"peer": 8, "ours": 32}, [8, 16, 32, 64])
    assert best == {"peer": 8, "ours": 16}
    assert turns == {"peer": [{"seconds": [8]}] * 2, "ours": [{"seconds": [16]}] * 2}
    assert asked[-4:] == [
        ("peer", 8, 0),
        ("ours", 16, 0),
        ("peer", 8, 1),
        ("ours", 16, 1),
    ]
    with pytest.raises(UserError, match="not even 8 rows fit"):
        gpu.final_turns(lambda *_: worker.OUT_OF_MEMORY, {"ours": 16}, [8, 16])


def test_batch_sizes_are_even_powers_of_two():
    for length in (126, 510, 568, 1022, 1024, 100_000):
        sizes = gpu.batch_sizes(length)
        assert all(size % 2 == 0 and size & (size - 1) == 0 for size in sizes)
    assert gpu.batch_sizes(1024)[0] == 8


def test_figures_of_a_case():
    mine = {"tokens": 1000, "flops": 99e12, "corruption": 0.002, "input": 0.004}
    turns = {
        "ours": [mine | {"seconds": [0.2, 0.2]}, {"tokens": 1000, "seconds": [0.2]}],
        "peer": [
            {"tokens": 500, "seconds": [0.2, 0.25]},
            {"tokens": 500, "seconds": [0.25]},
        ],
    }
    figures = gpu.row("x", 0.1, {"ours": 8, "peer": 4}, turns, LIMITS)
    assert figures["tokens/s"] == 5000
    assert figures["MFU"] == pytest.approx(495 / 989)
    assert figures["of limit"] == pytest.approx(495 / 700)
    assert figures["corruption"] == pytest.approx(0.01)
    assert figures["ratio"] == pytest.approx(5000 / 2000)
    assert figures["at its best"] == pytest.approx(5000 / 2500)
    assert all(word in " ".join(gpu.notes(LIMITS)) for word in ("989", "700", "Ettin"))


def test_running_out_of_memory_is_an_answer():
    assert worker.is_out_of_memory("jaxlib: RESOURCE_EXHAUSTED: Out of memory")
    assert worker.is_out_of_memory("torch.OutOfMemoryError: CUDA out of memory.")
    assert not worker.is_out_of_memory("ValueError: no")


def test_meshes_double_along_every_axis():
    assert scaling.meshes(1, 8) == [("data", 1)]
    assert scaling.meshes(6, 8)[1:] == [
        (axis, count) for axis in ("data", "fsdp", "tensor") for count in (2, 4)
    ]
    assert scaling.efficiency(100.0, 100.0, 4, "cpu") == 1.0
    assert scaling.efficiency(200.0, 100.0, 4, "gpu") == 0.5


@pytest.mark.parametrize("num_devices", [8, 16, 64])
@pytest.mark.parametrize("platform", ["cpu", "gpu", "tpu"])
def test_every_mesh_has_a_config_that_is_allowed(platform, num_devices):
    heads = scaling.MODEL[platform]["model.num_heads"]
    meshes = scaling.meshes(num_devices, heads)
    assert {axis for axis, count in meshes if count == 8} == {"data", "fsdp", "tensor"}
    for axis, count in meshes:
        settings = scaling.settings(platform, axis, count)
        config_lib.parse(ours.config_of("masked_lm", settings))


TINY = {
    "model.num_layers": 1,
    "model.emb_dim": 32,
    "model.num_heads": 2,
    "model.mlp_dim": 64,
    "model.max_seq_len": 32,
    "model.vocab_size": 512,
    "data.tokenizer.vocab_size": 512,
    "data.tokenizer.num_sentinels": 64,
    "data.row_length": 22,
    "train.batch_size": 4,
    "eval.batch_size": 4,
    "train.num_microbatches": 1,
}


@pytest.mark.slow
@pytest.mark.parametrize("case", gpu.CASES, ids=lambda case: case.label)
def test_cases_run_at_any_size(case):
    """What a GPU would run, on this machine: the step, its corruption and its input."""
    changes = case.changes | TINY | dict.fromkeys(case.dropouts, 0.1)
    spec = worker.Spec(
        side="ours",
        experiment=case.experiment,
        changes=changes,
        rounds=1,
        steps=1,
        details=True,
    )
    found = json.loads(json.dumps(worker.measure_ours(spec)))
    assert found["tokens"] == 4 * 22
    assert found["flops"] > 0
    assert 0 <= found["input"] <= 1
    assert len(found["seconds"]) == 1
    if case.published is None:
        pytest.importorskip("transformers")
        assert worker.measure_peer(spec)["tokens"] == 4 * 22


@pytest.mark.slow
@pytest.mark.parametrize(
    ("suite", "column"),
    [
        ("training", "of limit"),
        ("corruption", "share"),
        ("generation", "tokens/s"),
        ("input", "rate"),
    ],
)
def test_suites_run_at_any_size(suite, column, monkeypatch, tmp_path, capsys):
    sizes = ours.sizes(1, 32, 2, 64)
    monkeypatch.setattr(training, "SHARED", training.SHARED | TINY)
    monkeypatch.setattr(training, "CORRUPTIONS", ("causal_lm",))
    one = ours.Case(label="x", experiment="masked_lm", changes={})
    monkeypatch.setattr(training, "CASES", (one,))
    monkeypatch.setattr(generation, "MODEL", generation.MODEL | sizes)
    monkeypatch.setattr(generation, "VOCAB_SIZES", (512,))
    monkeypatch.setattr(generation, "NEW_TOKENS", 4)
    monkeypatch.setattr(inputs, "_SECONDS", 0.1)
    options = table.Options(rounds=1, peers=False)
    suites.run(suite, options, tmp_path / "figures.json")
    (found,) = json.loads((tmp_path / "figures.json").read_text())
    assert all(row[column] > 0 for row in found["rows"])
    # A title wraps where the table is narrower.
    assert found["title"] in " ".join(capsys.readouterr().out.split())


def test_an_unknown_suite_is_refused():
    with pytest.raises(UserError, match="Did you mean training"):
        suites.run("trianing", table.Options(rounds=1, peers=False), None)
