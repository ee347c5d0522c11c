"""What the preview shows: every token and target, and statistics that find faults."""

import dataclasses
import functools
import io
import itertools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from rich.console import Console

import objectives
from experiments import base, presets
from objectives.statistics import Statistic, mean, share
from research.config.parse import parse
from research.errors import UserError
from research.previewing import preview, rows, statistics
from research.previewing.pieces import Pieces, parts_of
from tests.helpers import (
    CLS,
    EOD,
    FULL_STOP,
    MASK,
    SEP,
    quick_jit,
    toy_batch,
    toy_vocabulary,
)

VOCABULARY = toy_vocabulary()
LENGTH, BATCH = 40, 16
NAMES = {CLS: "[CLS]", SEP: "[SEP]", MASK: "[MASK]", EOD: "[EOD]"}


class ToyTokenizer:
    """Token n is the word 'wn'; 'n' continues a word."""

    def token(self, number):
        return NAMES.get(number, f"<{number}>")

    def decode(self, ids):
        words = VOCABULARY.is_word_start
        pieces = [f" w{n}" if words[n] else f"x{n}" for n in ids]
        return "".join("." if n == FULL_STOP else p for n, p in zip(ids, pieces))


PIECES = Pieces(ToyTokenizer(), VOCABULARY)


def printed(*renderables, width=100, **options) -> str:
    console = Console(file=io.StringIO(), width=width, highlight=False, **options)
    for renderable in renderables:
        console.print(renderable)
    return console.file.getvalue()


def run_of(*names, architecture):
    config = base.get_config()
    config.model = presets.model("tiny", architecture=architecture)
    config.objective = presets.objective(*names)
    config.data.row_length = LENGTH
    config.train.batch_size = BATCH
    return parse(config)


def create(*names, architecture="encoder", **overrides):
    section = presets.objective(*names, **overrides).to_dict()
    return objectives.create(
        names,
        {name: section[name] for name in names},
        vocabulary=VOCABULARY,
        row_length=LENGTH,
        architecture=architecture,
    )


def batches():
    for step in itertools.count():
        yield (
            jax.random.key(step),
            toy_batch(BATCH, LENGTH, vocabulary=VOCABULARY, seed=step),
        )


CASES = [
    ("causal_lm", "decoder"),
    ("next_sentence+masked_lm", "encoder"),
    ("span_corruption", "encoder_decoder"),
    ("prefix_lm", "decoder"),
]


@pytest.mark.parametrize("names, architecture", CASES)
def test_shows_any_objective(names, architecture):
    names = names.split("+")
    objective = create(*names, architecture=architecture)
    console = Console(file=io.StringIO(), width=100, highlight=False)
    preview.draw(
        run_of(*names, architecture=architecture),
        objective,
        PIECES,
        batches(),
        console=console,
        step=0,
        num_rows=2,
        statistics_rows=20,
    )
    text = console.file.getvalue()
    assert "\x1b" not in text  # no colours where there is no terminal
    assert "row 0 of step 0" in text and "row 1 of step 0" in text
    assert f"statistics over {2 * BATCH} rows" in text
    for term in objective.terms:
        assert re.search(rf"^{term}\b", text, re.MULTILINE)
        assert f"{term} targets, of {objective.lengths.targets[term]}" in text
    assert max(map(len, text.splitlines())) <= 100


def test_more_rows_than_a_step_has_are_refused():
    run = run_of("causal_lm", architecture="decoder")
    preview.check_rows(run, BATCH)
    with pytest.raises(UserError, match=f"--rows={BATCH + 1}: a step has {BATCH} rows"):
        preview.check_rows(run, BATCH + 1)


def test_every_target_stands_under_its_position():
    objective = create("next_sentence", "span_boundary")
    batch = next(batches())
    example = quick_jit(objective.corrupt)(*batch)
    row = rows.take_row(example, 3)
    text = printed(
        rows.show_row(PIECES, batch[1].tokens[3], row, objective.terms, in_place=True),
        width=4000,  # every side in one line
    )
    lines = {line.split()[0]: line for line in text.splitlines() if line.strip()}
    inputs = lines["inputs"]
    mlm, sbo = row.targets["mlm"], row.targets["sbo"]
    # Columns of the inputs' cells, in order.
    starts = [match.start() for match in re.finditer(r"(?<=  )\S", inputs)]
    assert len(starts) == (row.inputs.segment_ids > 0).sum()
    for target, line in ((mlm, lines["mlm"]), (sbo, lines["sbo"])):
        shown = {m.start(): m.group() for m in re.finditer(r"\S+", line)}
        live = target.loss_weights > 0
        expected = {
            starts[position]: PIECES.cell(value)
            for position, value in zip(
                target.positions[live], target.values[live], strict=True
            )
        }
        shown.pop(0)  # the line's name
        assert shown == expected
    spans = lines["span"].split()[1:]
    assert spans[0] == f"{mlm.span_starts[0]}-{mlm.span_ends[0]}"
    name = ("next", "random")[int(row.targets["nsp"].values[0])]
    assert re.match(rf"nsp +{name} +label \d, weight \d", lines["nsp"])


def test_parts_tell_how_a_target_is_shown():
    text = np.array([CLS, 20, MASK, 22, 23, SEP, VOCABULARY.sentinel_ids[0], 24])
    parts = parts_of(
        text,
        VOCABULARY,
        token_types=np.array([0, 0, 0, 0, 0, 0, 1, 1]),
        hidden={2: 30, 3: 31, 4: 23},
    )
    assert parts == [
        "special", "text", "masked", "random", "kept", "special", "sentinel", "second",
    ]  # fmt: skip


def test_colours_and_legend_in_a_terminal():
    objective = create("masked_lm")
    batch = next(batches())
    row = rows.take_row(quick_jit(objective.corrupt)(*batch), 0)
    renderable = rows.show_row(
        PIECES, batch[1].tokens[0], row, objective.terms, in_place=True
    )
    coloured = printed(renderable, force_terminal=True, color_system="truecolor")
    assert "\x1b[1;37;41m[MASK]" in coloured
    assert "target, masked" in coloured
    assert "second segment" not in coloured


def test_words_are_told_from_their_continuations():
    start = int(np.flatnonzero(VOCABULARY.is_word_start & ~VOCABULARY.is_special)[5])
    inside = int(np.flatnonzero(~VOCABULARY.is_word_start & ~VOCABULARY.is_special)[5])
    assert PIECES.cell(start) == f"w{start}"
    assert PIECES.cell(inside) == f"+x{inside}"
    assert PIECES.cell(MASK) == "[MASK]"
    flow = PIECES.flow([start, MASK, inside, start], ["text", "masked", "text", "text"])
    assert flow.plain == f"w{start} [MASK]x{inside} w{start}"


def ratio(statistic) -> statistics.Ratio:
    (found,) = statistics.ratios(statistic)
    return found


def test_ratios_and_their_errors():
    rng = np.random.default_rng(0)
    counts = rng.integers(1, 30, 4000).astype(np.float32)
    # Rows differ in their share: tokens of a row are no independent draws.
    shares = rng.choice([0.0, 1.0], 4000, p=[0.8, 0.2])
    found = ratio(
        Statistic(
            totals=(counts * shares).astype(np.float32), counts=counts, nominal=0.2
        )
    )
    assert found.value == pytest.approx((counts * shares).sum() / counts.sum())
    spread = np.sqrt(0.16 * (counts**2).sum()) / counts.sum()
    assert found.error == pytest.approx(spread, rel=0.05)
    assert not found.is_off


@pytest.mark.parametrize(
    "nominal, is_off", [(0.15, False), (0.20, True), (None, False)]
)
def test_what_is_off_is_said(nominal, is_off):
    part = jnp.zeros((500, 100)).at[:, :15].set(1)
    statistic = share(part, jnp.ones_like(part), nominal)
    assert ratio(statistic).is_off == is_off
    table = printed(statistics.show({"share": statistic}))
    assert "0.1500" in table
    shown = printed(
        statistics.show({"kinds": dataclasses.replace(
            statistic,
            totals=statistic.totals[:, None],
            nominal=nominal,
            classes=("kind",),
        )})
    )  # fmt: skip
    assert ("off" in shown) == is_off


def test_nothing_counted_is_no_number():
    empty = mean(jnp.zeros(4)), share(jnp.zeros((4, 3)), jnp.zeros((4, 3)), 0.5)
    assert ratio(empty[0]).value == 0
    assert np.isnan(ratio(empty[1]).value) and not ratio(empty[1]).is_off
    assert "none" in printed(statistics.show({"empty": empty[1]}))


@functools.cache
def measured(names, architecture):
    objective = create(*names.split("+"), architecture=architecture)
    return statistics.measure(objective, itertools.islice(batches(), 40))


@pytest.mark.parametrize(
    "names, architecture",
    [
        ("next_sentence+span_boundary", "encoder"),
        ("span_corruption", "encoder_decoder"),
    ],
)
def test_realised_statistics_agree_with_the_nominal_ones(names, architecture):
    found = measured(names, architecture)
    nominal = [
        (name, one)
        for name, statistic in found.items()
        for one in statistics.ratios(statistic)
        if one.nominal is not None
    ]
    assert len(nominal) >= 3
    for name, one in nominal:
        # Budgets are whole tokens: one of forty is 0.025.
        close = abs(one.value - one.nominal) <= max(5 * one.error, 0.15 * one.nominal)
        assert close, f"{name}: {one}"


def test_statistics_find_a_wrong_distribution():
    """Spans drawn otherwise than declared are off."""
    found = measured("next_sentence+span_boundary", "encoder")
    name = "words of a span as drawn"
    assert not ratio(found[name]).is_off
    # The mean if the tail beyond ten words were piled up at ten.
    assert ratio(dataclasses.replace(found[name], nominal=4.463)).is_off
