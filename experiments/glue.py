r"""Fine-tunes a pretrained run on GLUE and scores it.

    python -m research.glue --config=glue --checkpoint=runs/mlm \
        --workdir=runs/mlm-glue --config.source=FOLDER_OF_THE_OFFICIAL_TSVS \
        [--tasks=cola,mrpc,rte] [--config.protocol=bert]
"""

import ml_collections
from ml_collections.config_dict import placeholder

from experiments import presets

# Fields of fine-tuning of which lists are tried, and those that no protocol sets.
GRIDS = ("learning_rate", "batch_size")
OWN = (
    "style",
    "readout",
    "eval_batch_size",
    "bucket_lengths",
    "z_loss",
    "min_answer_length",
)


def get_config() -> ml_collections.ConfigDict:
    """Every field; what is None is as the protocol says."""
    settings = presets.finetune(bucket_lengths=(16, 32, 48, 64, 80, 96, 128, 192, 256))
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
                field: value if field in OWN else placeholder(type(value))
                for field, value in settings.items()
                if field not in GRIDS
            },
        }
    )
