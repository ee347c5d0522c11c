"""SQuAD: extractive question answering."""
