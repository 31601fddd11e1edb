"""Compares the tensors of tests/golden/gguf with what llama.cpp's converter makes of the same checkpoints, bit for bit.

    pip install gguf==0.19.0 torch transformers sentencepiece protobuf safetensors numpy
    python tests/python/gguf_converter.py PATH/TO/llama.cpp/convert_hf_to_gguf.py

Fixtures of Llama's architecture, whose rows of q and k are put into another order. The checkpoints have no tokenizer, and the
converter wants one: it gets a made-up one of SentencePiece.
"""

import json
import pathlib
import shutil
import subprocess
import sys
import tempfile

import gguf
from sentencepiece import sentencepiece_model_pb2

GOLDEN = pathlib.Path(__file__).resolve().parents[1] / "golden"
FIXTURES = ["i_llama_smollm2like", "k_mistral_window", "l_llama2", "o_llama_bias"]


def tokenizer(vocab_size):
    """Three special pieces, the bytes, and words that mean nothing."""
    model = sentencepiece_model_pb2.ModelProto()
    model.trainer_spec.model_type = 2
    model.trainer_spec.byte_fallback = True
    model.trainer_spec.vocab_size = vocab_size
    pieces = [("<unk>", 2), ("<s>", 3), ("</s>", 3)]
    pieces += [(f"<0x{byte:02X}>", 6) for byte in range(256)]
    pieces += [(f"▁word{i}", 1) for i in range(len(pieces), vocab_size)]
    for i, (piece, kind) in enumerate(pieces):
        model.pieces.add(piece=piece, type=kind, score=-i)
    return model.SerializeToString()


def tensors(paths):
    """Shape, type and bytes by name."""
    found = [tensor for path in paths for tensor in gguf.GGUFReader(path).tensors]
    return {t.name: (t.shape.tolist(), t.tensor_type, t.data.tobytes()) for t in found}


def convert(converter, name, out):
    config = json.loads((GOLDEN / name / "config.json").read_text())
    checkpoint = out / name
    checkpoint.mkdir()
    for file in ["config.json", "model.safetensors"]:
        shutil.copy(GOLDEN / name / file, checkpoint)
    (checkpoint / "tokenizer.model").write_bytes(tokenizer(config["vocab_size"]))
    path = out / f"{name}.gguf"
    command = [sys.executable, converter, checkpoint, "--outfile", path, "--outtype", "auto"]
    subprocess.run(command, check=True, capture_output=True)
    return tensors([path])


with tempfile.TemporaryDirectory() as scratch:
    for name in FIXTURES:
        theirs = convert(sys.argv[1], name, pathlib.Path(scratch))
        ours = tensors(sorted((GOLDEN / "gguf").glob(f"{name}*.gguf")))
        assert ours == theirs, [key for key in ours | theirs if ours.get(key) != theirs.get(key)]
        print(f"{name}: {len(ours)} tensors are equal")
