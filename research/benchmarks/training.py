"""Training steps beside transformers and torch, in alternating rounds."""

from __future__ import annotations

import dataclasses
from typing import Any

from research.benchmarks import ours, peers
from research.benchmarks.table import Table
from research.config import parse as config_lib
from research.machine import timing


@dataclasses.dataclass(frozen=True, kw_only=True)
class Case:
    """One comparison.

    Attributes:
      label: as printed.
      experiment: whose objective is trained.
      changes: of its config, beside those that all cases share.
    """

    label: str
    experiment: str
    changes: dict[str, Any]


# Four layers x 256, 32 rows of 128 positions, dropout 0.1, float32; four microbatches,
# which keep a step's activations in the caches.
SHARED = {
    "model.vocab_size": 8192,
    "model.num_layers": 4,
    "model.emb_dim": 256,
    "model.num_heads": 4,
    "model.mlp_dim": 1024,
    "model.max_seq_len": 512,
    "model.dropout_rate": 0.1,
    "model.attention_dropout_rate": 0.0,
    "data.tokenizer.vocab_size": 8192,
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
CASES = (
    Case(
        label="masked LM, V = 8,192",
        experiment="masked_lm",
        changes={"data.row_length": 126},
    ),
    Case(
        label="masked LM, V = 30,522",
        experiment="masked_lm",
        changes={
            "data.row_length": 126,
            "model.vocab_size": 30522,
            "data.tokenizer.vocab_size": 30522,
        },
    ),
    Case(label="causal LM, V = 8,192", experiment="causal_lm", changes={}),
    Case(label="T5 span corruption, V = 8,192", experiment="t5", changes=T5_BLOCKS),
    # The peer knows neither: it stands beside them as it is.
    Case(
        label="masked LM, packed documents",
        experiment="masked_lm",
        changes={
            "data.row_length": 126,
            "objective.masked_lm.isolate_documents": True,
        },
    ),
    Case(
        label="causal LM, packed documents",
        experiment="causal_lm",
        changes={"objective.causal_lm.isolate_documents": True},
    ),
    Case(
        label="masked LM, scan over layers",
        experiment="masked_lm",
        changes={"data.row_length": 126, "model.scan_layers": True},
    ),
)
PEER_NOTE = (
    "peer: transformers + torch; ratios are medians of alternating rounds, 'at its "
    "best' against the peer's fastest round, 'gathered' with the peer's head on the "
    "predicted positions only"
)
MICROBATCH_NOTE = (
    f"ours takes its {SHARED['train.batch_size']} rows in "
    f"{SHARED['train.num_microbatches']} microbatches, the peer all at once"
)


def measure(*, rounds: int, with_peers: bool) -> Table:
    """Every case: our step, the peer's, and the peer with its head gathered."""
    rows = []
    for case in CASES:
        print(f"measuring {case.label} ...", flush=True)
        rows.append(_measure(case, rounds, with_peers))
    return Table(
        title="training steps: 4 layers x 256, 32 rows of 128, dropout 0.1, float32",
        rows=tuple(rows),
        notes=(
            "limit: rate of this machine's float32 matrix product, its fastest round",
            "of limit: matrix-product FLOPs actually needed / time / limit",
            PEER_NOTE,
            MICROBATCH_NOTE,
        ),
    )


def _measure(case: Case, rounds: int, with_peers: bool) -> dict[str, Any]:
    changes = SHARED | case.changes
    mine = ours.make(case.experiment, changes)
    run = config_lib.parse(ours.config_of(case.experiment, changes))
    product, product_flops = timing.matrix_product("float32")
    # Machines slow down and recover, so the limit is measured in the same rounds.
    steps = {"ours": mine.step, "limit": product}
    if with_peers:
        for name, gathered_head in (("peer", False), ("gathered", True)):
            if gathered_head and run.model.architecture != "encoder":
                continue
            steps[name] = peers.make(
                run.model.architecture,
                mine.lengths,
                model=run.model,
                batch_size=run.train.batch_size,
                gathered_head=gathered_head,
            )
    times = timing.alternate(steps, rounds=rounds, repeats=2)
    median = times["ours"].median
    limit = product_flops / times["limit"].best
    row: dict[str, Any] = {
        "case": case.label,
        "ours ms": 1e3 * median,
        "tokens/s": mine.tokens / median,
        "of limit": mine.flops / median / limit,
        "limit GF/s": limit / 1e9,
    }
    if with_peers:
        peer = times["peer"]
        row |= {
            "peer ms": 1e3 * peer.median,
            "ratio": peer.median / median,
            "at its best": peer.best / median,
            "gathered": None,
        }
    if "gathered" in times:
        row["gathered"] = times["gathered"].median / median
    return row


# Objectives whose corruption is timed beside the step it belongs to.
CORRUPTIONS = ("causal_lm", "masked_lm", "bert", "spanbert", "t5", "prefix_lm")


def measure_corruption(*, rounds: int) -> Table:
    """The corruption of a batch alone, as a share of the whole step."""
    rows = []
    for experiment in CORRUPTIONS:
        mine = ours.make(experiment, SHARED)
        steps = {"step": mine.step, "corruption": mine.corrupt}
        times = timing.alternate(steps, rounds=rounds, repeats=2)
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
        rows=tuple(rows),
        notes=("corruption: compiled and timed alone, so its share is an upper bound",),
    )
