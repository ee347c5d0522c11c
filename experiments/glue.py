r"""Fine-tunes a pretrained run on GLUE and scores it.

    python -m research.glue --config=experiments/glue.py --checkpoint=runs/mlm \
        --workdir=runs/mlm-glue --config.source=FOLDER_OF_THE_OFFICIAL_TSVS \
        [--tasks=cola,mrpc,rte] [--config.protocol=bert]
"""

import ml_collections
from ml_collections.config_dict import placeholder


def get_config() -> ml_collections.ConfigDict:
    """Every field; what is None is as the protocol says."""
    return ml_collections.ConfigDict(
        {
            # A folder of the official TSVs (one subfolder a task), 'tfds', 'tfds:FOLDER'
            "source": "",
            # 'bert', 'turc', 'roberta', 'electra', 'mosaic', 'cramming', 'babylm'
            "protocol": "bert",
            "which": "last",  # checkpoint: 'last' or 'best'
            "seeds": (),  # () = the protocol's
            "learning_rates": (),
            "batch_sizes": (),
            "floor_seeds": 1,  # of the random-initialisation floor; 0 = none
            "train_limit": 0,  # train rows of a task, at most; 0 = the protocol's
            # Share of train that selects rates and epochs; 0 = the dev set does.
            "selection_share": 0.0,
            "submission": True,
            "save_seconds": 60.0,
            "finetune": {
                "style": "head",  # or 'text_to_text', 'text_to_text_free'
                "readout": "auto",  # 'cls', 'mean', 'last'
                "eval_batch_size": 128,
                "bucket_lengths": (16, 32, 48, 64, 80, 96, 128, 192, 256),
                # Of answers that a model writes, for style = 'text_to_text'.
                "z_loss": 0.0,
                "min_answer_length": 8,  # room for an answer of so many tokens
                "num_epochs": placeholder(int),
                "max_length": placeholder(int),
                "schedule": placeholder(str),
                "warmup_fraction": placeholder(float),
                "final_fraction": placeholder(float),
                "beta1": placeholder(float),
                "beta2": placeholder(float),
                "epsilon": placeholder(float),
                "weight_decay": placeholder(float),
                "clip_norm": placeholder(float),
                "layer_decay": placeholder(float),
                "frozen_layers": placeholder(int),
                "reinit_layers": placeholder(int),
                "dropout_rate": placeholder(float),
                "selection": placeholder(str),
                "selection_metric": placeholder(str),
                "patience": placeholder(int),
                "unit_scores": placeholder(bool),
            },
        }
    )
