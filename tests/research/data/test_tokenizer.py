"""Tokenizers: round trips, ids of special tokens, tables, files, bad files."""

import itertools
import json
import struct
import sys

import jax.numpy as jnp
import numpy as np
import pytest
import tokenizers

from objectives.corruption import rows
from research.data import pieces, tokenizer_files, tokenizer_training
from research.data.errors import DataError
from research.data.roles import NAMES
from research.data.tokenizer import Tokenizer
from tests.research.data import helpers

KINDS = tuple(tokenizer_training.KINDS)
TEXTS = [*helpers.sentences(300), "0 1 2 3 4 5 6 7 8 9"]
HARD = [
    "",
    "   ",
    "two  spaces\tand\n\nlines ",
    "emoji 😀👩‍👩‍👧 and e\u0301 combining",
    "漢字 한국어",
    "\x00\x01\x7f\u200b",
    "x" * 3000,
    "[EOD] and [MASK] and <extra_id_0> as text",
]


@pytest.fixture(scope="module")
def trained():
    return {
        kind: tokenizer_training.train(TEXTS, helpers.tokenizer_config(kind))
        for kind in KINDS
    }


@pytest.mark.parametrize("kind", KINDS)
def test_ids_of_special_tokens(trained, kind):
    tokenizer = trained[kind]
    vocabulary = tokenizer.vocabulary()
    assert tokenizer.vocab_size == vocabulary.vocab_size == 320
    assert tokenizer.pieces[:8] == tuple(names[0] for names in NAMES.values())
    assert [getattr(vocabulary, f"{role}_id") for role in NAMES] == list(range(8))
    assert vocabulary.sentinel_ids == tuple(range(319, 311, -1))
    assert tokenizer.token(319) == "<extra_id_0>"
    assert vocabulary.is_special[:8].all() and vocabulary.is_special[312:].all()
    unused = [piece.startswith("[unused") for piece in tokenizer.pieces]
    assert (vocabulary.is_special[8:312] == unused[8:312]).all()
    assert not vocabulary.is_special[tokenizer.encode(" ".join(TEXTS))].any()


def test_byte_level_round_trip_is_exact(trained):
    for text in [*TEXTS, *HARD]:
        assert trained["bpe"].decode(trained["bpe"].encode(text)) == text


@pytest.mark.parametrize("kind", ["wordpiece", "unigram"])
def test_other_kinds_round_trip_but_for_spaces(trained, kind):
    for text in TEXTS:
        decoded = trained[kind].decode(trained[kind].encode(text))
        assert decoded.replace(" ", "") == text.replace(" ", "")


@pytest.mark.parametrize("kind", KINDS)
def test_training_is_deterministic(trained, kind):
    again = tokenizer_training.train(TEXTS, helpers.tokenizer_config(kind))
    assert again.fingerprint == trained[kind].fingerprint


@pytest.mark.parametrize("kind", KINDS)
def test_lowercase(kind):
    config = helpers.tokenizer_config(kind, lowercase=True)
    tokenizer = tokenizer_training.train(TEXTS, config)
    assert tokenizer.encode("The Model") == tokenizer.encode("the model")


def test_special_names_are_text_unless_parsed(trained):
    for tokenizer in trained.values():
        special = tokenizer.vocabulary().is_special.copy()
        special[tokenizer.special_ids["unk"]] = False
        assert not special[tokenizer.encode("a [MASK] <extra_id_2> [EOD]")].any()
        ids = tokenizer.encode("a [MASK] <extra_id_2>", parse_specials=True)
        assert tokenizer.special_ids["mask"] in ids
        assert tokenizer.sentinel_ids[2] in ids
        assert "[MASK]" not in tokenizer.decode(ids, skip_special=True)


def test_batch_equals_single(trained):
    for tokenizer in trained.values():
        assert tokenizer.encode_batch(HARD) == [tokenizer.encode(t) for t in HARD]


@pytest.mark.parametrize("kind", KINDS)
def test_save_and_load(trained, tmp_path, kind):
    counts = np.arange(320)
    saved = Tokenizer.of(trained[kind].definition, unigram_counts=counts)
    saved.save(tmp_path)
    for path in (tmp_path, tmp_path / "tokenizer.json"):
        loaded = tokenizer_files.load(path)
        assert loaded.fingerprint == trained[kind].fingerprint
        assert loaded.encode(TEXTS[0]) == trained[kind].encode(TEXTS[0])
    assert (tokenizer_files.load(tmp_path).vocabulary().unigram_counts == counts).all()


def test_word_starts_and_bytes(trained):
    text = "the model returns 3.14 lines."
    for kind, tokenizer in trained.items():
        vocabulary = tokenizer.vocabulary()
        ids = tokenizer.encode(" " + text)
        words = sum(map(int, vocabulary.is_word_start[ids]))
        # WordPiece splits at punctuation: 3 . 14 and the last full stop.
        assert words == (8 if kind == "wordpiece" else 5)
        size = vocabulary.byte_lengths[ids].sum()
        spaces = 0 if kind == "wordpiece" else 5
        assert size == len(text.replace(" ", "")) + spaces
        assert (vocabulary.byte_lengths[vocabulary.is_special] == 0).all()


def test_sentence_ends_of_texts():
    ends = [".", "!", '?"', ".)", "...", "\n", " \n\n ", ".\n", "。", ' etc."']
    continues = ["", "a", " ", "3.1", '"', ",", "\na", ".a", ")"]
    assert all(pieces.ends_sentence(text.encode()) for text in ends)
    assert not any(pieces.ends_sentence(text.encode()) for text in continues)


def test_byte_alphabet_is_the_librarys():
    alphabet = tokenizers.pre_tokenizers.ByteLevel.alphabet()
    assert set(alphabet) == set(pieces._BYTE_OF)
    assert sorted(pieces._BYTE_OF.values()) == list(range(256))
    encoder = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    text = bytes(range(128)).decode() + "é漢😀"
    split = "".join(piece for piece, _ in encoder.pre_tokenize_str(text))
    assert bytes(pieces._BYTE_OF[c] for c in split) == text.encode()


def test_plain_pieces_do_not_tell_words():
    backend = tokenizers.Tokenizer(
        tokenizers.models.WordLevel({"a": 0, "[UNK]": 1}, unk_token="[UNK]")
    )
    vocabulary = Tokenizer.of(backend.to_str()).vocabulary()
    assert vocabulary.is_word_start is None
    assert not vocabulary.has("is_word_start") and not vocabulary.has("unigram_counts")


def test_extend_appends_what_is_missing(trained):
    backend = tokenizers.Tokenizer(
        tokenizers.models.BPE({"a": 0, "<s>": 1, "</s>": 2, "b": 3}, [])
    )
    backend.add_special_tokens(["<s>", "</s>"])
    plain = Tokenizer.of(backend.to_str())
    assert plain.special_ids["cls"] == plain.special_ids["mask"] == -1
    longer = plain.extend(["mask_id", "eos_id", "sentinel_ids"], num_sentinels=3)
    assert longer.pieces[:4] == plain.pieces
    assert longer.special_ids["mask"] == 4
    assert longer.special_ids["eos"] == plain.special_ids["eos"] == 2
    assert longer.sentinel_ids == (7, 6, 5)
    assert trained["bpe"].extend(["mask_id"]).fingerprint == trained["bpe"].fingerprint
    with pytest.raises(ValueError, match="mask_id, .*sentinel_ids"):
        plain.extend(["masc_id"])


def test_training_refuses_what_has_no_room():
    with pytest.raises(DataError, match="bpe, wordpiece, unigram"):
        tokenizer_training.train(TEXTS, helpers.tokenizer_config("bpo"))
    with pytest.raises(DataError, match="256 or more"):
        tokenizer_training.train(TEXTS, helpers.tokenizer_config(vocab_size=200))


# Files.


def test_bert_vocabulary_is_uncased_when_it_is(tmp_path):
    words = ["[PAD]", "[unused0]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "the", "##m"]
    path = tmp_path / "vocab.txt"
    path.write_text("\n".join(words) + "\n")
    tokenizer = tokenizer_files.load(path)
    assert tokenizer.encode("THE them [MASK]", parse_specials=True) == [6, 6, 7, 5]
    assert tokenizer.encode("thén") == [2]
    vocabulary = tokenizer.vocabulary()
    assert vocabulary.is_special.tolist() == [True] * 6 + [False] * 2
    assert vocabulary.is_word_start.tolist() == [True] * 7 + [False]
    assert (vocabulary.eod_id, vocabulary.bos_id) == (4, -1)
    path.write_text("\n".join([*words, "The"]) + "\n")
    assert tokenizer_files.load(path).encode("The the THE") == [8, 6, 2]


def test_gpt2_files(tmp_path):
    vocabulary = {"a": 0, "b": 1, "ab": 2, "Ġ": 3, "<|endoftext|>": 4, "model": 5}
    (tmp_path / "encoder.json").write_text(json.dumps(vocabulary))
    (tmp_path / "vocab.bpe").write_text("#version: 0.2\na b\n")
    for path in (tmp_path, tmp_path / "encoder.json", tmp_path / "vocab.bpe"):
        tokenizer = tokenizer_files.load(path)
        assert tokenizer.encode("ab a<|endoftext|>", parse_specials=True) == [
            2,
            3,
            0,
            4,
        ]
    ids = tokenizer.special_ids
    assert ids["eod"] == ids["bos"] == ids["eos"] == ids["pad"] == 4
    assert ids["unk"] == ids["cls"] == ids["sep"] == ids["mask"] == -1
    (tmp_path / "vocab.bpe").unlink()
    with pytest.raises(DataError, match=r"needs vocab\.bpe or merges\.txt"):
        tokenizer_files.load(tmp_path)


def test_roberta_files_have_a_frame(tmp_path):
    names = ["<s>", "<pad>", "</s>", "<unk>", "a", "Ġ", "<mask>"]
    (tmp_path / "vocab.json").write_text(
        json.dumps({n: i for i, n in enumerate(names)})
    )
    (tmp_path / "merges.txt").write_text("#version: 0.2\n")
    tokenizer = tokenizer_files.load(tmp_path)
    ids = dict(tokenizer.special_ids)
    assert ids == dict(pad=1, unk=3, cls=0, sep=2, mask=6, bos=0, eos=2, eod=2)
    # The mask swallows the space before it.
    assert tokenizer.encode("a <mask>", parse_specials=True) == [4, 6]


def test_names_in_a_folder_come_first(trained, tmp_path):
    trained["bpe"].save(tmp_path)
    names = {"mask_token": {"content": "<extra_id_5>"}, "eod_token": "[EOS]"}
    (tmp_path / "special_tokens_map.json").write_text(json.dumps(names))
    # Names changed by hand are no damage.
    (tmp_path / "checksums.json").unlink()
    tokenizer = tokenizer_files.load(tmp_path)
    assert tokenizer.special_ids["mask"] == tokenizer.sentinel_ids[5]
    assert tokenizer.special_ids["eod"] == tokenizer.special_ids["eos"] == 6
    tokenizer.save(tmp_path / "again")
    again = tokenizer_files.load(tmp_path / "again")
    assert again.special_ids == tokenizer.special_ids


def sentencepiece_file(path, *, model_type=1):
    """A sentencepiece model of four pieces, by the wire format's own rules."""

    def message(number, content):
        return bytes([number << 3 | 2, len(content)]) + content

    def piece(text, score, kind):
        body = message(1, text.encode()) + b"\x15" + struct.pack("<f", score)
        return message(1, body + b"\x18" + bytes([kind]))

    content = piece("<pad>", 0, 3) + piece("</s>", 0, 3) + piece("<unk>", 0, 2)
    content += piece("▁a", -1.5, 1) + piece("b", -2.5, 1)
    content += message(2, b"\x18" + bytes([model_type]) + b"\xc0\x02\x02")
    path.write_bytes(content)
    return path


def test_sentencepiece_file(tmp_path):
    path = sentencepiece_file(tmp_path / "spiece.model")
    tokenizer = tokenizer_files.load(path)
    model = json.loads(tokenizer.definition)["model"]
    assert [piece for piece, _ in model["vocab"]] == [
        "<pad>",
        "</s>",
        "<unk>",
        "▁a",
        "b",
    ]
    assert [score for _, score in model["vocab"][3:]] == [-1.5, -2.5]
    assert model["unk_id"] == 2 and not model["byte_fallback"]
    assert tokenizer.encode("a  ab") == [3, 3, 4]
    assert tokenizer.vocab_size == 105
    assert tokenizer.sentinel_ids[0] == 104 and len(tokenizer.sentinel_ids) == 100
    ids = tokenizer.special_ids
    assert (ids["pad"], ids["eos"], ids["unk"], ids["eod"]) == (0, 1, 2, 1)
    assert ids["cls"] == ids["mask"] == -1


def test_without_sentencepiece_the_error_names_the_extra(tmp_path, monkeypatch):
    path = sentencepiece_file(tmp_path / "spiece.model")
    monkeypatch.setitem(sys.modules, "sentencepiece", None)
    with pytest.raises(DataError, match=r"needs the packages .*\[hub\]"):
        tokenizer_files.load(path)


def test_bad_tokenizer_files(tmp_path):
    with pytest.raises(DataError, match=r"not found.*\n.*tokenizer\.json"):
        tokenizer_files.load(tmp_path / "nothing")
    with pytest.raises(DataError, match="holds no tokenizer"):
        tokenizer_files.load(tmp_path)
    bad = {
        "tokenizer.json": b'{"model": {}',
        "empty.model": b"",
        "cut.model": sentencepiece_file(tmp_path / "x.model").read_bytes()[:-3],
        "words.txt": b"one\ntwo\n",
        "some.bin": b"x",
    }
    for name, content in bad.items():
        path = tmp_path / name
        path.write_bytes(content)
        with pytest.raises(DataError, match=name):
            tokenizer_files.load(path)
    with pytest.raises(DataError, match="of type bpe; only unigram"):
        tokenizer_files.load(sentencepiece_file(tmp_path / "x.model", model_type=2))


def test_no_separator_is_refused_by_name():
    backend = tokenizers.Tokenizer(tokenizers.models.BPE({"a": 0}, []))
    with pytest.raises(DataError, match=r"\[EOD\]"):
        Tokenizer.of(backend.to_str()).require_separator()


def test_objectives_find_sentences_in_byte_level_tokens(trained):
    tokenizer = trained["bpe"]
    text = "The model\nreturns 3.14 rows. It\n\nIs given (a file). done"
    ids = np.array([tokenizer.encode(text)], np.int32)
    ends = np.asarray(rows.sentence_ends(jnp.asarray(ids), tokenizer.vocabulary()))[0]
    cuts = [0, *(np.flatnonzero(ends) + 1), len(ends)]
    pairs = itertools.pairwise(cuts)
    sentences = [tokenizer.decode(ids[0, first:last]) for first, last in pairs]
    assert [sentence.strip() for sentence in sentences if sentence.strip()] == [
        "The model",
        "returns 3.14 rows.",
        "It",
        "Is given (a file).",
        "done",
    ]


CHINESE = [chr(0x4E00 + i) for i in range(3000)]


def characters(number: int, rng: np.random.Generator) -> str:
    return "".join(rng.choice(CHINESE, number))


def test_wordpiece_knows_as_many_characters_as_fit():
    rng = np.random.default_rng(0)
    texts = [characters(300, rng) for _ in range(200)]
    config = helpers.tokenizer_config("wordpiece", vocab_size=8192)
    tokenizer = tokenizer_training.train(texts, config)
    unknown = tokenizer.vocabulary().unk_id
    assert not np.isin(unknown, np.concatenate(tokenizer.encode_batch(texts)))


@pytest.mark.parametrize("kind", ["bpe", "wordpiece", "unigram"])
def test_masks_and_sentinels_take_the_space_before_them(trained, kind):
    tokenizer = trained[kind]
    spaced, bare = tokenizer.encode_batch(
        [
            "one of the [MASK] in <extra_id_0> town",
            "one of the[MASK] in<extra_id_0> town",
        ],
        parse_specials=True,
    )
    assert list(spaced) == list(bare)


def test_characters_of_unspaced_scripts_are_words():
    tokenizer = tokenizer_training.train(
        ["一二三四五 and สวัสดี one two 一二 三四"] * 20,
        helpers.tokenizer_config("wordpiece", vocab_size=700),
    )
    (ids,) = tokenizer.encode_batch(["一二三 ones"])
    starts = tokenizer.vocabulary().is_word_start[np.asarray(ids)]
    found = [tokenizer.token(int(i)) for i in ids]
    assert starts[:3].all() and found[0] == "一"
    assert not starts[4:].any()  # The rest of "ones".


def test_a_text_has_the_same_tokens_every_time(trained):
    values = json.loads(trained["bpe"].definition)
    values["model"]["dropout"] = 0.5
    tokenizer = Tokenizer.of(json.dumps(values))
    right = trained["bpe"].encode_batch(TEXTS)
    assert [*map(list, tokenizer.encode_batch(TEXTS))] == [*map(list, right)]
