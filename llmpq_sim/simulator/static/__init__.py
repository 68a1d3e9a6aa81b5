"""Static batching: one global batch, prefill micro-batches, then decode rounds."""
