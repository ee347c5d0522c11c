"""Every field of a run and its value where an experiment does not say otherwise.

There is no default anywhere else: what is saved in a workdir's config.json is the run.
Plain values only. ``placeholder`` marks a field that is None until it is set and
has a type.

The experiments named after an objective train models of size mini (4 layers x 256) with
the same blocks for every objective, on a CPU with two cores and 4 GB. Their times are for
50 GFLOP/s (`python -m research.benchmark` prints what a machine reaches), and FLOPs are
forward and backward. Tied embeddings of deviation 0.02 behind a norm give logits of
variance emb_dim * 0.02^2, so a loss starts at ln V + emb_dim * 0.02^2 / 2 nats.
"""

import ml_collections

from experiments import presets


def get_config() -> ml_collections.ConfigDict:
    """The complete base config: masked LM on an encoder of size mini."""
    return ml_collections.ConfigDict(
        {
            "model": presets.model("mini", architecture="encoder"),
            "objective": presets.objective("masked_lm"),
            "data": {
                # 'embedded', a file, folder or glob of text, JSONL[.gz|.zst] or
                # Parquet, or 'tfds:NAME[/CONFIG]'.
                "source": "embedded",
                "text_field": "text",  # field or column that holds the document
                "heldout_fraction": 0.02,  # share of documents held out
                "cache_dir": "",  # token stores; '' = ~/.cache/palimpsest
                "row_length": 128,  # R, clean tokens a row
                "num_workers": 2,  # threads that tokenise
                "tokenizer": {
                    # 'bpe' (byte level), 'wordpiece', 'unigram'; or 'file' with path
                    "kind": "bpe",
                    "vocab_size": 8192,
                    "lowercase": False,
                    "num_sentinels": 256,
                    "path": "",  # tokenizer.json, vocab.txt, GPT-2 folder, *.model
                },
            },
            "optimizer": {
                "name": "adamw",  # or 'adafactor', 'muon'
                "learning_rate": 1e-3,
                # 'linear', 'cosine', 'constant', 'wsd', 'rsqrt'
                "schedule": "linear",
                "warmup_steps": 100,
                "final_learning_rate": 0.0,
                "decay_fraction": 0.2,  # of the steps, for 'wsd'
                "beta1": 0.9,
                "beta2": 0.98,
                "epsilon": 1e-6,
                "bias_correction": True,
                "weight_decay": 0.01,  # not on biases, norms
                "clip_norm": 1.0,  # 0 = none
                "moment_dtype": "float32",
                "decay_rate": 0.8,  # Adafactor
            },
            "train": {
                "seed": 0,
                "batch_size": 32,
                "num_microbatches": 1,
                "num_train_steps": 1000,
                "log_every_steps": 10,
                "init_from": "",  # workdir whose parameters to start from
                "extend_vocabulary": False,
                # which parameters are learned: a regular expression that matches their
                # whole paths, such as 'heads/.*' or '.*(bias|scale)'; '.*' = all
                "trainable": ".*",
                "max_skipped_steps": 0,  # non-finite steps skipped before stopping
                # A loss so many deviations above its recent median is warned of.
                "spike_deviations": 10.0,  # 0 = never
                # A step that takes longer says where it hangs.
                "hang_seconds": 600.0,  # 0 = never
            },
            "eval": {
                "every_steps": 250,
                "num_batches": 16,
                "batch_size": 32,
            },
            "checkpoint": {
                "every_steps": 250,
                "keep_last": 2,
                "keep_best": True,
            },
            "parallel": {
                "mode": "jit",  # 'jit' (mesh) or 'pmap'
                "data": -1,  # -1 = all devices left over
                "fsdp": 1,
                "tensor": 1,
            },
        }
    )
