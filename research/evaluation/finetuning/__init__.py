"""Fine-tuning of pretrained runs on labelled tasks."""
