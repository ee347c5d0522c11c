"""The Transformer: encoder, decoder and encoder-decoder."""
