"""The experiment that goes on from a class of transformers.

`python -m research.convert` takes all but the model from it, where it is not told which
experiment to take.
"""

import ml_collections

from experiments import bart_base, bert, causal_lm, masked_lm, t5

EXPERIMENTS = {
    "BertModel": masked_lm,
    "BertForMaskedLM": masked_lm,
    "BertForPreTraining": bert,
    "BertForNextSentencePrediction": bert,
    "RobertaModel": masked_lm,
    "RobertaForMaskedLM": masked_lm,
    "ModernBertModel": masked_lm,
    "ModernBertForMaskedLM": masked_lm,
    "DistilBertModel": masked_lm,
    "DistilBertForMaskedLM": masked_lm,
    "ElectraModel": masked_lm,
    "ElectraForMaskedLM": masked_lm,
    "ElectraForPreTraining": masked_lm,
    "GPT2LMHeadModel": causal_lm,
    "LlamaForCausalLM": causal_lm,
    "T5ForConditionalGeneration": t5,
    "BartForConditionalGeneration": bart_base,
}


def get_config(hf_class: str) -> ml_collections.ConfigDict:
    return EXPERIMENTS[hf_class].get_config()
