"""Training at base size on one GPU, beside transformers on the same card.

Each side trains at its own best batch size, found by doubling until a step is no faster
a token or does not fit. Sides alternate in processes of their own.
"""

from __future__ import annotations

import functools
import pathlib
import statistics
import tempfile
from collections.abc import Callable, Sequence
from typing import Any

from research.benchmarks import ours, peers, worker
from research.benchmarks.ours import Case
from research.benchmarks.table import Options, Table, ratios
from research.benchmarks.worker import Spec
from research.errors import UserError
from research.machine import devices
from research.machine.timing import Seconds

# What the worker answers for each side, one turn after the other.
Turns = dict[str, list[dict[str, Any]]]

# Turns of each side once its batch size is known.
_TURNS = 2
# Clean tokens of a step to begin with, and how often they are doubled at most.
_FIRST_TOKENS = 8192
_DOUBLINGS = 7
# A larger batch has to be faster by this much to go on.
_GAIN = 1.02


_BASE = {
    **ours.sizes(12, 768, 12, 3072),
    "model.dtype": "bfloat16",
    "train.num_microbatches": 1,
}


def _masked_lm(length: int, vocab_size: int) -> dict[str, Any]:
    # [CLS] and [SEP] make up the length.
    lengths = {"data.row_length": length - 2, "model.max_seq_len": length}
    return _BASE | ours.vocabulary_of(vocab_size) | lengths


CASES = (
    Case(
        label="masked LM, L = 128",
        experiment="masked_lm",
        changes=_masked_lm(128, 30522),
    ),
    Case(
        label="masked LM, L = 512",
        experiment="masked_lm",
        changes=_masked_lm(512, 30522),
    ),
    Case(
        label="causal LM, L = 1,024",
        experiment="causal_lm",
        changes=_masked_lm(1024, 50257) | {"data.row_length": 1024},
    ),
    Case(
        label="T5 base, 512 / 114",
        experiment="t5_base",
        changes=ours.vocabulary_of(32128)
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
        changes=_masked_lm(1024, 50368)
        | ours.sizes(22, 768, 12, 1152)
        | {
            "model.gated_mlp": True,
            "model.position": "rope",
            "model.use_bias": False,
            "objective.masked_lm.noise_density": 0.3,
        },
        published="Ettin 150M, H100: 295,000 tokens/s",
    ),
)


def measure(options: Options) -> Table:
    """Every case at dropout 0 and 0.1.

    Raises:
      UserError: if JAX sees no GPU, or the peers are not installed.
    """
    with tempfile.TemporaryDirectory() as folder:
        caches = pathlib.Path(folder)
        found = worker.run(Spec(side="limits"), caches)
        check(found)
        if options.peers:
            peers.libraries()
        rows = []
        for case in CASES:
            for rate in (0.0, 0.1):
                print(f"measuring {case.label}, dropout {rate} ...", flush=True)
                best, turns = _measure(case, rate, options, caches)
                rows.append(row(case.label, rate, best, turns, found))
    return Table(
        title=f"training on one {found['kind']}, bfloat16",
        rows=rows,
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
    case: Case, rate: float, options: Options, caches: pathlib.Path
) -> tuple[dict[str, int], Turns]:
    """Each side's best number of rows, and its results with them."""
    changes = case.changes | dict.fromkeys(case.dropouts, rate)
    candidates = batch_sizes(case.changes["data.row_length"])

    def run(side: str, rows: int, **settings: Any) -> dict[str, Any]:
        batch = {"train.batch_size": rows, "eval.batch_size": rows}
        spec = Spec(
            side=side, experiment=case.experiment, changes=changes | batch, **settings
        )
        return worker.run(spec, caches)

    def turn(side: str, rows: int, number: int) -> dict[str, Any]:
        details = side == "ours" and number == 0
        return run(side, rows, rounds=options.rounds, details=details)

    def speed(side: str, rows: int) -> float | None:
        """Tokens a second; None if it did not fit."""
        result = run(side, rows)
        if result.get("out_of_memory"):
            return None
        return result["tokens"] / statistics.median(result["seconds"])

    best = {"ours": best_rows(functools.partial(speed, "ours"), candidates)}
    if options.peers and case.published is None:
        best["peer"] = best_rows(functools.partial(speed, "peer"), candidates)
    return final_turns(turn, best, candidates)


def row(
    label: str, rate: float, best: dict[str, int], turns: Turns, found: dict[str, Any]
) -> dict[str, Any]:
    """The figures of one case."""
    # Seconds a token: the sides' batches differ.
    times = {
        side: Seconds(
            tuple(s / turn["tokens"] for turn in results for s in turn["seconds"])
        )
        for side, results in turns.items()
    }
    first, device = turns["ours"][0], devices.known(found["kind"])
    median = times["ours"].median * first["tokens"]
    flops = first["flops"] / median
    peer = times.get("peer")
    return {
        "case": label,
        "dropout": f"{rate:g}",
        "rows": f"{best['ours']}",
        "tokens/s": first["tokens"] / median,
        "MFU": None if device is None else flops / device.flops,
        "of limit": flops / found["matrix_rate"],
        "corruption": first["corruption"] / median,
        "input": first["input"],
        "peer rows": None if peer is None else f"{best['peer']}",
        "ratio": None,
        "at its best": None,
    } | ({} if peer is None else ratios(times["ours"], peer))


def batch_sizes(row_length: int) -> list[int]:
    """Powers of two, from about `_FIRST_TOKENS` tokens on."""
    first = 2 ** max((_FIRST_TOKENS // row_length).bit_length() - 1, 1)
    return [first * 2**i for i in range(_DOUBLINGS + 1)]


def final_turns(
    measure: Callable[[str, int, int], dict[str, Any]],
    best: dict[str, int],
    candidates: Sequence[int],
) -> tuple[dict[str, int], Turns]:
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
    turns: Turns = {side: [] for side in best}
    for number in range(_TURNS):
        for side, rows in best.items():
            result = measure(side, rows, number)
            if result.get("out_of_memory"):
                smaller = [size for size in candidates if size < rows]
                if not smaller:
                    raise _nothing_fits(rows)
                return final_turns(measure, best | {side: smaller[-1]}, candidates)
            turns[side].append(result)
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
