"""Training at base size on one GPU, beside transformers on the same card.

Each side trains at its own best batch size, found by doubling until a step is no faster
a token or does not fit. Sides alternate in processes of their own.
"""

from __future__ import annotations

import dataclasses
import functools
import pathlib
import statistics
import tempfile
from collections.abc import Callable, Sequence
from typing import Any

from research.benchmarks import peers, worker
from research.benchmarks.table import Table
from research.benchmarks.worker import Spec
from research.errors import UserError
from research.machine import devices

# Turns of each side once its batch size is known.
_TURNS = 2
# Clean tokens of a step to begin with, and how often they are doubled at most.
_FIRST_TOKENS = 8192
_DOUBLINGS = 7
# A larger batch has to be faster by this much to go on.
_GAIN = 1.02


@dataclasses.dataclass(frozen=True, kw_only=True)
class Case:
    """One training step.

    Attributes:
      label: as printed.
      experiment: whose objective is trained.
      changes: of its config.
      published: tokens/s that somebody reported, and where; None = there is a peer.
      dropouts: fields that have the rate of dropout.
    """

    label: str
    experiment: str
    changes: dict[str, Any]
    published: str | None = None
    dropouts: tuple[str, ...] = ("model.dropout_rate", "model.attention_dropout_rate")


_BASE = {
    "model.dtype": "bfloat16",
    "model.num_layers": 12,
    "model.emb_dim": 768,
    "model.num_heads": 12,
    "model.mlp_dim": 3072,
    "train.num_microbatches": 1,
}


def _vocabulary(size: int) -> dict[str, Any]:
    return {"model.vocab_size": size, "data.tokenizer.vocab_size": size}


def _masked_lm(length: int) -> dict[str, Any]:
    # [CLS] and [SEP] make up the length.
    return (
        _BASE
        | _vocabulary(30522)
        | {
            "data.row_length": length - 2,
            "model.max_seq_len": length,
        }
    )


CASES = (
    Case(label="masked LM, L = 128", experiment="masked_lm", changes=_masked_lm(128)),
    Case(label="masked LM, L = 512", experiment="masked_lm", changes=_masked_lm(512)),
    Case(
        label="causal LM, L = 1,024",
        experiment="causal_lm",
        changes=_BASE
        | _vocabulary(50257)
        | {"data.row_length": 1024, "model.max_seq_len": 1024},
    ),
    Case(
        label="T5 base, 512 / 114",
        experiment="t5_base",
        changes=_vocabulary(32128)
        | {"data.row_length": 568, "train.num_microbatches": 1},
        dropouts=(
            "model.dropout_rate",
            "model.mlp_dropout_rate",
            "model.attention_dropout_rate",
        ),
    ),
    Case(
        # Ettin's sizes (Weller et al. 2025): 22 layers x 768, gated, rotary, 149M.
        label="encoder of 150M, L = 1,024",
        experiment="masked_lm",
        changes=_BASE
        | _vocabulary(50368)
        | {
            "model.num_layers": 22,
            "model.mlp_dim": 1152,
            "model.gated_mlp": True,
            "model.position": "rope",
            "model.use_bias": False,
            "model.max_seq_len": 1024,
            "data.row_length": 1022,
            "objective.masked_lm.noise_density": 0.3,
        },
        published="Ettin 150M, H100: 295,000 tokens/s",
    ),
)


def measure(*, rounds: int, with_peers: bool) -> Table:
    """Every case at dropout 0 and 0.1.

    Raises:
      UserError: if JAX sees no GPU, or the peers are not installed.
    """
    with tempfile.TemporaryDirectory() as folder:
        caches = pathlib.Path(folder)
        found = worker.run(Spec(side="limits"), caches)
        check(found)
        if with_peers:
            peers.libraries()
        rows = []
        for case in CASES:
            for rate in (0.0, 0.1):
                print(f"measuring {case.label}, dropout {rate} ...", flush=True)
                rows.append(_measure(case, rate, found, rounds, with_peers, caches))
    return Table(
        title=f"training on one {found['kind']}, bfloat16",
        rows=tuple(rows),
        notes=notes(found),
    )


def check(found: dict[str, Any]) -> None:
    """Refuses a machine without a GPU.

    Raises:
      UserError: saying what there is and what to do.
    """
    if found["platform"] != "gpu":
        raise UserError(
            f"the suite 'gpu' needs an NVIDIA GPU that JAX sees, and it sees "
            f"{found['kind']}. With one: pip install -e '.[cuda]'. Without: --suite=cpu "
            f"measures this machine, and python -m research.plan --device=h200 says "
            f"what to expect of a GPU."
        )


def notes(found: dict[str, Any]) -> tuple[str, ...]:
    """What the columns mean."""
    device = devices.known(found["kind"])
    sheet = "unknown" if device is None else f"{device.flops / 1e12:.0f} TFLOP/s"
    limit = f"{found['matrix_rate'] / 1e12:.0f} TFLOP/s"
    return (
        f"MFU: matrix-product FLOPs actually needed / time / data-sheet peak ({sheet})",
        f"of limit: the same against the measured matrix product, {limit}",
        "ratio: tokens/s against transformers with torch.compile and SDPA, both at",
        "  their best batch size (rows); 'at its best' against its fastest round",
        "dropout: of hidden states and of attention weights, on both sides",
        "corruption: compiled and timed alone; input: time that steps wait for it",
        *(f"published: {case.published}" for case in CASES if case.published),
    )


def _measure(
    case: Case,
    rate: float,
    found: dict[str, Any],
    rounds: int,
    with_peers: bool,
    caches: pathlib.Path,
) -> dict[str, Any]:
    changes = case.changes | dict.fromkeys(case.dropouts, rate)
    sides = ["ours", "peer"] if with_peers and case.published is None else ["ours"]

    def spec(side: str, rows: int, **settings: Any) -> Spec:
        sizes = {"train.batch_size": rows, "eval.batch_size": rows}
        return Spec(
            side=side, experiment=case.experiment, changes=changes | sizes, **settings
        )

    candidates = batch_sizes(case.changes["data.row_length"])

    def speed(side: str, rows: int) -> float | None:
        return _speed(worker.run(spec(side, rows), caches))

    best = {
        side: best_rows(functools.partial(speed, side), candidates) for side in sides
    }

    def turn(side: str, rows: int, number: int) -> dict[str, Any]:
        details = side == "ours" and number == 0
        return worker.run(spec(side, rows, rounds=rounds, details=details), caches)

    best, turns = final_turns(turn, best, candidates)
    device = devices.known(found["kind"])
    return row(
        case.label, rate, best, turns, None if device is None else device.flops, found
    )


def row(
    label: str,
    rate: float,
    best: dict[str, int],
    turns: dict[str, list[dict[str, Any]]],
    peak: float | None,
    found: dict[str, Any],
) -> dict[str, Any]:
    """The figures of one case."""
    seconds = {
        side: [s for turn in results for s in turn["seconds"]]
        for side, results in turns.items()
    }
    first = turns["ours"][0]
    median = statistics.median(seconds["ours"])
    flops, tokens = first["flops"] / median, first["tokens"] / median
    figures: dict[str, Any] = {
        "case": label,
        "dropout": f"{rate:g}",
        "rows": f"{best['ours']}",
        "tokens/s": tokens,
        "MFU": None if peak is None else flops / peak,
        "of limit": flops / found["matrix_rate"],
        "corruption": first["corruption"] / median,
        "input": first["input"],
        "peer rows": None,
        "ratio": None,
        "at its best": None,
    }
    if "peer" in turns:
        theirs = turns["peer"][0]["tokens"]
        figures |= {
            "peer rows": f"{best['peer']}",
            "ratio": tokens / (theirs / statistics.median(seconds["peer"])),
            "at its best": tokens / (theirs / min(seconds["peer"])),
        }
    return figures


def _speed(result: dict[str, Any]) -> float | None:
    """Tokens a second; None if it did not fit."""
    if result.get("out_of_memory"):
        return None
    return result["tokens"] / statistics.median(result["seconds"])


def batch_sizes(row_length: int) -> list[int]:
    """Powers of two, from about `_FIRST_TOKENS` tokens on."""
    first = 2 ** max((_FIRST_TOKENS // row_length).bit_length() - 1, 1)
    return [first * 2**i for i in range(_DOUBLINGS + 1)]


def final_turns(
    measure: Callable[[str, int, int], dict[str, Any]],
    best: dict[str, int],
    candidates: Sequence[int],
) -> tuple[dict[str, int], dict[str, list[dict[str, Any]]]]:
    """Results of every side, in turns.

    What was measured once may not fit again beside its details: its side then takes the
    next smaller batch, and all begin anew.

    Args:
      measure: (side, rows, number of the turn) -> what a worker answers.
      best: rows of each side.
      candidates: ascending.

    Returns:
      The rows in the end, and each side's results.

    Raises:
      UserError: if not even the first candidate fits.
    """
    best, number = dict(best), 0
    turns: dict[str, list[dict[str, Any]]] = {side: [] for side in best}
    while number < _TURNS:
        for side, rows in best.items():
            result = measure(side, rows, number)
            if result.get("out_of_memory"):
                smaller = [size for size in candidates if size < rows]
                if not smaller:
                    raise _nothing_fits(rows)
                best[side] = smaller[-1]
                turns, number = {side: [] for side in best}, 0
                break
            turns[side].append(result)
        else:
            number += 1
    return best, turns


def best_rows(
    tokens_per_second: Callable[[int], float | None], candidates: Sequence[int]
) -> int:
    """The batch size after which doubling no longer pays.

    Args:
      tokens_per_second: of a batch size; None if it does not fit.
      candidates: ascending.

    Raises:
      UserError: if not even the first fits.
    """
    best, rows = 0.0, 0
    for candidate in candidates:
        speed = tokens_per_second(candidate)
        if speed is None:
            break
        improved = speed > best * _GAIN
        if speed > best:
            best, rows = speed, candidate
        if not improved:
            break
    if not rows:
        raise _nothing_fits(candidates[0])
    return rows


def _nothing_fits(rows: int) -> UserError:
    return UserError(
        f"not even {rows} rows fit on this GPU: is another program using its memory "
        f"(nvidia-smi)?"
    )
