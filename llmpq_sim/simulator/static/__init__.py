"""One global batch: prefill micro-batches, then decode rounds."""
