"""Blocks of every element type that crates/nvllm-gguf reads, with the values that the package `gguf` gives them.

    python3 -m pip install gguf==0.19.0 safetensors==0.8.0
    python3 tests/python/gguf_blocks.py

writes crates/nvllm-gguf/tests/data/blocks.gguf, a file of random blocks whose scales are sane f16 numbers of both signs, and
blocks.safetensors, the value of each element in f32 (`gguf.quants.dequantize`). The seed is fixed, so a second run changes nothing.
"""

import pathlib

import gguf
import numpy as np
from gguf import GGMLQuantizationType as Type
from safetensors.numpy import save_file

OUT = pathlib.Path(__file__).resolve().parents[2] / "crates" / "nvllm-gguf" / "tests" / "data"
# Where the f16 numbers of a block begin.
HALVES = {
    Type.Q4_0: [0],
    Type.Q4_1: [0, 2],
    Type.Q5_0: [0],
    Type.Q5_1: [0, 2],
    Type.Q8_0: [0],
    Type.Q4_K: [0, 2],
    Type.Q5_K: [0, 2],
    Type.Q6_K: [208],
}
DENSE = [Type.F32, Type.F16, Type.BF16]


def blocks(kind, shape, random):
    """Bytes of a tensor of `shape`, rows of blocks."""
    block_len, block_bytes = gguf.GGML_QUANT_SIZES[kind]
    found = random.integers(0, 256, (*shape[:-1], shape[-1] // block_len, block_bytes), dtype=np.uint8)
    for at in HALVES[kind]:
        scales = random.normal(0, 0.02, found.shape[:-1]).astype(np.float16)
        scales.flat[0] = 0  # A block of zeros, or without a minimum.
        found[..., at : at + 2] = scales[..., None].view(np.uint8)
    return found.reshape(*shape[:-1], -1)


def dense(kind, shape, random):
    values = random.normal(0, 1, shape).astype(np.float32)
    if kind == Type.F32:
        return values
    return values.astype(np.float16) if kind == Type.F16 else gguf.quants.quantize(values, kind)


def main():
    random = np.random.Generator(np.random.PCG64(0))
    OUT.mkdir(parents=True, exist_ok=True)
    writer = gguf.GGUFWriter(OUT / "blocks.gguf", "llama")
    writer.add_array("tokenizer.ggml.tokens", ["a", "b c", "\u00e9"])
    writer.add_array("tokenizer.ggml.scores", [0.5, -1.0])
    writer.add_array("tokenizer.ggml.token_type", [1, 3])
    writer.add_context_length(128)
    values = {}
    for kind in [*HALVES, *DENSE]:
        shape = (2, 512) if kind.name.endswith("_K") else (2, 3, 64)
        data = (blocks if kind in HALVES else dense)(kind, shape, random)
        name = kind.name.lower()
        writer.add_tensor(name, data, raw_dtype=kind)
        values[name] = gguf.quants.dequantize(data, kind).astype(np.float32).reshape(shape)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    save_file(values, OUT / "blocks.safetensors")


if __name__ == "__main__":
    main()
