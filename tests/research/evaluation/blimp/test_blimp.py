"""BLiMP: which pairs, how they are decided, and the same decisions as torch makes."""

import json
import types

import numpy as np
import pytest

from research.errors import UserError
from research.evaluation.blimp import blimp, likelihood
from tests.helpers import DATA

BLIMP = DATA / "blimp"
# Decisions may differ where both sentences are this close, in nats.
TIE = 1e-4


def write(folder, name, count, phenomenon="binding"):
    lines = [
        {
            "sentence_good": f"good {name} {i}",
            "sentence_bad": f"bad {name} {i}",
            "linguistics_term": phenomenon,
        }
        for i in range(count)
    ]
    text = "".join(json.dumps(line) + "\n" for line in lines)
    (folder / f"{name}.jsonl").write_text(text)


def test_a_fixed_subset_is_spread_over_each_paradigm(tmp_path):
    write(tmp_path, "b", 10)
    write(tmp_path, "a", 4, phenomenon="s-selection")
    first, second = blimp.load(str(tmp_path), 5)
    assert (first.name, second.name) == ("a", "b")
    assert first.phenomenon == "argument_structure"
    assert len(first.good) == 4
    assert second.good == tuple(f"good b {i}" for i in (0, 2, 4, 6, 8))
    assert second.bad == tuple(f"bad b {i}" for i in (0, 2, 4, 6, 8))
    assert len(blimp.load(str(tmp_path), 0)[1].good) == 10
    assert blimp.load(str(tmp_path), 5) == blimp.load(str(tmp_path), 5)


def test_means_are_over_paradigms_and_ties_are_wrong():
    paradigms = [
        blimp.Paradigm(name=n, phenomenon=p, good=("x",) * k, bad=("y",) * k)
        for n, p, k in (("a", "one", 2), ("b", "one", 2), ("c", "two", 4))
    ]
    margins = [np.array(m) for m in ([1.0, -1.0], [2.0, 3.0], [0.0, 1.0, 1.0, 1.0])]
    found = blimp.summarise(paradigms, margins)
    assert found.paradigms == {"a": 0.5, "b": 1.0, "c": 0.75}
    assert found.phenomena == {"one": 0.75, "two": 0.75}
    assert found.accuracy == 0.75
    assert list(found.right) == [1, 0, 1, 1, 0, 1, 1, 1]
    assert any("64 of 67 paradigms are missing" in note for note in found.notes)


def test_every_sentence_meets_its_own_score(tmp_path, monkeypatch):
    write(tmp_path, "a", 3)
    write(tmp_path, "b", 2)
    ids = {}

    def encode_batch(texts):
        return [[ids.setdefault(text, len(ids))] for text in texts]

    def scores(trained, rows):
        texts = {number: text for text, number in ids.items()}
        # Good ones are likelier in paradigm a, and in the first pair of b.
        return np.array(
            [
                float((" a " in texts[int(row[0])]) == ("good" in texts[int(row[0])]))
                + 2.0 * (texts[int(row[0])] == "good b 0")
                for row in rows
            ]
        )

    monkeypatch.setattr(likelihood, "log_likelihoods", scores)
    trained = types.SimpleNamespace(
        tokenizer=types.SimpleNamespace(encode_batch=encode_batch)
    )
    found = blimp.evaluate(trained, blimp.load(str(tmp_path), 0))
    assert list(found.margins) == [1.0, 1.0, 1.0, 1.0, -1.0]
    assert found.paradigms == {"a": 1.0, "b": 0.5}


@pytest.mark.parametrize(
    "text,message",
    [
        ("", "is empty"),
        ('{"sentence_good": "x"}\n', "line 1 lacks 'sentence_bad'"),
        ('\n{"sentence_good": "x", "sent', "line 2 is not JSON"),
    ],
)
def test_damaged_files_are_named(tmp_path, text, message):
    (tmp_path / "a.jsonl").write_text(text)
    with pytest.raises(UserError, match=message):
        blimp.load(str(tmp_path), 100)


def test_marks_that_break_lines_elsewhere_are_text(tmp_path):
    pair = {"sentence_good": "a\u2028b\u0085", "sentence_bad": "b\u2029a"}
    line = json.dumps({**pair, "linguistics_term": "binding"}, ensure_ascii=False)
    path = tmp_path / "p.jsonl"
    path.write_bytes(f"{line}\r\n{line}\n".encode("utf-8-sig"))
    (paradigm,) = blimp.load(str(tmp_path), 0)
    assert paradigm.good == (pair["sentence_good"],) * 2
    assert paradigm.bad == (pair["sentence_bad"],) * 2


def test_missing_and_empty_folders_say_where_the_data_is(tmp_path):
    with pytest.raises(UserError, match="tfds:blimp"):
        blimp.load(str(tmp_path / "nowhere"), 100)
    with pytest.raises(UserError, match="holds no BLiMP"):
        blimp.load(str(tmp_path), 100)


@pytest.mark.skipif(
    not BLIMP.is_dir(), reason=f"no BLiMP in {BLIMP}; set PALIMPSEST_DATA"
)
def test_the_official_files_are_67_paradigms_of_12_phenomena():
    paradigms = blimp.load(str(BLIMP), 100)
    assert len(paradigms) == blimp.NUM_PARADIGMS
    assert len({paradigm.phenomenon for paradigm in paradigms}) == 12
    assert {len(paradigm.good) for paradigm in paradigms} == {100}


def torch_scores(pair, rows):
    """Log-likelihood (GPT-2) or pseudo-log-likelihood (BERT), a sentence at a time."""
    import torch

    scores = []
    vocabulary = pair.objective.vocabulary
    for row in rows:
        if pair.config.architecture == "decoder":
            tokens = torch.tensor([[vocabulary.eod_id, *row.tolist()]])
            with torch.no_grad():
                log_probs = pair.theirs(tokens).logits.double().log_softmax(-1)
            chosen = log_probs[0, :-1].gather(1, tokens[0, 1:, None])
            scores.append(float(chosen.sum()))
            continue
        framed = torch.tensor([vocabulary.cls_id, *row.tolist(), vocabulary.sep_id])
        copies = framed.repeat(len(row), 1)
        index = torch.arange(len(row))
        copies[index, index + 1] = vocabulary.mask_id
        with torch.no_grad():
            log_probs = pair.theirs(copies).logits.double().log_softmax(-1)
        scores.append(float(log_probs[index, index + 1, framed[1:-1]].sum()))
    return np.array(scores)


@pytest.mark.slow
@pytest.mark.parametrize("family", ["gpt2", "bert-masked-lm"])
def test_decisions_equal_those_of_transformers(family, tmp_path):
    pytest.importorskip("torch")
    pytest.importorskip("transformers")
    from tests.parity.test_conversion import make_pair

    pair = make_pair(family, tmp_path)
    trained = types.SimpleNamespace(
        vocabulary=pair.objective.vocabulary,
        model_config=pair.config,
        objective=pair.objective,
        params=pair.params,
    )
    rng = np.random.default_rng(0)
    # Minimal pairs: two sentences that differ in one token.
    good = [rng.integers(10, 250, rng.integers(4, 20)) for _ in range(300)]
    bad = [row.copy() for row in good]
    for row in bad:
        place = rng.integers(len(row))
        row[place] = (row[place] - 10 + rng.integers(1, 200)) % 240 + 10
    rows = [row.astype(np.int32) for row in (*good, *bad)]
    ours = likelihood.log_likelihoods(trained, rows)
    theirs = torch_scores(pair, rows)
    np.testing.assert_allclose(ours, theirs, rtol=1e-4)
    our_margin, their_margin = (s[:300] - s[300:] for s in (ours, theirs))
    differs = (our_margin > 0) != (their_margin > 0)
    assert differs.mean() <= 0.001
    assert np.all(np.abs(their_margin[differs]) <= TIE)
