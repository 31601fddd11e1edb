"""Makes the quantised checkpoints of tests/golden/quant, each by the package whose layout it has, and what is expected of them.

    python quant_fixtures.py [NAME ..]    writes the folders of CASES, or of those named

A folder holds config.json and model.safetensors as the package saved them, and

- expected.json: which package wrote it (`writer`), a hash of every weight's values (FNV-1a of its f32 bytes, row-major, 0 for -0), 24 greedy tokens and
  the smallest gap between the best two logits on that way
- expected.safetensors: `seq0.input_ids`, `seq0.position_ids`, `seq0.logits` f32 [T, vocab], and the values of two weights, f32 [n, k]

Values come from the package's own dequantisation with its scales turned into f32 first, where its arithmetic would round to 16 bits. Logits are
transformers' in f32 over these values: inputs are not quantised. The dense model is made up, and the same for all.

Needs the packages torch, transformers, accelerate, safetensors, numpy, compressed-tensors, bitsandbytes and gptqmodel (torch 2.15.0, transformers
5.24.0, compressed-tensors 0.20.1, bitsandbytes 0.50.2 and gptqmodel 7.7.0 recorded the files, on a CPU).
"""

import contextlib
import json
import os
import pathlib
import shutil
import sys
import tempfile
import types

# Its thread pool needs two, on a machine of any size.
os.environ.setdefault("GPTQMODEL_CPU_WORKERS", "2")

import numpy
import safetensors.torch
import torch
import transformers
from llama_fixtures import MIN_GAP, forward, greedy, weight

GOLDEN = pathlib.Path(__file__).resolve().parents[1] / "golden" / "quant"
LENGTH = 24
# Of these the values are kept, beside the hashes of all.
SHOWN = ["model.layers.0.self_attn.k_proj.weight", "model.layers.1.self_attn.o_proj.weight"]
CONFIG = {
    "vocab_size": 128, "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
    "head_dim": 16, "max_position_embeddings": 256, "rms_norm_eps": 1e-06, "rope_theta": 10000.0, "hidden_act": "silu",
    "tie_word_embeddings": False, "attention_bias": False, "bos_token_id": 126, "eos_token_id": 127, "model_type": "qwen3",
    "architectures": ["Qwen3ForCausalLM"], "torch_dtype": "bfloat16",
}  # fmt: skip


def dense(folder, **changes):
    """The model that all are made from, in bf16."""
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(CONFIG | changes))
    model = transformers.AutoModelForCausalLM.from_config(transformers.AutoConfig.from_pretrained(folder))
    draw = numpy.random.default_rng(1)
    tensors = {name: torch.from_numpy(weight(draw, name, value.shape)).bfloat16() for name, value in sorted(model.state_dict().items())}
    safetensors.torch.save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def linears(model):
    return {name: module for name, module in model.named_modules() if ".layers." in name and name.endswith("_proj")}


def gptqmodel(source, out, awq=False, **settings):
    """Quantises by GPTQ or AWQ on drawn tokens, and loads the result again."""
    import gptqmodel
    from gptqmodel.quantization.config import AWQConfig, GPTQConfig

    torch.manual_seed(0)
    rows = [torch.randint(0, 120, (1, 64)) for _ in range(16)]
    config = (AWQConfig if awq else GPTQConfig)(**settings)
    model = gptqmodel.GPTQModel.load(str(source), config, device="cpu")
    model.quantize([{"input_ids": row, "attention_mask": torch.ones_like(row)} for row in rows], batch_size=1)
    model.save(str(out))
    saved = json.loads((out / "config.json").read_text())
    # A folder of the machine that wrote it.
    saved["quantization_config"]["meta"].pop("offload_to_disk_path", None)
    (out / "config.json").write_text(json.dumps(saved, indent=2) + "\n")
    return gptqmodel_values(out, settings["group_size"], awq), f"gptqmodel {gptqmodel.__version__}"


def gptqmodel_values(out, group_size, awq):
    """What the package makes of the file, with the scales in f32: it would round them to the dtype that it picks for activations."""
    import gptqmodel
    from gptqmodel.quantization.awq.utils.packing_utils import dequantize_gemm

    values, tensors = {}, safetensors.torch.load_file(out / "model.safetensors")
    if awq:
        for name in [name[: -len(".qweight")] for name in tensors if name.endswith(".qweight")]:
            qweight, qzeros, scales = (tensors[f"{name}.{part}"] for part in ("qweight", "qzeros", "scales"))
            values[f"{name}.weight"] = dequantize_gemm(qweight, qzeros, scales.float(), 4, group_size).T
        return values
    loaded = gptqmodel.GPTQModel.load(str(out), device="cpu", backend=gptqmodel.BACKEND.GPTQ_TORCH)
    for name, module in linears(loaded.model).items():
        module.scales = tensors[f"{name}.scales"].float()
        values[f"{name}.weight"] = module.dequantize_weight().T
    return values


def bitsandbytes(source, out, **settings):
    import bitsandbytes

    config = transformers.BitsAndBytesConfig(**settings)
    model = transformers.AutoModelForCausalLM.from_pretrained(source, quantization_config=config, device_map="cpu", dtype=torch.bfloat16)
    model.save_pretrained(out)
    values = {}
    for name, module in linears(model).items():
        if "load_in_8bit" in settings:
            scales = module.weight.SCB if module.weight.SCB is not None else module.state.SCB
            value = bitsandbytes.functional.int8_vectorwise_dequant(module.weight.data, scales.float())
        else:
            state = module.weight.quant_state
            state.dtype = torch.float32
            value = bitsandbytes.functional.dequantize_4bit(module.weight.data, state)
        values[f"{name}.weight"] = value.reshape(module.out_features, module.in_features)
    return values, f"bitsandbytes {bitsandbytes.__version__}, transformers {transformers.__version__}"


def extremes(weight, args):
    """Smallest and largest of what shares a scale."""
    if args.strategy == "tensor":
        return weight.min(), weight.max()
    if args.strategy == "channel":
        return weight.amin(1, keepdim=True), weight.amax(1, keepdim=True)
    if args.strategy == "group":
        groups = weight.reshape(weight.shape[0], -1, args.group_size)
        return groups.amin(2), groups.amax(2)
    blocks = torch.nn.functional.pad(weight, (0, -weight.shape[1] % 128, 0, -weight.shape[0] % 128))
    blocks = blocks.reshape(blocks.shape[0] // 128, 128, blocks.shape[1] // 128, 128)
    return blocks.amin((1, 3)), blocks.amax((1, 3))


def compressed_tensors(source, out, weights=None, inputs=None, groups=None, **settings):
    """Rounds to nearest, by the scales that the package makes of the weights' extremes. `groups` are targets, weights and inputs of each; all
    linear layers are one group if not given."""
    import compressed_tensors
    from compressed_tensors.compressors import BaseCompressor, ModelCompressor
    from compressed_tensors.quantization import QuantizationConfig, apply_quantization_config
    from compressed_tensors.quantization.utils import calculate_qparams

    model = transformers.AutoModelForCausalLM.from_pretrained(source, dtype=torch.bfloat16)
    groups = groups or [(["Linear"], weights, inputs)]
    named = {f"group_{i}": dict(zip(("targets", "weights", "input_activations"), group)) for i, group in enumerate(groups)}
    apply_quantization_config(model, QuantizationConfig(config_groups=named, ignore=["lm_head"]))
    for at, module in enumerate(linears(model).values()):
        weights, inputs = module.quantization_scheme.weights, module.quantization_scheme.input_activations
        scales, points = calculate_qparams(*extremes(module.weight, weights), weights)
        module.weight_scale.data.copy_(scales.reshape(module.weight_scale.shape))
        if not weights.symmetric:
            module.weight_zero_point.data.copy_(points.reshape(module.weight_zero_point.shape))
        if inputs and not inputs.dynamic:
            module.input_scale.data.fill_(0.02 + at / 1000)
    compressor = ModelCompressor.from_pretrained_model(model, **settings)
    compressor.compress_model(model)
    model.save_pretrained(out)
    compressor.update_config(out)
    values = {}
    for name, module in linears(model).items():
        codec = BaseCompressor.get_value_from_registry(module.quantization_scheme.format.value)
        parts = {part: value.float() if part == "weight_scale" else value for part, value in module.state_dict().items()}
        values[f"{name}.weight"] = codec.decompress(parts, module.quantization_scheme)["weight"]
    return values, f"compressed-tensors {compressed_tensors.__version__}"


def fp8_blocks(source, out):
    """By transformers' operation; what it leaves to a GPU, the file, by its published layout. Weights that do not fill their last blocks, which
    it does not round, are rounded with zeros beside them."""
    from transformers.integrations import finegrained_fp8

    out.mkdir()
    settings = transformers.FineGrainedFP8Config(modules_to_not_convert=["lm_head"])
    rounding = finegrained_fp8.Fp8Quantize(types.SimpleNamespace(quantization_config=settings))
    tensors, values = safetensors.torch.load_file(source / "model.safetensors"), {}
    for name in [name for name in tensors if name.endswith("_proj.weight")]:
        rows, cols = tensors[name].shape
        padded = torch.nn.functional.pad(tensors[name], (0, -cols % 128, 0, -rows % 128))
        made = rounding._quantize_one(name, padded)
        scale = name.replace(".weight", ".weight_scale_inv")
        tensors |= {name: made[name][:rows, :cols].contiguous(), scale: made[scale]}
        values[name] = finegrained_fp8._dequantize_fp8_weight(tensors[name], made[scale], [128, 128], torch.float32)
    config = json.loads((source / "config.json").read_text())
    (out / "config.json").write_text(json.dumps(config | {"quantization_config": settings.to_dict()}, indent=2) + "\n")
    safetensors.torch.save_file(tensors, out / "model.safetensors", metadata={"format": "pt"})
    return values, f"the published layout, with codes and scales of transformers {transformers.__version__}"


INT8 = {"num_bits": 8, "type": "int", "strategy": "channel", "symmetric": True}
INT4 = {"num_bits": 4, "type": "int", "strategy": "group", "group_size": 32, "symmetric": True}
FP8 = {"num_bits": 8, "type": "float", "strategy": "channel", "symmetric": True}
TOKEN, STATIC = {"strategy": "token", "dynamic": True}, {"strategy": "tensor", "dynamic": False}
BLOCK = {"strategy": "block", "block_structure": [128, 128]}
# A class, patterns and names: the latter come first.
MIXED = [(["Linear"], INT4, None), (["re:.*mlp[.]down_proj$", "model.layers.1.self_attn.o_proj"], INT8, INT8 | TOKEN)]

CASES = {
    "gptq_4bit": (gptqmodel, {"bits": 4, "group_size": 32, "sym": True, "desc_act": False}),
    "gptq_4bit_act_order": (gptqmodel, {"bits": 4, "group_size": 32, "sym": False, "desc_act": True, "act_group_aware": False}),
    "gptq_4bit_v2": (gptqmodel, {"bits": 4, "group_size": 32, "sym": False, "desc_act": False, "format": "gptq_v2"}),
    "gptq_8bit": (gptqmodel, {"bits": 8, "group_size": -1, "sym": False, "desc_act": False, "act_group_aware": False}),
    "awq": (gptqmodel, {"awq": True, "bits": 4, "group_size": 32, "sym": False}),
    "bnb_int8": (bitsandbytes, {"load_in_8bit": True}),
    "bnb_nf4": (bitsandbytes, {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4"}),
    "bnb_nf4_double": (bitsandbytes, {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4", "bnb_4bit_use_double_quant": True}),
    "bnb_fp4_double": (bitsandbytes, {"load_in_4bit": True, "bnb_4bit_quant_type": "fp4", "bnb_4bit_use_double_quant": True}),
    "ct_w8a8": (compressed_tensors, {"weights": INT8, "inputs": INT8 | TOKEN}),
    "ct_w8a8_static": (compressed_tensors, {"weights": INT8, "inputs": INT8 | STATIC}),
    "ct_w8a8_naive": (compressed_tensors, {"weights": INT8, "inputs": INT8 | TOKEN, "quantization_format": "naive-quantized"}),
    "ct_w4a16": (compressed_tensors, {"weights": INT4}),
    "ct_w4a16_asym": (compressed_tensors, {"weights": INT4 | {"symmetric": False}}),
    "ct_w8a16_asym": (compressed_tensors, {"weights": INT8 | {"symmetric": False}}),
    "ct_fp8_channel": (compressed_tensors, {"weights": FP8, "inputs": FP8 | TOKEN}),
    "ct_fp8_tensor": (compressed_tensors, {"weights": FP8 | STATIC, "inputs": FP8 | STATIC}),
    "ct_mixed": (compressed_tensors, {"groups": MIXED}),
    "ct_fp8_block": (compressed_tensors, {"weights": FP8 | BLOCK, "inputs": FP8 | TOKEN | {"strategy": "group", "group_size": 128}}),
    "fp8_blocks": (fp8_blocks, {}),
}  # fmt: skip
# Blocks that are cut off along both axes; AWQ quantises no fewer than 64 rows.
WIDE = {"fp8_blocks": {"intermediate_size": 192}, "awq": {"num_key_value_heads": 4}}


def hash_of(value):
    result = 0xCBF29CE484222325
    for byte in value.contiguous().numpy().tobytes():
        result = (result ^ byte) * 0x100000001B3 & 0xFFFFFFFFFFFFFFFF
    return f"{result:016x}"


def expect(folder, source, values, writer):
    """Writes expected.json and expected.safetensors."""
    model = transformers.AutoModelForCausalLM.from_pretrained(source, dtype=torch.float32, attn_implementation="eager").eval()
    missing = linears(model).keys() - {name[: -len(".weight")] for name in values}
    # AWQ moves scales into norms: what is dense is the file's.
    stored = safetensors.torch.load_file(folder / "model.safetensors")
    plain = {name: stored[name].float() for name in model.state_dict().keys() & stored.keys() - values.keys()}
    model.load_state_dict(plain | values)
    if missing:
        sys.exit(f"{folder.name}: no values of {sorted(missing)}")
    for seed in range(20):
        ids = numpy.random.default_rng(seed).integers(0, CONFIG["bos_token_id"], LENGTH).tolist()
        tokens, gap = greedy(model, ids, list(range(LENGTH)))
        if gap >= MIN_GAP:
            break
    logits, _ = forward(model, ids, list(range(LENGTH)))
    tensors = {"seq0.input_ids": torch.tensor(ids), "seq0.position_ids": torch.arange(LENGTH), "seq0.logits": logits.contiguous()}
    tensors |= {name: values[name].float().contiguous() for name in SHOWN}
    safetensors.torch.save_file(tensors, folder / "expected.safetensors")
    sequence = {"seq": 0, "input_ids": ids, "position_ids": list(range(LENGTH)), "argmax": logits.argmax(-1).tolist(), "greedy_24": tokens}
    sequence["greedy_min_top2_gap"] = gap
    # Zeros lose their sign.
    hashes = {name: hash_of(value.float() + 0.0) for name, value in sorted(values.items())}
    expected = {"name": f"quant/{folder.name}", "writer": writer, "sequences": [sequence], "hashes": hashes}
    (folder / "expected.json").write_text(json.dumps(expected) + "\n")
    print(f"{folder.name}: by {writer}; gap {gap:.4f}, {sum(file.stat().st_size for file in folder.iterdir()) / 1000:.0f} KB", flush=True)


def make(name):
    write, settings = CASES[name]
    folder = GOLDEN / name
    # gptqmodel leaves a folder of logs where it runs.
    with tempfile.TemporaryDirectory() as scratch, contextlib.chdir(scratch):
        source, out = dense(pathlib.Path(scratch) / "dense", **WIDE.get(name, {})), pathlib.Path(scratch) / "out"
        values, writer = write(source, out, **settings)
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        for file in ["config.json", "model.safetensors"]:
            shutil.copy(out / file, folder)
        expect(folder, source, {name: value.detach().float() for name, value in values.items()}, writer)


def main():
    torch.set_grad_enabled(False)
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    for name in sys.argv[1:] or CASES:
        make(name)


if __name__ == "__main__":
    main()
