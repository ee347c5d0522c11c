"""SQuAD: scores restated, best spans by brute force, windows, and a run that learns."""

import collections
import dataclasses
import json
import random
import re
import string

import numpy as np
import pytest

from research.errors import UserError
from research.evaluation.squad import data, scoring
from research.evaluation.squad.data import Question, Windows
from research.evaluation.squad.finetune import finetune_squad, make_program
from research.evaluation.squad.scoring import Answer
from tests.helpers import CLS, DATA, SEP
from tests.research.evaluation import toy
from tests.research.evaluation.toy import settings

WINDOWS = Windows(max_query_tokens=8, stride=6, max_answer_tokens=5)


class OffsetTokenizer(toy.ToyTokenizer):
    """Words and punctuation, with the characters they are of."""

    def encode(self, text):
        return self.encode_with_offsets([text])[0][0]

    def encode_with_offsets(self, texts):
        found = []
        for text in texts:
            pieces = list(re.finditer(r"\w+|[^\w\s]", text))
            ids = [super(OffsetTokenizer, self).encode(m[0])[0] for m in pieces]
            # As byte-level tokenizers do: the space belongs to the word after it.
            spans = [(max(0, m.start() - (m.start() > 0)), m.end()) for m in pieces]
            found.append((ids, spans))
        return found


@pytest.fixture
def trained():
    encoder = toy.backbone("encoder", max_seq_len=64)
    return dataclasses.replace(encoder, tokenizer=OffsetTokenizer())


def question(context, answer=None, name="q", text="who ?", labelled=True):
    answers = () if answer is None else (answer,)
    starts = () if answer is None else (context.index(answer),)
    return Question(name, text, context, answers, starts, labelled)


# Scores, restated from the description and not from the code.


def restated_normalise(text):
    kept = [c for c in text.lower() if c not in set(string.punctuation)]
    words = re.split(r"\s+", re.sub(r"\b(?:the|an|a)\b", " ", "".join(kept)))
    return [word for word in words if word]


def restated_f1(prediction, gold):
    first, second = restated_normalise(prediction), restated_normalise(gold)
    if not first or not second:
        return 1.0 if first == second else 0.0
    left = collections.Counter(second)
    shared = 0
    for word in first:
        if left[word]:
            left[word] -= 1
            shared += 1
    if not shared:
        return 0.0
    precision, recall = shared / len(first), shared / len(second)
    return 2 * precision * recall / (precision + recall)


def test_scores_equal_their_restatement():
    rng = random.Random(0)
    words = [
        "the",
        "The",
        "a",
        "an",
        "Ann",
        "cat's",
        "cat",
        "U.S.",
        "x-y",
        "4,000",
        "—",
        "",
    ]
    for _ in range(500):
        prediction, *golds = (
            " ".join(rng.choices(words, k=rng.randrange(5))) for _ in range(3)
        )
        # SQuAD 2.0's script drops golds of which nothing is left.
        golds = [g for g in golds if restated_normalise(g)] or [""]
        wanted = max(restated_f1(prediction, gold) for gold in golds)
        given = [*golds, *rng.sample(["the", "--", ""], k=2)]
        assert scoring.f1(prediction, given) == pytest.approx(wanted)
        same = any(
            restated_normalise(prediction) == restated_normalise(g) for g in golds
        )
        assert scoring.exact_match(prediction, given) == same


def test_known_scores():
    assert scoring.exact_match("The Saint-Denis!", ["saintdenis"]) == 1
    assert scoring.f1("in the old city", ["old city", "city"]) == 0.8
    # No gold answer: silence is right, anything else wrong.
    assert scoring.f1("", ()) == scoring.exact_match("", ()) == 1
    assert scoring.f1("a word", ()) == scoring.exact_match("word", ()) == 0
    found = scoring.score(
        {"x": "cat", "y": "", "z": ""}, {"x": ["cat"], "y": (), "z": ["dog"]}
    )
    assert found["exact_match"] == pytest.approx(2 / 3)
    assert found["has_answer_f1"] == 0.5 and found["no_answer_f1"] == 1.0
    assert "no_answer_f1" not in scoring.score({"x": "cat"}, {"x": ["cat"]})
    with pytest.raises(ValueError, match="1 of 2 questions have no prediction"):
        scoring.score({"x": ""}, {"x": (), "y": ()})


@pytest.mark.parametrize("size", [1, 2, 7, 30])
@pytest.mark.parametrize("longest", [1, 3, 50])
def test_best_span_by_brute_force(size, longest):
    rng = np.random.default_rng(size * longest)
    for _ in range(20):
        starts, ends = rng.normal(size=(2, size)).astype(np.float32)
        start, end, value = scoring.best_span(starts, ends, longest)
        spans = [
            (starts[i] + ends[j], i, j)
            for i in range(size)
            for j in range(i, min(size, i + longest))
        ]
        best = max(spans)
        assert (start, end) == best[1:]
        assert value == pytest.approx(best[0])


def test_best_threshold_by_trying_all():
    rng = random.Random(1)
    for _ in range(30):
        golds = {str(i): rng.choice([("cat",), ()]) for i in range(8)}
        answers = {
            name: Answer(rng.choice(["cat", "dog"]), rng.choice([-2.0, -1.0, 0.5, 3.0]))
            for name in golds
        }

        def f1_at(threshold, answers=answers, golds=golds):
            predictions = scoring.with_threshold(answers, threshold)
            return scoring.score(predictions, golds)["f1"]

        found = f1_at(scoring.best_threshold(answers, golds))
        assert found == max(map(f1_at, [-9.0, -2.0, -1.0, 0.5, 3.0]))


# Windows.


def test_windows_cover_the_passage_and_place_the_answer(trained):
    words = [f"w{i}" for i in range(30)]
    item = question(" ".join(words), "w20 w21")
    rows = data.cut_into_rows(trained, [item], WINDOWS, 16)
    # [CLS] who ? [SEP] + 11 passage tokens + [SEP]
    ids = trained.tokenizer.encode(item.context)
    seen = set()
    for row in rows:
        assert len(row.tokens) <= 16 and row.tokens[0] == CLS
        assert row.tokens[-1] == row.tokens[row.context_start - 1] == SEP
        passage = row.tokens[row.context_start : -1].tolist()
        first = next(i for i in range(30) if ids[i : i + len(passage)] == passage)
        seen |= set(range(first, first + len(passage)))
        inside = first <= 20 and 21 < first + len(passage)
        if inside:
            assert row.tokens[row.start : row.end + 1].tolist() == ids[20:22]
            begin, end = (
                row.offsets[row.start - row.context_start, 0],
                row.offsets[row.end - row.context_start, 1],
            )
            assert item.context[begin:end].strip() == "w20 w21"
        else:
            assert row.start == row.end == row.null == 0
    assert seen == set(range(30))
    starts = [row.offsets[0, 0] for row in rows]
    assert len(starts) == len(set(starts)) == 5  # 0, 6, 12, 18, 24: stride 6


def test_null_is_where_everything_can_be_seen(trained):
    decoder = toy.backbone("decoder", max_seq_len=64)
    decoder = dataclasses.replace(decoder, tokenizer=OffsetTokenizer())
    (row,) = data.cut_into_rows(decoder, [question("a b c")], WINDOWS, 32)
    assert row.start == row.end == row.null == len(row.tokens) - 1


def test_part_of_a_token_counts_as_the_token(trained):
    item = question("born in 1066, maybe", "06")
    (row,) = data.cut_into_rows(trained, [item], WINDOWS, 32)
    assert trained.tokenizer.decode([row.tokens[row.start]]) == "1066"


def test_no_room_for_a_passage(trained):
    long = question("a b", text="one two three four five six seven eight")
    with pytest.raises(UserError, match="leaves no room for a passage"):
        data.cut_into_rows(trained, [long], WINDOWS, 11)


# Files.


def test_broken_files(tmp_path):
    path = tmp_path / "x.json"
    with pytest.raises(UserError, match="No such file.*give a SQuAD JSON"):
        data.read(path)
    for content, message in (
        (b"{", "is not JSON"),
        (b"\xff", "is not JSON"),
        (b'{"data": [3]}', "no SQuAD JSON"),
        (b'{"data": 3}', "'data' cannot be 3"),
    ):
        path.write_bytes(content)
        with pytest.raises(UserError, match=message):
            data.read(path)
    path.write_text(json.dumps({"data": [{"paragraphs": [{"qas": [{}]}]}]}))
    with pytest.raises(UserError, match=r"'context'.*expected data\[\]\.paragraphs"):
        data.read(path)
    answers = [{"text": "b", "answer_start": 0}]
    qas = [{"id": "7", "question": "?", "answers": answers}]
    path.write_text(
        json.dumps({"data": [{"paragraphs": [{"context": "a", "qas": qas}]}]})
    )
    with pytest.raises(UserError, match="question 7: the answer 'b' is not at"):
        data.read(path)


def test_files_of_both_versions_and_without_answers(tmp_path):
    answers = [
        {"text": "blue", "answer_start": 3},
        {"text": "is blue", "answer_start": 0},
    ]
    entries = [
        {"id": "1.1", "question": "what ?", "answers": answers},
        {
            "id": "2.0",
            "question": "who ?",
            "answers": answers[:1],
            "is_impossible": True,
        },
        {"id": "test", "question": "when ?"},
        {
            "id": "empty",
            "question": "how ?",
            "answers": [{"text": "", "answer_start": -1}],
        },
    ]
    paragraph = {"context": "is blue", "qas": entries}
    path = tmp_path / "x.json"
    text = json.dumps({"data": [{"paragraphs": [paragraph]}]})
    path.write_text(text, encoding="utf-8-sig")  # with a byte order mark
    assert data.read(path) == (
        Question("1.1", "what ?", "is blue", ("blue", "is blue"), (3, 0), True),
        Question("2.0", "who ?", "is blue", (), (), True),
        Question("test", "when ?", "is blue", (), (), False),
        Question("empty", "how ?", "is blue", (), (), True),
    )


@pytest.mark.skipif(not (DATA / "squad").is_dir(), reason=f"no files in {DATA}/squad")
def test_official_files():
    counts = {
        "train-v1.1.first12articles": (4370, 4370, 4370),
        "xquad.en": (1190, 1190, 1190),
        "dev-v2.0.half": (6078, 6078, 6078 - 3168),
        "test-v2.0.half_noanswers": (5915, 0, 0),
    }
    for name, wanted in counts.items():
        questions = data.read(DATA / "squad" / f"{name}.json")
        found = (
            len(questions),
            sum(q.is_labelled for q in questions),
            sum(bool(q.answers) for q in questions),
        )
        assert found == wanted, name


# A whole run.


def colour_questions(count, seed):
    """The answer follows the word 'is'; a quarter of the passages have none."""
    rng = random.Random(seed)
    items = []
    for i in range(count):
        words = [f"w{rng.randrange(20)}" for _ in range(rng.randrange(4, 14))]
        colour = rng.choice(["red", "green", "blue"])
        answer = None
        if rng.random() < 0.75:
            words.insert(rng.randrange(1, len(words)), f"is {colour}")
            answer = colour
        items.append(question(" ".join(words), answer, name=f"{seed}-{i}"))
    return items


@pytest.fixture(scope="module")
def run():
    encoder = toy.backbone("encoder", max_seq_len=64)
    encoder = dataclasses.replace(encoder, tokenizer=OffsetTokenizer())
    given = settings(
        num_epochs=12, learning_rate=2e-2, bucket_lengths=(), max_length=24
    )
    dev = colour_questions(40, seed=2)
    result = finetune_squad(
        encoder,
        colour_questions(160, seed=1),
        dev,
        given,
        WINDOWS,
        seed=0,
        progress_file=None,
        save_seconds=60.0,
    )
    return encoder, given, dev, result


def test_it_learns_to_answer(run):
    _, _, dev, result = run
    assert result.scores["f1"] > 0.85
    assert result.tuned["f1"] >= result.scores["f1"] - 1e-9
    assert set(result.answers) == {item.name for item in dev}
    assert result.failed == "" and result.cut_answers == 0


def test_answers_do_not_depend_on_shapes(run):
    encoder, given, dev, result = run
    from research.evaluation.squad.finetune import _Reader

    program = make_program(encoder, given)
    changed = dataclasses.replace(given, eval_batch_size=7, bucket_lengths=(16, 20))
    reader = _Reader(program, encoder, changed, WINDOWS)
    found = reader.answers(result.params, dev)
    for name, answer in result.answers.items():
        assert found[name].text == answer.text
        assert found[name].null_odds == pytest.approx(answer.null_odds, abs=1e-4)


def test_answers_over_windows(run):
    """A long passage is answered from whichever window has the answer."""
    encoder, given, _, result = run
    from research.evaluation.squad.finetune import _Reader

    filler = [f"w{i % 20}" for i in range(30)]
    reader = _Reader(make_program(encoder, given), encoder, given, WINDOWS)
    for place in (3, 14, 27):
        words = [*filler[:place], "is blue", *filler[place:]]
        item = question(" ".join(words), "blue")
        assert len(reader.cut([item])) > 1
        answer = reader.answers(result.params, [item])["q"]
        assert answer.text == "blue" and answer.null_odds < 0


def test_an_answer_keeps_the_accents_that_its_tokens_lost(run):
    """Normalisers that strip accents give offsets that end before them."""
    encoder, given, _, _ = run
    from research.evaluation.squad.finetune import _Reader

    reader = _Reader(make_program(encoder, given), encoder, given, WINDOWS)
    context = "the cafe\u0301, closed"
    row = data.Row(
        question=0,
        tokens=np.zeros(4, np.int32),
        context_start=1,
        offsets=np.array([(0, 3), (3, 8), (9, 10)]),
        null=0,
        start=0,
        end=0,
    )
    logits = np.zeros((4, 2), np.float32)
    logits[2] = 1.0
    assert reader._best(row, logits, context) == (2.0, "cafe\u0301")


def test_a_run_that_never_answers_counts_as_failed(run):
    encoder, given, dev, _ = run
    silent = [dataclasses.replace(item, answers=(), starts=()) for item in dev]
    result = finetune_squad(
        encoder,
        silent,
        dev,
        dataclasses.replace(given, num_epochs=6),
        WINDOWS,
        seed=0,
        progress_file=None,
        save_seconds=60.0,
    )
    assert result.failed == "never answers"
    assert result.scores["has_answer_f1"] == 0.0


def test_refusals(run):
    encoder, given, dev, _ = run
    unlabelled = [
        dataclasses.replace(item, answers=(), is_labelled=False) for item in dev
    ]
    common = dict(seed=0, progress_file=None, save_seconds=1.0)
    with pytest.raises(UserError, match="no question with an answer"):
        finetune_squad(encoder, unlabelled, dev, given, WINDOWS, **common)
    best = dataclasses.replace(given, selection="best", selection_metric="loss")
    with pytest.raises(UserError, match="selection = 'last'"):
        finetune_squad(encoder, dev, dev, best, WINDOWS, **common)
    with pytest.raises(ValueError, match="stride = 0"):
        dataclasses.replace(WINDOWS, stride=0)
