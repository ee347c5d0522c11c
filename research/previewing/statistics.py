"""Statistics of corruption over many rows, beside their nominal values."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Mapping

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array
from rich.table import Table
from rich.text import Text

from objectives.base import Objective
from objectives.components import examples_of
from objectives.statistics import Statistic, mean
from objectives.types import Example, TokenBatch

# A ratio is off if it is so many standard errors and so large a share away.
_ERRORS, _SHARE = 4.0, 0.05
_BAR = 24
# Shown only where there are any.
_UNLESS_NONE = ("[MASK] in the inputs", "sentinels in the inputs")


@dataclasses.dataclass(frozen=True)
class Ratio:
    """One number of a statistic.

    Attributes:
      value: sum of totals over sum of counts; nan if nothing was counted.
      error: its standard error over independent rows.
      nominal: the expected value, or None.
    """

    value: float
    error: float
    nominal: float | None

    @property
    def is_off(self) -> bool:
        """Whether the distance from nominal is significant and not small."""
        if self.nominal is None or math.isnan(self.value):
            return False
        distance = abs(self.value - self.nominal)
        return distance > max(_ERRORS * self.error, _SHARE * abs(self.nominal))


def measure(
    objective: Objective, batches: Iterable[tuple[Array, TokenBatch]]
) -> dict[str, Statistic]:
    """Statistics of every row of (key, batch) pairs, as NumPy arrays."""

    names: list[str] = []  # In order: jit returns dicts sorted by name.

    @jax.jit
    def of_batch(rng: Array, batch: TokenBatch) -> dict[str, Statistic]:
        example = objective.corrupt(rng, batch)
        result = {**general(objective, example), **objective.statistics(rng, batch)}
        names[:] = result
        return result

    found = [
        jax.tree.map(np.asarray, of_batch(rng, jax.tree.map(jnp.asarray, batch)))
        for rng, batch in batches
    ]
    joined = jax.tree.map(lambda *parts: np.concatenate(parts), *found)
    return {name: joined[name] for name in names}


def general(objective: Objective, example: Example) -> dict[str, Statistic]:
    """Statistics of any objective: real tokens, targets, and its own metrics."""
    found = examples_of(example)
    result = {}
    for name, part, _ in objective.parts():
        prefix = f"{name}/" if name else ""
        for key, statistic in _general(part, found[name]).items():
            result[prefix + key] = statistic
    return result


def _general(objective: Objective, example: Example) -> dict[str, Statistic]:
    lengths = objective.lengths
    result = {}
    if example.inputs.encoder is not None:
        real = example.inputs.encoder.segment_ids > 0
        result[f"encoder tokens, of {lengths.encoder}"] = mean(real)
    name = "decoder" if example.inputs.encoder is not None else "input"
    real = example.inputs.segment_ids > 0
    result[f"{name} tokens, of {lengths.inputs}"] = mean(real)
    for term, slots in lengths.targets.items():
        live = example.targets[term].loss_weights > 0
        result[f"{term} targets, of {slots}"] = mean(live)
    reads = example.inputs.encoder or example.inputs
    vocabulary = objective.vocabulary
    is_sentinel = np.zeros(vocabulary.vocab_size, bool)
    is_sentinel[list(vocabulary.sentinel_ids)] = True
    result["[MASK] in the inputs"] = mean(reads.tokens == vocabulary.mask_id)
    result["sentinels in the inputs"] = mean(jnp.asarray(is_sentinel)[reads.tokens])
    for name, counts in example.metrics.items():
        result[name] = mean(counts)
    return result


def ratios(statistic: Statistic) -> list[Ratio]:
    """The ratio of each class, or the only one."""
    counts = np.asarray(statistic.counts, np.float64)
    totals = np.asarray(statistic.totals, np.float64).reshape(len(counts), -1)
    nominal = statistic.nominal
    return [
        _ratio(
            totals[:, column],
            counts,
            nominal[column] if isinstance(nominal, tuple) else nominal,
        )
        for column in range(totals.shape[1])
    ]


def _ratio(totals: np.ndarray, counts: np.ndarray, nominal: float | None) -> Ratio:
    whole = counts.sum()
    if whole == 0:
        return Ratio(value=math.nan, error=math.nan, nominal=nominal)
    value = totals.sum() / whole
    # Linearised (delta method), because totals and counts of a row are correlated.
    error = math.sqrt(np.square(totals - value * counts).sum()) / whole
    return Ratio(value=value, error=error, nominal=nominal)


def show(statistics: Mapping[str, Statistic]) -> Table:
    """A table: realised with its standard error, nominal, and bars for classes."""
    table = Table(box=None, pad_edge=False, padding=(0, 3, 0, 0))
    table.add_column("")
    for name in ("realised", "± error", "nominal"):
        table.add_column(name, justify="right")
    table.add_column("")
    for name, statistic in statistics.items():
        found = ratios(statistic)
        if name.endswith(_UNLESS_NONE) and found[0].value == 0:
            continue
        if not statistic.classes:
            table.add_row(Text(name), *_numbers(found[0]))
            continue
        table.add_row(Text(name))
        largest = max([ratio.value for ratio in found] + [1e-9])
        for label, ratio in zip(statistic.classes, found, strict=True):
            *numbers, verdict = _numbers(ratio)
            bar = _bar(ratio.value / largest)
            table.add_row(
                Text(f"  {label}"), *numbers, Text.assemble(verdict, (bar, "cyan"))
            )
    return table


def _numbers(ratio: Ratio) -> tuple[Text, Text, Text, Text]:
    if math.isnan(ratio.value):
        return Text("none", "dim"), Text(), Text(), Text()
    nominal = Text("" if ratio.nominal is None else _written(ratio.nominal))
    style = "" if ratio.nominal is None else "green"
    verdict = Text()
    if ratio.is_off:
        style, verdict = "bold red", Text("off  ", "bold red")
    return Text(_written(ratio.value), style), Text(_error(ratio)), nominal, verdict


def _written(value: float) -> str:
    return f"{value:.4f}" if abs(value) < 10 else f"{value:.2f}"


def _error(ratio: Ratio) -> str:
    return "exact" if ratio.error == 0 else _written(ratio.error)


def _bar(share: float) -> str:
    """A bar of up to _BAR cells, in eighths of a cell."""
    if not share > 0:
        return ""
    eighths = max(round(share * _BAR * 8), 1)
    return "█" * (eighths // 8) + " ▏▎▍▌▋▊▉"[eighths % 8].strip()
