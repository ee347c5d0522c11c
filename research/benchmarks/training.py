"""Training steps beside transformers and torch, in alternating rounds."""

from __future__ import annotations

from typing import Any

from research.benchmarks import ours, peers
from research.benchmarks.ours import Case
from research.benchmarks.table import Options, Table, ratios
from research.machine import timing

# Four layers x 256, 32 rows of 128 positions, dropout 0.1, float32; four microbatches,
# which keep a step's activations in the caches.
SHARED = {
    **ours.sizes(4, 256, 4, 1024),
    **ours.vocabulary_of(8192),
    "model.max_seq_len": 512,
    "model.dropout_rate": 0.1,
    "model.attention_dropout_rate": 0.0,
    "data.row_length": 128,
    "train.batch_size": 32,
    "train.num_microbatches": 4,
}
# T5's own blocks, so that the peer computes the same.
T5_BLOCKS = {
    "model.position": "relative_bias",
    "model.norm": "rmsnorm",
    "model.use_bias": False,
    "model.activation": "relu",
    "model.attention_scale": 1.0,
    "model.mlp_dropout_rate": 0.1,
}
# 128 positions with [CLS] and [SEP].
MASKED = {"data.row_length": 126}
# The peer knows neither packed documents nor scan: it stands beside them as it is.
CASES = tuple(
    Case(label=label, experiment=experiment, changes=changes)
    for label, experiment, changes in (
        ("masked LM, V = 8,192", "masked_lm", MASKED),
        ("masked LM, V = 30,522", "masked_lm", MASKED | ours.vocabulary_of(30522)),
        ("causal LM, V = 8,192", "causal_lm", {}),
        ("T5 span corruption, V = 8,192", "t5", T5_BLOCKS),
        (
            "masked LM, packed documents",
            "masked_lm",
            MASKED | {"objective.masked_lm.isolate_documents": True},
        ),
        (
            "causal LM, packed documents",
            "causal_lm",
            {"objective.causal_lm.isolate_documents": True},
        ),
        (
            "masked LM, scan over layers",
            "masked_lm",
            MASKED | {"model.scan_layers": True},
        ),
    )
)


def measure(options: Options) -> Table:
    """Every case: our step, the peer's, and the peer with its head gathered."""
    rows = []
    for case in CASES:
        print(f"measuring {case.label} ...", flush=True)
        rows.append({"case": case.label} | _measure(case, options))
    return Table(
        title="training steps: 4 layers x 256, 32 rows of 128, dropout 0.1, float32",
        rows=rows,
        notes=(
            "limit: rate of this machine's float32 matrix product, its fastest round",
            "of limit: matrix-product FLOPs actually needed / time / limit",
            (
                "peer: transformers + torch; ratios are medians of alternating rounds, 'at "
                "its best' against the peer's fastest round, 'gathered' with the peer's head "
                "on the predicted positions only"
            ),
            (
                f"ours takes its {SHARED['train.batch_size']} rows in "
                f"{SHARED['train.num_microbatches']} microbatches, the peer all at once"
            ),
        ),
    )


def _measure(case: Case, options: Options) -> dict[str, Any]:
    """One row; a step of any side, or its matrix product, is an entry of `steps`."""
    mine = ours.Ours(case.experiment, SHARED | case.changes)
    product, product_flops = timing.matrix_product("float32")
    # Machines slow down and recover, so the limit is measured in the same rounds.
    steps = {"ours": mine.steps, "product": product}
    if options.peers:
        steps["peer"] = peers.make(mine.run, mine.program.objective.lengths)
        if mine.run.model.architecture == "encoder":
            steps["gathered"] = peers.make(
                mine.run, mine.program.objective.lengths, gathered_head=True
            )
    times = timing.alternate(steps, rounds=options.rounds, repeats=2)
    median = times["ours"].median
    limit = product_flops / times["product"].best
    row: dict[str, Any] = {
        "ours ms": 1e3 * median,
        "tokens/s": mine.tokens / median,
        "of limit": mine.flops / median / limit,
        "limit GF/s": limit / 1e9,
    }
    if options.peers:
        row["peer ms"] = 1e3 * times["peer"].median
        row |= ratios(times["ours"], times["peer"])
        gathered = times.get("gathered")
        row["gathered"] = None if gathered is None else gathered.median / median
    return row


# Objectives whose corruption is timed beside the step it belongs to.
CORRUPTIONS = ("causal_lm", "masked_lm", "bert", "spanbert", "t5", "prefix_lm")


def measure_corruption(options: Options) -> Table:
    """The corruption of a batch alone, as a share of the whole step."""
    rows = []
    for experiment in CORRUPTIONS:
        mine = ours.Ours(experiment, SHARED)
        steps = {"step": mine.steps, "corruption": mine.corrupt}
        times = timing.alternate(steps, rounds=options.rounds, repeats=2)
        step, corruption = times["step"].median, times["corruption"].median
        rows.append(
            {
                "objective": experiment,
                "step ms": 1e3 * step,
                "corruption ms": 1e3 * corruption,
                "share": corruption / step,
                "GFLOP a step": mine.flops / 1e9,
            }
        )
    return Table(
        title="corruption inside the step: 32 rows of 128 clean tokens",
        rows=rows,
        notes=("corruption: compiled and timed alone, so its share is an upper bound",),
    )
