"""BLiMP end to end against transformers and torch: files, tokenizer, model, decisions.

PALIMPSEST_BLIMP_PAIRS pairs of each paradigm (2 by default) make it as large as wanted.
"""

import os
import shutil

import numpy as np
import pytest

from research.conversion import run as conversion
from research.evaluation.blimp import blimp
from research.training import trained_run as backbone_lib
from tests.helpers import DATA

NUM_PAIRS = int(os.environ.get("PALIMPSEST_BLIMP_PAIRS", "2"))
# Decisions may differ where both sentences are this close, in nats.
TIE = 1e-4
GPT2 = dict(n_embd=64, n_layer=2, n_head=4, n_positions=64)
BERT = dict(
    hidden_size=64,
    num_hidden_layers=2,
    num_attention_heads=4,
    intermediate_size=128,
    max_position_embeddings=64,
)

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]


@pytest.fixture(scope="module", autouse=True)
def data():
    for folder in (DATA / "blimp", DATA / "vocab"):
        if not folder.is_dir():
            pytest.skip(
                f"needs {folder}; set PALIMPSEST_DATA to the folder that has it"
            )


def gpt2(folder):
    """Random GPT-2 with the published vocabulary, saved as transformers saves it."""
    files = DATA / "vocab" / "gpt2"
    shutil.copyfile(files / "encoder.json", folder / "vocab.json")
    shutil.copyfile(files / "vocab.bpe", folder / "merges.txt")
    tokenizer = transformers.GPT2Tokenizer(
        vocab=str(folder / "vocab.json"), merges=str(folder / "merges.txt")
    )
    model = transformers.GPT2LMHeadModel(transformers.GPT2Config(**GPT2))
    return tokenizer, model


def bert(folder):
    """Random BERT with the published vocabulary."""
    shutil.copyfile(
        DATA / "vocab" / "bert-base-uncased" / "vocab.txt", folder / "vocab.txt"
    )
    tokenizer = transformers.BertTokenizer.from_pretrained(folder)
    return tokenizer, transformers.BertForMaskedLM(transformers.BertConfig(**BERT))


def randomised(model):
    """Weights so large that sentences differ by nats."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            parameter.add_(0.15 * noise)
    return model.eval()


def log_likelihood(tokenizer, model, sentence) -> float:
    """Of the sentence after the start token; a token at a time for an encoder."""
    ids = tokenizer(sentence, add_special_tokens=False)["input_ids"]
    if isinstance(model, transformers.GPT2LMHeadModel):
        tokens = torch.tensor([[tokenizer.bos_token_id, *ids]])
        log_probs = model(tokens).logits[0, :-1].double().log_softmax(-1)
        return float(log_probs.gather(1, tokens[0, 1:, None]).sum())
    framed = torch.tensor([tokenizer.cls_token_id, *ids, tokenizer.sep_token_id])
    copies, index = framed.repeat(len(ids), 1), torch.arange(len(ids))
    copies[index, index + 1] = tokenizer.mask_token_id
    logits = model(copies).logits[index, index + 1]
    return float(logits.double().log_softmax(-1)[index, framed[1:-1]].sum())


@pytest.mark.parametrize("family", [gpt2, bert])
def test_decisions_on_official_pairs_equal_those_of_torch(family, tmp_path):
    folder, workdir = tmp_path / "theirs", tmp_path / "ours"
    folder.mkdir()
    tokenizer, model = family(folder)
    randomised(model).save_pretrained(folder)
    assert conversion.import_checkpoint(str(folder), workdir, experiment=None) == 0
    paradigms = blimp.load(str(DATA / "blimp"), NUM_PAIRS)
    ours = blimp.evaluate(backbone_lib.load(workdir), paradigms)
    with torch.no_grad():
        theirs = np.array(
            [
                log_likelihood(tokenizer, model, good)
                - log_likelihood(tokenizer, model, bad)
                for paradigm in paradigms
                for good, bad in zip(paradigm.good, paradigm.bad)
            ]
        )
    differs = (ours.margins > 0) != (theirs > 0)
    apart = np.abs(ours.margins - theirs)
    print(
        f"{family.__name__}: {len(theirs)} pairs, {differs.sum()} other decisions, "
        f"margins at most {apart.max():.1e} nats apart (their median is "
        f"{np.median(np.abs(theirs)):.2f})"
    )
    assert differs.mean() <= 0.001
    assert np.all(np.abs(theirs[differs]) <= TIE)
    np.testing.assert_allclose(ours.margins, theirs, atol=2e-3)
