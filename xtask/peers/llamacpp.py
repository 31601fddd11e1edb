"""llama.cpp as a peer of `cargo xtask bench cpu`: the same weights, prompts and token counts, command by command.

    python3 llamacpp.py MODEL_DIR GGUF NUM_THREADS CONTEXT

MODEL_DIR holds config.json and model.safetensors of a dense Qwen3 model; GGUF is written from it if it is not there yet. Then
one JSON object a line is read from stdin and answered on stdout:

    {"op": "prefill", "ids": [..]}   forgets everything and runs the prompt  -> {"seconds", "top": [[id, logit], ..]}
    {"op": "decode", "num": n}       greedy continuation, token by token     -> {"seconds": [..], "ids": [..]}

The first line written says who answers, or why nobody does. Needs the packages llama-cpp-python, gguf and numpy.
"""

import json
import mmap
import os
import struct
import sys
import time

MISSING = 3


def say(message):
    print(json.dumps(message), flush=True)


try:
    import gguf
    import llama_cpp
    import numpy as np
except ImportError as error:
    say({"missing": f"Python package {error.name} (install llama-cpp-python, gguf and numpy)"})
    sys.exit(MISSING)


class Safetensors:
    """Tensors of one file as arrays of raw bytes: numpy has no bf16."""

    def __init__(self, path):
        with open(path, "rb") as file:
            self.bytes = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        (length,) = struct.unpack("<Q", self.bytes[:8])
        self.header = json.loads(self.bytes[8 : 8 + length])
        self.header.pop("__metadata__", None)
        self.start = 8 + length

    def raw(self, name):
        """Dtype, shape and bytes."""
        entry = self.header[name]
        begin, end = (self.start + offset for offset in entry["data_offsets"])
        return entry["dtype"], entry["shape"], np.frombuffer(self.bytes, np.uint8, end - begin, begin)


def as_f32(dtype, shape, raw):
    """Norms are F32 in every GGUF file."""
    if dtype == "BF16":
        return (raw.view(np.uint16).astype(np.uint32) << 16).view(np.float32).reshape(shape)
    return raw.view({"F16": np.float16, "F32": np.float32}[dtype]).astype(np.float32).reshape(shape)


LAYER = {
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}


def gguf_name(name):
    fixed = {
        "model.embed_tokens.weight": "token_embd.weight",
        "model.norm.weight": "output_norm.weight",
        "lm_head.weight": "output.weight",
    }
    if name in fixed:
        return fixed[name]
    _, _, index, rest = name.split(".", 3)
    stem, kind = rest.rsplit(".", 1)
    return f"blk.{index}.{LAYER[stem]}.{kind}"


def write_gguf(model_dir, path):
    with open(os.path.join(model_dir, "config.json")) as file:
        config = json.load(file)
    tensors = Safetensors(os.path.join(model_dir, "model.safetensors"))
    part = f"{path}.part"
    writer = gguf.GGUFWriter(part, "qwen3")
    writer.add_name("bench")
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_BF16)
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_key_length(config["head_dim"])
    writer.add_value_length(config["head_dim"])
    writer.add_rope_freq_base(float(config["rope_theta"]))
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    # Ids go in and ids come out: a vocabulary of place holders is enough.
    vocab = config["vocab_size"]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("qwen2")
    writer.add_token_list([f"t{i}" for i in range(vocab)])
    writer.add_token_types([gguf.TokenType.NORMAL] * vocab)
    writer.add_token_merges(["t 0"])
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(0)
    for name in tensors.header:
        dtype, shape, raw = tensors.raw(name)
        if len(shape) == 1:
            writer.add_tensor(gguf_name(name), as_f32(dtype, shape, raw))
        else:
            kind = gguf.GGMLQuantizationType[dtype]
            rows = raw.reshape(shape[0], -1)
            writer.add_tensor(gguf_name(name), rows, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    os.replace(part, path)


class Peer:
    def __init__(self, path, num_threads, context):
        @llama_cpp.llama_log_callback
        def quiet(level, text, data):
            if level == 4:
                sys.stderr.write(text.decode(errors="replace"))

        self.quiet = quiet
        llama_cpp.llama_log_set(quiet, None)
        llama_cpp.llama_backend_init()
        begin = time.perf_counter()
        self.model = llama_cpp.llama_model_load_from_file(path.encode(), llama_cpp.llama_model_default_params())
        if not self.model:
            raise RuntimeError(f"llama.cpp does not load {path}")
        params = llama_cpp.llama_context_default_params()
        params.n_ctx = context
        params.n_batch = params.n_ubatch = 512
        params.n_threads = params.n_threads_batch = num_threads
        self.context = llama_cpp.llama_init_from_model(self.model, params)
        self.load_seconds = time.perf_counter() - begin
        self.vocab = llama_cpp.llama_vocab_n_tokens(llama_cpp.llama_model_get_vocab(self.model))

    def forward(self, ids):
        tokens = (llama_cpp.llama_token * len(ids))(*ids)
        status = llama_cpp.llama_decode(self.context, llama_cpp.llama_batch_get_one(tokens, len(ids)))
        if status != 0:
            raise RuntimeError(f"llama_decode returned {status}")
        self.logits = np.ctypeslib.as_array(llama_cpp.llama_get_logits_ith(self.context, -1), shape=(self.vocab,))

    def prefill(self, ids):
        llama_cpp.llama_memory_clear(llama_cpp.llama_get_memory(self.context), True)
        begin = time.perf_counter()
        self.forward(ids)
        self.last = int(self.logits.argmax())
        seconds = time.perf_counter() - begin
        top = np.argsort(-self.logits)[:5]
        return {"seconds": seconds, "top": [[int(i), float(self.logits[i])] for i in top]}

    def decode(self, num):
        seconds, ids = [], []
        for _ in range(num):
            begin = time.perf_counter()
            self.forward([self.last])
            self.last = int(self.logits.argmax())
            seconds.append(time.perf_counter() - begin)
            ids.append(self.last)
        return {"seconds": seconds, "ids": ids}


def main():
    model_dir, path, num_threads, context = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
    if not os.path.exists(path):
        write_gguf(model_dir, path)
    peer = Peer(path, num_threads, context)
    say(
        {
            "engine": "llama.cpp",
            "version": f"llama-cpp-python {llama_cpp.__version__}",
            "system": llama_cpp.llama_print_system_info().decode().strip(),
            "weights": "bf16",
            "kv": "f16",
            "load_seconds": peer.load_seconds,
        }
    )
    for line in sys.stdin:
        command = json.loads(line)
        if command["op"] == "prefill":
            say(peer.prefill(command["ids"]))
        elif command["op"] == "decode":
            say(peer.decode(command["num"]))


if __name__ == "__main__":
    main()
