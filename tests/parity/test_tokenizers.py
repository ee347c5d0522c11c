"""Published vocabularies give the ids that transformers gives."""

import gzip
import json

import pytest

from research.data import tokenizer_files
from tests.helpers import DATA

VOCABULARIES = DATA / "vocab"
CORPUS = DATA / "text" / "enwiki_good.jsonl.gz"
NUM_LINES = 10_000

HARD = [
    "",
    " ",
    "   ",
    "\n",
    "\t\n ",
    "a\n\nb",
    "a\rb\r\nc",
    "  leading",
    "trailing  ",
    "two  spaces",
    "emoji 😀👩‍👩‍👧‍👦🏳️‍🌈",
    "é e\u0301 a\u0308\u0323 n\u0303o",
    "漢字かな交じり文 한국어 ไทย",
    "ا ل ع ر ب ي ة עברית",
    "\x00\x01\x1f\x7f\u200b\ufeff\ufffd",
    "w" * 50,
    "w" * 150,
    "supercali" * 400,
    "x y" * 500,
    "naïve café ÀÉÎ İstanbul ß ẞ",
    "ﬁ ﬂ ½ Ⅷ ㎏",
    "\u00a0no-break\u2003space",
    "...!!! 3.14 1,000 's don't I'll",
    "𝒳𝒴 𠀀",
    "▁▁ Ġ ##x",
    "[MASK] </s> <|endoftext|> <extra_id_0> [SEP]",
    "Hello<extra_id_3>world [MASK].",
]


@pytest.fixture(scope="module")
def lines():
    if not CORPUS.exists():
        pytest.skip(f"needs {CORPUS}; set PALIMPSEST_DATA to the folder that has it")
    found = []
    with gzip.open(CORPUS) as file:
        for line in file:
            found += [part for part in json.loads(line)["text"].split("\n") if part]
            if len(found) >= NUM_LINES:
                return found[:NUM_LINES]
    return found


def bert(transformers):
    folder = VOCABULARIES / "bert-base-uncased"
    return folder, transformers.BertTokenizer.from_pretrained(folder)


def gpt2(transformers):
    folder = VOCABULARIES / "gpt2"
    return folder, transformers.GPT2Tokenizer(
        vocab=str(folder / "encoder.json"), merges=str(folder / "vocab.bpe")
    )


def t5(transformers):
    folder = VOCABULARIES / "t5"
    return folder, transformers.T5Tokenizer.from_pretrained(folder)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("family", [bert, gpt2, t5])
def test_ids_equal_transformers(lines, family):
    transformers = pytest.importorskip("transformers")
    if not VOCABULARIES.exists():
        pytest.skip(f"needs {VOCABULARIES}")
    folder, peer = family(transformers)
    ours = tokenizer_files.load(folder)
    texts = [*lines, *HARD]
    found = ours.encode_batch(texts, parse_specials=True)
    expected = peer(texts, add_special_tokens=False)["input_ids"]
    for text, ids, peers in zip(texts, found, expected, strict=True):
        assert list(ids) == list(peers), repr(text[:200])
    assert ours.vocab_size == len(peer)
    for role in ("pad", "unk", "cls", "sep", "mask", "bos", "eos"):
        number = getattr(peer, f"{role}_token_id")
        if number is not None and number != ours.special_ids["eod"]:
            assert ours.special_ids[role] == number, role
    if ours.sentinel_ids:
        assert ours.sentinel_ids == tuple(range(32099, 31999, -1))
