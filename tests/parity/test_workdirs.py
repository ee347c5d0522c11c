"""Whole folders: from transformers into a workdir, and back for transformers to load."""

import dataclasses
import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from research.config import experiments
from research.config import parse as config_lib
from research.conversion import run, safetensors
from research.data import tokenizer_files
from research.generation.decoding import DecodingConfig, generate
from research.generation.writer import Writer
from research.training import checkpoints, streamed, trained_run, workdir
from tests.parity.test_conversion import CASES, quietly, randomised

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
pytestmark = pytest.mark.slow

TEXTS = ["the cat sat", "on the mat ."]
WORDS = ["the", "cat", "sat", "on", "mat", ".", "a", "dog", "ran", "##s"]
# Embeddings of the cases have 512 rows.
PIECES = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS]
ENCODERS = {
    "bert": CASES["bert"],
    "roberta": CASES["roberta"],
    "distilbert": CASES["distilbert"],
    # What no objective has a head for comes back as well.
    "bert-bare": ("BertModel", *CASES["bert"][1:]),
    "electra-discriminator": (
        "ElectraForPreTraining",
        *CASES["electra-generator"][1:],
    ),
}


def make_folder(name: str, folder: pathlib.Path, dtype=None):
    """A checkpoint of random weights with a WordPiece vocabulary beside it."""
    model_class, config_class, settings = ENCODERS[name]
    config = quietly(getattr(transformers, config_class), **settings)
    theirs = randomised(quietly(getattr(transformers, model_class), config))
    theirs = theirs if dtype is None else theirs.to(dtype)
    quietly(theirs.save_pretrained, folder)
    (folder / "vocab.txt").write_text("\n".join(PIECES) + "\n")
    return theirs


def there_and_back(folder, tmp_path):
    """The workdir and the exported folder."""
    run.import_checkpoint(str(folder), tmp_path / "run", experiment=None)
    run.export_workdir(tmp_path / "run", tmp_path / "out", which="last")
    return tmp_path / "run", tmp_path / "out"


def assert_loads_without_a_word(folder, theirs):
    """All weights are found, none is left, and all are the same."""
    again, info = quietly(
        type(theirs).from_pretrained, folder, output_loading_info=True
    )
    assert not any(info[key] for key in ("missing_keys", "unexpected_keys"))
    assert not info["mismatched_keys"]
    found = dict(again.named_parameters())
    for name, parameter in theirs.named_parameters():
        assert torch.equal(found[name], parameter), name


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", ENCODERS)
def test_a_folder_comes_back_as_it_was(name, tmp_path):
    theirs = make_folder(name, tmp_path / "in")
    _, out = there_and_back(tmp_path / "in", tmp_path)
    assert_loads_without_a_word(out, theirs)
    assert json.loads((out / "config.json").read_text())["architectures"] == [
        type(theirs).__name__
    ]
    encode = quietly(transformers.AutoTokenizer.from_pretrained, out)
    encoded = encode(TEXTS, TEXTS[::-1], padding=True, return_tensors="pt")
    first = [PIECES.index(word) for word in ("[CLS]", "the", "cat", "sat", "[SEP]")]
    assert encoded["input_ids"][0, :5].tolist() == first
    has_types = "token_type_ids" in encoded
    assert has_types == (getattr(theirs.config, "type_vocab_size", 0) > 1)
    if has_types:
        assert encoded["token_type_ids"][0].max() == 1
    theirs(**encoded)
    assert "converted there and back" in (out / "README.md").read_text()


@pytest.mark.filterwarnings("ignore")
def test_half_precision_comes_back_bit_for_bit(tmp_path):
    theirs = make_folder("distilbert", tmp_path / "in", torch.bfloat16)
    workdir, out = there_and_back(tmp_path / "in", tmp_path)
    params, _ = checkpoints.load_params(workdir / "checkpoints")
    assert params["model"]["token_embedding"].dtype == np.float32
    before, after = (safetensors.open_folder(f) for f in (tmp_path / "in", out))
    for name in after:
        assert after[name].dtype == before[name].dtype
        np.testing.assert_array_equal(
            np.asarray(after[name]).view(np.uint16),
            np.asarray(before[name]).view(np.uint16),
        )
    assert json.loads((out / "config.json").read_text())["dtype"] == "bfloat16"
    assert theirs.dtype == torch.bfloat16


@pytest.mark.filterwarnings("ignore")
def test_a_trained_import_leaves_what_was_not_trained(tmp_path, capsys):
    make_folder("electra-discriminator", tmp_path / "in")
    run.import_checkpoint(str(tmp_path / "in"), tmp_path / "run", experiment=None)
    found = trained_run.load(tmp_path / "run")
    streamed.save_params(tmp_path / "run" / "checkpoints", found.params, step=7)
    run.export_workdir(tmp_path / "run", tmp_path / "out", which="last")
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config["architectures"] == ["ElectraForMaskedLM"]
    assert "discriminator_predictions.dense.weight" in capsys.readouterr().out
    _, info = quietly(
        transformers.ElectraForMaskedLM.from_pretrained,
        tmp_path / "out",
        output_loading_info=True,
    )
    assert not info["missing_keys"] and not info["unexpected_keys"]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name,comes_along", [("bert-bare", True), ("roberta", False)])
def test_a_pooler_is_what_fine_tuning_begins_with(name, comes_along, tmp_path):
    theirs = make_folder(name, tmp_path / "in")
    run.import_checkpoint(str(tmp_path / "in"), tmp_path / "run", experiment=None)
    trained = trained_run.load(tmp_path / "run")
    assert (trained.pooler is not None) == comes_along
    assert trained_run.random_init(trained, 0).pooler is None
    if comes_along:
        dense = theirs.pooler.dense
        ours = trained.pooler["kernel"], trained.pooler["bias"]
        np.testing.assert_array_equal(ours[0], dense.weight.detach().numpy().T)
        np.testing.assert_array_equal(ours[1], dense.bias.detach().numpy())


def test_norms_under_their_old_names(tmp_path):
    """bert-base-uncased still has gamma and beta."""
    make_folder("bert", tmp_path)
    tensors = dict(safetensors.open_folder(tmp_path))
    old = {
        name.replace("LayerNorm.weight", "LayerNorm.gamma").replace(
            "LayerNorm.bias", "LayerNorm.beta"
        ): np.array(tensor)
        for name, tensor in tensors.items()
    }
    assert set(old) != set(tensors)
    specs = {name: (t.dtype, t.shape) for name, t in old.items()}
    safetensors.write(tmp_path / "model.safetensors", specs, old.__getitem__)
    _, out = there_and_back(tmp_path, tmp_path / "runs")
    for name, tensor in safetensors.open_folder(out).items():
        np.testing.assert_array_equal(tensor, tensors[name], err_msg=name)


@pytest.mark.parametrize(
    ("pieces", "count"), [(600, "600 tokens"), (5, "5 tokens")], ids=["more", "fewer"]
)
def test_a_tokenizer_of_another_model(pieces, count, tmp_path):
    make_folder("distilbert", tmp_path)
    words = [*PIECES[:5], *(f"w{i}" for i in range(pieces - 5))]
    (tmp_path / "vocab.txt").write_text("\n".join(words) + "\n")
    if pieces < 100:
        model_class, config_class, settings = ENCODERS["distilbert"]
        wide = {**settings, "vocab_size": 2048}
        config = quietly(getattr(transformers, config_class), **wide)
        quietly(getattr(transformers, model_class)(config).save_pretrained, tmp_path)
    with pytest.raises(ValueError, match=f"has {count}, the embedding"):
        run.import_checkpoint(str(tmp_path), tmp_path / "run", experiment=None)


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"model_type": "mamba"}, "model_type = 'mamba'"),
        ({"hidden_act": "relu6"}, "'relu6'"),
        ({"position_embedding_type": "relative_key"}, "position_embedding_type"),
        ({"hidden_size": None}, "hidden_size"),
        ({"tie_word_embeddings": False}, "tie_word_embeddings"),
        # Of another shape than the tensors, or of other tensors.
        ({"vocab_size": 500}, r"embeddings.weight: \(512, 32\), expected \(500, 32\)"),
        ({"num_hidden_layers": 1}, "no module here has: .*layer.1.attention"),
        ({"num_hidden_layers": 3}, "missing tensors: encoder.layer.2.attention"),
    ],
)
def test_configs_that_are_not_expressed(changes, named, tmp_path):
    make_folder("bert", tmp_path)
    path = tmp_path / "config.json"
    config = {**json.loads(path.read_text()), **changes}
    config = {name: value for name, value in config.items() if value is not None}
    path.write_text(json.dumps(config))
    with pytest.raises(ValueError, match=named):
        run.import_checkpoint(str(tmp_path), tmp_path / "run", experiment=None)


def test_other_objectives_go_on_from_a_checkpoint(tmp_path, capsys):
    make_folder("bert", tmp_path / "in")
    source, folder = str(tmp_path / "in"), tmp_path / "run"
    run.import_checkpoint(source, folder, experiment="experiments/masked_lm.py")
    assert "heads next sentence" in capsys.readouterr().out
    assert set(trained_run.load(folder).params["heads"]) == {"masked_lm"}
    for argument, stages in (("", ("masked_lm",)), (":spanbert", ("span_boundary",))):
        config = experiments.load_config(f"{folder / run.CONTINUE}{argument}")
        parsed = config_lib.parse(config)
        assert parsed.train.init_from == str(folder)
        assert set(stages) <= set(parsed.objective.name)
        assert parsed.model == config_lib.parse(workdir.load_config(folder)).model


def test_nothing_half_made_is_kept(tmp_path, monkeypatch):
    make_folder("bert", tmp_path / "in")

    def stop(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr(workdir, "save_config", stop)
    with pytest.raises(KeyboardInterrupt):
        run.import_checkpoint(str(tmp_path / "in"), tmp_path / "run", experiment=None)
    assert not (tmp_path / "run").exists()
    (tmp_path / "run" / "checkpoints").mkdir(parents=True)
    with pytest.raises(ValueError, match="is not empty"):
        run.import_checkpoint(str(tmp_path / "in"), tmp_path / "run", experiment=None)


def test_no_folder_and_no_network_say_what_to_put_where(monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    for source in ("./nowhere", "someone/some-model"):
        with pytest.raises(ValueError, match=r"config\.json, model\.safetensors"):
            run.import_checkpoint(source, pathlib.Path("unused"), experiment=None)


def test_the_tokenizer_of_a_decoder_says_how_texts_begin(tmp_path):
    tokenizer = tokenizer_files.load(_word_level(tmp_path, "<s> $A", [("<s>", 0)]))
    assert tokenizer.begin() == (0,)
    bare = json.loads(tokenizer.definition) | {"post_processor": None}
    assert dataclasses.replace(tokenizer, definition=json.dumps(bare)).begin() == ()


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", ["gpt2", "llama3", "t5", "t5-1.1"])
def test_both_stop_at_the_ends_that_came_with_the_checkpoint(name, tmp_path, capsys):
    """Not at those that the names of tokens suggest: '</s>' has another id here."""
    model_class, config_class, settings = CASES[name]
    config = quietly(getattr(transformers, config_class), **settings)
    theirs = randomised(quietly(getattr(transformers, model_class), config))
    prompts = np.random.default_rng(3).integers(10, 512, (4, 9))
    options = dict(max_new_tokens=20, do_sample=False, pad_token_id=0)
    if config.is_encoder_decoder:
        options["decoder_start_token_id"] = 0

    def write(model, **others):
        tokens = quietly(
            model.generate, input_ids=torch.tensor(prompts), **options, **others
        ).numpy()
        tokens = tokens[:, 1 if config.is_encoder_decoder else 9 :]
        return np.pad(tokens, ((0, 0), (0, 20 - tokens.shape[1])))

    free = write(theirs, eos_token_id=9)
    values, counts = np.unique(free[:, 2:].clip(3), return_counts=True)
    ends = [int(value) for value in values[np.argsort(-counts)][:2]]
    theirs.config.eos_token_id = ends[0]
    theirs.generation_config.eos_token_id = ends
    quietly(theirs.save_pretrained, tmp_path / "in")
    words = ["<pad>", "</s>", "<s>", *(f"w{i}" for i in range(3, 412))]
    words += [f"<extra_id_{i}>" for i in reversed(range(100))]
    _word_level(tmp_path / "in", "$A", [], words)
    said = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": words[ends[0]]}
    said["chat_template"] = "{{ messages }}"
    (tmp_path / "in" / "tokenizer_config.json").write_text(json.dumps(said))
    folder, out = there_and_back(tmp_path / "in", tmp_path)
    assert "left out" not in capsys.readouterr().out
    again = quietly(type(theirs).from_pretrained, out)
    assert again.config.eos_token_id == ends[0]
    tokenizer = quietly(transformers.AutoTokenizer.from_pretrained, out)
    assert tokenizer.eos_token_id == ends[0]
    assert tokenizer.chat_template == said["chat_template"]
    writer = Writer.load(folder, which="last", seed=0)
    ours = generate(
        writer.language_model,
        DecodingConfig(20, 0.0, 0, 1.0, 1, 1.0),
        writer.run.params,
        jnp.asarray(prompts.astype(np.int32)),
        jnp.ones(prompts.shape, bool),
        jax.random.key(0),
    )
    there = write(again)
    # Some row ends early, so that there is something to see.
    assert (np.isin(there, ends).sum(axis=1) > 0).any()
    for row, other in zip(np.asarray(ours), there, strict=True):
        stops = np.flatnonzero(np.isin(other, [*ends, 1]))
        length = stops[0] + 1 if len(stops) else 20
        np.testing.assert_array_equal(row[:length], other[:length])
        assert not np.any(other[length:])


def _word_level(folder, template, specials, words=("<s>", "</s>", "a")):
    import tokenizers

    vocabulary = {word: number for number, word in enumerate(words)}
    backend = tokenizers.Tokenizer(tokenizers.models.WordLevel(vocabulary, "</s>"))
    backend.add_special_tokens(["<s>", "</s>"])
    backend.post_processor = tokenizers.processors.TemplateProcessing(
        single=template, special_tokens=specials
    )
    backend.save(str(folder / "tokenizer.json"))
    return folder
