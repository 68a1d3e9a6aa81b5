"""Model folder in Hugging Face's layout from a GGUF file of a Llama, for tests on real weights.

Run as ``python gguf_folder_worker.py FILE FOLDER`` with package gguf on the path.
"""

import json
import sys
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import torch
from safetensors.torch import save_file
from transformers import AutoTokenizer

LAYER_PARTS = {
    "attn_norm": "input_layernorm",
    "ffn_norm": "post_attention_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
ENDS = {"token_embd.weight": "model.embed_tokens.weight", "output_norm.weight": "model.norm.weight"}


def main(file: Path, folder: Path) -> None:
    """Write config, weights in bfloat16 and tokenizer."""
    reader = gguf.GGUFReader(file)
    config = _config(reader)
    heads = {"attn_q": config["num_attention_heads"], "attn_k": config["num_key_value_heads"]}
    tensors = {}
    for tensor in reader.tensors:
        numbers = np.array(gguf.quants.dequantize(tensor.data, tensor.tensor_type), np.float32)
        weight = torch.from_numpy(numbers)
        part = tensor.name.split(".")[2] if tensor.name.startswith("blk.") else ""
        if part in heads:
            weight = _rotated_by_halves(weight, heads[part])
        tensors[_name(tensor.name)] = weight.bfloat16().contiguous()
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    (folder / "config.json").write_text(json.dumps(config, indent=1))
    AutoTokenizer.from_pretrained(str(file.parent), gguf_file=file.name).save_pretrained(folder)


def _config(reader: Any) -> dict[str, Any]:
    def of(key: str) -> Any:
        return reader.fields[f"llama.{key}"].contents()

    vocabulary = next(t for t in reader.tensors if t.name == "token_embd.weight").shape[1]
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": of("embedding_length"),
        "intermediate_size": of("feed_forward_length"),
        "num_hidden_layers": of("block_count"),
        "num_attention_heads": of("attention.head_count"),
        "num_key_value_heads": of("attention.head_count_kv"),
        "max_position_embeddings": of("context_length"),
        "rms_norm_eps": of("attention.layer_norm_rms_epsilon"),
        "rope_theta": of("rope.freq_base"),
        "vocab_size": int(vocabulary),
        "tie_word_embeddings": True,
        "hidden_act": "silu",
        "torch_dtype": "bfloat16",
        "bos_token_id": reader.fields["tokenizer.ggml.bos_token_id"].contents(),
        "eos_token_id": reader.fields["tokenizer.ggml.eos_token_id"].contents(),
    }


def _name(name: str) -> str:
    if name in ENDS:
        return ENDS[name]
    _, layer, part, leaf = name.split(".")
    return f"model.layers.{layer}.{LAYER_PARTS[part]}.{leaf}"


def _rotated_by_halves(weight: torch.Tensor, heads: int) -> torch.Tensor:
    """Return rows in the order of transformers: llama.cpp rotates neighbours, not halves."""
    pairs = weight.unflatten(0, (heads, -1, 2))
    return pairs.transpose(1, 2).reshape(weight.shape)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
