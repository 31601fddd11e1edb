"""Writes fixtures of tests/golden as GGUF files with the `gguf` package, into tests/golden/gguf.

    pip install gguf==0.19.0 torch safetensors numpy
    python tests/python/gguf_fixtures.py

The weights keep their bits: what a file computes is what its fixture's expected.safetensors holds. Rows of q and k of Llama's
architecture are put into the order of interleaved rotation, as llama.cpp's converter does: gguf_converter.py compares the two.
The vocabulary is made up: the 256 bytes, and tokens that mean nothing.
"""

import json
import pathlib

import gguf
import numpy
import safetensors.torch
import torch

GOLDEN = pathlib.Path(__file__).resolve().parents[1] / "golden"
FIXTURES = {
    "a_qwen3_tied_gqa": "qwen3",
    "h1_qwen3moe_norm": "qwen3moe",
    "i_llama_smollm2like": "llama",
    "j_qwen2_qkvbias": "qwen2",
    "k_mistral_window": "llama",
    "l_llama2": "llama",
    "o_llama_bias": "llama",
}
# Written as several files of so many tensors.
SPLIT = {"l_llama2": 16}
BYTES = [chr(b) for b in [*range(33, 127), *range(161, 173), *range(174, 256)]]
BYTES += [chr(256 + i) for i in range(256 - len(BYTES))]


def interleaved(rows, heads):
    """Halves of each head's rows (a, b) in turns: a0 b0 a1 b1 .."""
    half = rows.shape[0] // heads // 2
    return rows.reshape(heads, 2, half, -1).swapaxes(1, 2).reshape(rows.shape)


def add(writer, name, tensor):
    if tensor.dtype == torch.bfloat16:
        data = tensor.view(torch.uint16).numpy()
        writer.add_tensor(name, data.view(numpy.uint8), raw_dtype=gguf.GGMLQuantizationType.BF16)
    else:
        writer.add_tensor(name, tensor.numpy())


def metadata(writer, config, prefix):
    heads, hidden = config["num_attention_heads"], config["hidden_size"]
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(hidden)
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(heads)
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_rope_freq_base(config.get("rope_theta", 10000.0))
    if "head_dim" in config:
        writer.add_key_length(config["head_dim"])
        writer.add_value_length(config["head_dim"])
    if config.get("sliding_window"):
        writer.add_sliding_window(config["sliding_window"])
    # As converters write generation_config.json, which the fixtures do not fill.
    if prefix == "qwen3":
        writer.add_sampling_temp(0.8)
        writer.add_sampling_top_k(20)
        writer.add_sampling_top_p(0.95)
        writer.add_sampling_penalty_repeat(1.05)
    if prefix == "qwen3moe":
        writer.add_expert_count(config["num_experts"])
        writer.add_expert_used_count(config["num_experts_per_tok"])
        writer.add_expert_feed_forward_length(config["moe_intermediate_size"])
    special = [f"<unused{i}>" for i in range(config["vocab_size"] - 258)] + ["<s>", "</s>"]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("qwen2")
    writer.add_token_list(BYTES + special)
    writer.add_token_types([1] * 256 + [3] * len(special))
    writer.add_bos_token_id(config["bos_token_id"])
    writer.add_eos_token_id(config["eos_token_id"])
    writer.add_add_bos_token(False)
    writer.add_chat_template("{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}")


def write(name, prefix):
    config = json.loads((GOLDEN / name / "config.json").read_text())
    tensors = safetensors.torch.load_file(GOLDEN / name / "model.safetensors")
    arch = next(arch for arch, known in gguf.MODEL_ARCH_NAMES.items() if known == prefix)
    names = gguf.get_tensor_name_map(arch, config["num_hidden_layers"])
    writer = gguf.GGUFWriter(GOLDEN / "gguf" / f"{name}.gguf", prefix, split_max_tensors=SPLIT.get(name, 0))
    metadata(writer, config, prefix)
    experts = {}
    for source, tensor in sorted(tensors.items()):
        if config["tie_word_embeddings"] and source == "lm_head.weight":
            continue
        if ".experts." in source:
            layer, _, rest = source.partition(".experts.")
            number, _, rest = rest.partition(".")
            experts.setdefault(f"{layer}.experts.{rest}", {})[int(number)] = tensor
            continue
        if prefix == "llama" and ("q_proj" in source or "k_proj" in source):
            heads = config["num_attention_heads" if "q_proj" in source else "num_key_value_heads"]
            tensor = interleaved(tensor, heads).contiguous()
        # Vectors are f32 in GGUF.
        add(writer, names.get_name(source, (".weight", ".bias")), tensor.float() if tensor.dim() == 1 else tensor)
    for source, parts in sorted(experts.items()):
        stacked = torch.stack([parts[i] for i in range(len(parts))])
        add(writer, names.get_name(source, (".weight",)), stacked)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


for name, prefix in FIXTURES.items():
    write(name, prefix)
