"""Published checkpoints: quantized weights as GPTQ, AWQ, compressed-tensors and fp8 store them."""
