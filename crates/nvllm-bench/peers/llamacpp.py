"""llama.cpp through llama-cpp-python: the same bf16 weights, written to GGUF once. See protocol.py.

Needs the packages llama-cpp-python, gguf and numpy. Dense Qwen3 models only: the names in the GGUF file are theirs.
"""

import json
import mmap
import os
import struct
import sys

from protocol import clock, missing, serve, top5

try:
    import gguf
    import llama_cpp
    import numpy as np
except ImportError as error:
    missing(f"Python package {error.name} (install llama-cpp-python, gguf and numpy)")

# New tokens in one call, and sequences in one context.
BATCH = 512
MOST_SEQS = 64


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
    def __init__(self, path, num_threads, device):
        @llama_cpp.llama_log_callback
        def quiet(level, text, data):
            if level == 4:
                sys.stderr.write(text.decode(errors="replace"))

        self.quiet = quiet
        llama_cpp.llama_log_set(quiet, None)
        llama_cpp.llama_backend_init()
        params = llama_cpp.llama_model_default_params()
        # All layers on the GPU, or none.
        params.n_gpu_layers = 0 if device == "cpu" else 999
        if device != "cpu":
            params.split_mode = llama_cpp.LLAMA_SPLIT_MODE_NONE
            params.main_gpu = int(device.partition(":")[2] or 0)
        self.model = llama_cpp.llama_model_load_from_file(path.encode(), params)
        if not self.model:
            raise RuntimeError(f"llama.cpp does not load {path}")
        self.num_threads = num_threads
        self.vocab = llama_cpp.llama_vocab_n_tokens(llama_cpp.llama_model_get_vocab(self.model))
        self.batch = llama_cpp.llama_batch_init(max(BATCH, MOST_SEQS), 0, 1)
        self.context, self.shape = None, None

    def reset(self, num_seqs, reserve):
        """An empty cache with room for `reserve` tokens of each sequence."""
        if num_seqs > MOST_SEQS:
            raise RuntimeError(f"{num_seqs} sequences; the adapter runs {MOST_SEQS}")
        if self.shape == (num_seqs, reserve):
            llama_cpp.llama_memory_clear(llama_cpp.llama_get_memory(self.context), True)
            return
        if self.context:
            llama_cpp.llama_free(self.context)
        params = llama_cpp.llama_context_default_params()
        params.n_ctx = num_seqs * (-(-reserve // 256) * 256)
        params.n_seq_max = num_seqs
        params.n_batch = params.n_ubatch = BATCH
        params.n_threads = params.n_threads_batch = self.num_threads
        self.context = llama_cpp.llama_init_from_model(self.model, params)
        if not self.context:
            raise RuntimeError(f"no context of {params.n_ctx} tokens")
        self.shape = (num_seqs, reserve)

    def forward(self, rows):
        """One call for rows of (token, position, sequence, wants logits); logits of those that want them, by sequence."""
        self.batch.n_tokens = len(rows)
        for i, (token, position, seq, wanted) in enumerate(rows):
            self.batch.token[i] = token
            self.batch.pos[i] = position
            self.batch.n_seq_id[i] = 1
            self.batch.seq_id[i][0] = seq
            self.batch.logits[i] = wanted
        status = llama_cpp.llama_decode(self.context, self.batch)
        if status != 0:
            raise RuntimeError(f"llama_decode returned {status}")
        # Finds the results of an asynchronous call, and waits for them.
        return {
            seq: np.ctypeslib.as_array(llama_cpp.llama_get_logits_ith(self.context, i), shape=(self.vocab,))
            for i, (_, _, seq, wanted) in enumerate(rows)
            if wanted
        }

    def prefill(self, prompts, reserve):
        self.reset(len(prompts), reserve)
        rows = [
            (token, position, seq, position + 1 == len(prompt))
            for seq, prompt in enumerate(prompts)
            for position, token in enumerate(prompt)
        ]
        self.last, scores = {}, None
        begin = clock()
        for first in range(0, len(rows), BATCH):
            for seq, logits in self.forward(rows[first : first + BATCH]).items():
                self.last[seq] = int(logits.argmax())
                if seq == 0:
                    scores = logits.copy()
        seconds = clock() - begin
        self.lens = [len(prompt) for prompt in prompts]
        return {"seconds": seconds, "logits": top5(scores)}

    def decode(self, num):
        seconds = []
        for _ in range(num):
            begin = clock()
            rows = [(self.last[seq], position, seq, True) for seq, position in enumerate(self.lens)]
            for seq, logits in self.forward(rows).items():
                self.last[seq] = int(logits.argmax())
            seconds.append(clock() - begin)
            self.lens = [position + 1 for position in self.lens]
        return {"seconds": seconds}

    def set(self, prompts, output_lens):
        """Continuous batching: every call takes one token of each running sequence and as much of the prompts as there is room."""
        longest = max(len(prompt) + n for prompt, n in zip(prompts, output_lens))
        slots = min(len(prompts), MOST_SEQS)
        self.reset(slots, longest + 1)
        memory = llama_cpp.llama_get_memory(self.context)
        free, waiting, running = list(range(slots)), list(range(len(prompts))), {}
        tokens = [[] for _ in prompts]
        begin = clock()
        while waiting or running:
            while free and waiting:
                running[free.pop()] = [waiting.pop(0), 0, None]
            rows = [(last, done, seq, True) for seq, (_, done, last) in running.items() if last is not None]
            for seq, (request, done, last) in running.items():
                if last is None:
                    prompt = prompts[request]
                    part = prompt[done : done + BATCH - len(rows)]
                    rows += [(t, done + i, seq, done + i + 1 == len(prompt)) for i, t in enumerate(part)]
            logits = self.forward(rows)
            now = clock() - begin
            for _, position, seq, _ in rows:
                running[seq][1] = position + 1
            for seq, scores in logits.items():
                request = running[seq][0]
                running[seq][2] = int(scores.argmax())
                tokens[request].append(now)
                if len(tokens[request]) == output_lens[request]:
                    llama_cpp.llama_memory_seq_rm(memory, seq, -1, -1)
                    del running[seq]
                    free.append(seq)
        return {"seconds": clock() - begin, "token_seconds": tokens}


def main():
    model_dir, converted, num_threads, device = sys.argv[1], sys.argv[2], int(sys.argv[3]), sys.argv[4]
    if device != "cpu" and not llama_cpp.llama_supports_gpu_offload():
        missing("a llama-cpp-python built for GPUs: this one computes on the CPU")
    path = f"{converted}.gguf"
    if not os.path.exists(path):
        write_gguf(model_dir, path)
    peer = Peer(path, num_threads, device)
    hello = {
        "version": f"llama-cpp-python {llama_cpp.__version__}",
        "detail": llama_cpp.llama_print_system_info().decode().strip(),
        "activations": "its own",
        "kv": "f16",
    }
    serve(hello, {"prefill": peer.prefill, "decode": peer.decode, "set": peer.set})


if __name__ == "__main__":
    main()
