"""Makes the fixtures k, l, m and o of tests/golden: small random checkpoints of Llama's relatives, with what transformers computes from them.

    python llama_fixtures.py                    writes the folders of CASES
    python llama_fixtures.py --check [NAME ..]  recomputes the logits and greedy tokens of recorded folders, of all if none is named

A folder holds what a test reads:

- config.json in the hub's older layout, config_v5.json as transformers 5 saves it
- model.safetensors, the weights as stored; tensors.json, their dtypes and shapes
- expected.safetensors: per sequence `input_ids`, `position_ids` and `logits` f32 [T, vocab]; of sequence 0 `hidden.0` (the embeddings) to
  `hidden.L` (after the final norm), f32 [T, hidden]
- expected.json: the likeliest token at each row, 24 greedy tokens, the smallest gap between the best two logits on that way, and how far f32
  is from f64

Everything is computed on a CPU in f32, one thread, with attention written out (`eager`). Seeds are fixed; the same versions give the same
bytes. What a case is about is checked here too: changing it must change the logits. Seeds were chosen so that no greedy step is close to a
tie (MIN_GAP).

Needs the packages torch, transformers, safetensors and numpy (torch 2.15.0 and transformers 5.24.0 recorded the files).
"""

import argparse
import copy
import json
import pathlib
import shutil
import sys
import tempfile

import numpy
import safetensors
import safetensors.torch
import torch
import transformers

GOLDEN = pathlib.Path(__file__).resolve().parents[1] / "golden"
NUM_GREEDY = 24
# Far above the 1e-3 that a logit may be off.
MIN_GAP = 0.005
DTYPES = {"bfloat16": "bf16", "float16": "f16", "float32": "f32"}

# In the hub's order of keys. Sizes are small: a folder stays under 400 KB.
COMMON = {
    "vocab_size": 320, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 3, "num_attention_heads": 4, "num_key_value_heads": 2,
    "max_position_embeddings": 256, "rms_norm_eps": 1e-05, "rope_theta": 10000.0, "hidden_act": "silu", "attention_dropout": 0.0,
    "initializer_range": 0.02, "use_cache": True, "tie_word_embeddings": False, "bos_token_id": 318, "eos_token_id": 319,
}
OLD = {"torch_dtype": "bfloat16", "transformers_version": "4.51.0"}
LLAMA = {"model_type": "llama", "architectures": ["LlamaForCausalLM"]}
MISTRAL = {"model_type": "mistral", "architectures": ["MistralForCausalLM"]}
QWEN2 = {"model_type": "qwen2", "architectures": ["Qwen2ForCausalLM"]}
YARN = {"factor": 4.0, "original_max_position_embeddings": 64, "type": "yarn"}

# Llama 2's file says neither rope_theta nor head_dim.
LLAMA2 = {key: value for key, value in COMMON.items() if key != "rope_theta"} | {"num_key_value_heads": 4, "rope_scaling": None}

# name: seed, lengths of the sequences, config.json, and what must change the logits where it is said otherwise.
CASES = {
    "k_mistral_window": (2, [12, 17, 75], {**COMMON, **MISTRAL, "head_dim": 8, "sliding_window": 16, **OLD}, [{"sliding_window": None}]),
    "l_llama2": (4, [16, 40], {**LLAMA2, **LLAMA, "pretraining_tp": 1, **OLD, "torch_dtype": "float16"}, [{"rope_theta": 20000.0}]),
    "m_qwen2_window_yarn": (
        3, [12, 140],
        {**COMMON, "tie_word_embeddings": True, "rms_norm_eps": 1e-06, "rope_theta": 1000000.0, "rope_scaling": YARN, **QWEN2,
         "use_sliding_window": True, "sliding_window": 16, "max_window_layers": 1, **OLD},
        [{"use_sliding_window": False}, {"max_window_layers": 0}, {"max_window_layers": 2}, {"rope_scaling": None}],
    ),
    "o_llama_bias": (1, [24, 40], {**COMMON, **LLAMA, "head_dim": 16, "attention_bias": True, "mlp_bias": True, **OLD}, []),
}  # fmt: skip


def weight(draw, name, shape):
    """Values that leave the logits a spread of a few units, and that no norm or bias can be left out of unseen."""
    values = draw.standard_normal(shape)
    if name.endswith("bias"):
        return 0.3 * values
    if name.endswith("norm.weight"):
        return 1.0 + 0.25 * values
    if name.endswith("embed_tokens.weight"):
        return 0.25 * values
    return 1.4 / shape[1] ** 0.5 * values


def save_checkpoint(folder, config, seed):
    """Writes config.json and model.safetensors."""
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    model = transformers.AutoModelForCausalLM.from_config(transformers.AutoConfig.from_pretrained(folder))
    tied = {"lm_head.weight"} if config["tie_word_embeddings"] else set()
    names = sorted(model.state_dict().keys() - tied)
    draw, dtype = numpy.random.default_rng(seed), getattr(torch, config["torch_dtype"])
    shapes = {name: model.state_dict()[name].shape for name in names}
    tensors = {name: torch.from_numpy(weight(draw, name, shapes[name])).to(dtype) for name in names}
    safetensors.torch.save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    listed = {name: [config["torch_dtype"], list(shape)] for name, shape in shapes.items()}
    (folder / "tensors.json").write_text(json.dumps(listed, indent=0) + "\n")
    ends = {"bos_token_id": config["bos_token_id"], "eos_token_id": config["eos_token_id"], "do_sample": False}
    (folder / "generation_config.json").write_text(json.dumps(ends) + "\n")


def load(folder, dtype=torch.float32, **changes):
    """The model; `changes` replace what its config says."""
    config = transformers.AutoConfig.from_pretrained(folder)
    if changes:
        config = type(config).from_dict({**json.loads((folder / "config.json").read_text()), **changes})
    model, info = transformers.AutoModelForCausalLM.from_pretrained(
        folder, config=config, dtype=dtype, attn_implementation="eager", output_loading_info=True
    )
    if info["missing_keys"] or info["unexpected_keys"]:
        sys.exit(f"{folder.name}: {info}")
    return model.eval()


def forward(model, ids, positions):
    """Logits [T, vocab] and hidden states, each [T, hidden]."""
    ids, positions = torch.tensor([ids]), torch.tensor([positions])
    # Without a mask, transformers takes a gap in the positions for the start of another sequence.
    given = {"attention_mask": torch.ones_like(ids), "position_ids": positions}
    out = model(input_ids=ids, **given, use_cache=False, output_hidden_states=True)
    return out.logits[0], [hidden[0] for hidden in out.hidden_states]


def greedy(model, ids, positions):
    """Tokens without a cache, and the smallest gap of the best two logits."""
    ids, positions, gap = list(ids), list(positions), float("inf")
    for _ in range(NUM_GREEDY):
        best = forward(model, ids, positions)[0][-1].topk(2)
        gap = min(gap, float(best.values[0] - best.values[1]))
        ids.append(int(best.indices[0]))
        positions.append(positions[-1] + 1)
    return ids[-NUM_GREEDY:], gap


def greedy_cached(model, ids, positions):
    """The same with a cache, a token a step."""
    cache, tokens, position = transformers.DynamicCache(config=model.config), [], positions[-1]
    ids, positions = torch.tensor([ids]), torch.tensor([positions])
    for _ in range(NUM_GREEDY):
        logits = model(input_ids=ids, position_ids=positions, cache=cache, use_cache=True).logits[0, -1]
        tokens.append(int(logits.argmax()))
        position += 1
        ids, positions = torch.tensor([[tokens[-1]]]), torch.tensor([[position]])
    return tokens


def expect(folder, lengths, seed):
    """Writes expected.json and expected.safetensors."""
    config = json.loads((folder / "config.json").read_text())
    model, exact = load(folder), load(folder, torch.float64)
    draw = numpy.random.default_rng([seed, 1])
    tensors, logits_of, sequences = {}, {}, []
    for seq, length in enumerate(lengths):
        ids, positions = draw.integers(0, config["bos_token_id"], length).tolist(), list(range(length))
        logits, hidden = forward(model, ids, positions)
        tensors[f"seq{seq}.input_ids"] = torch.tensor(ids)
        tensors[f"seq{seq}.position_ids"] = torch.tensor(positions)
        logits_of[f"seq{seq}.logits"] = logits
        if seq == 0:
            tensors |= {f"seq0.hidden.{layer}": state for layer, state in enumerate(hidden)}
        tokens, gap = greedy(model, ids, positions)
        sequences.append({
            "seq": seq, "input_ids": ids, "position_ids": positions, "argmax": logits.argmax(-1).tolist(),
            "logits_absmax": round(float(logits.abs().max()), 4),
            "max_abs_diff_vs_f64": float((logits - forward(exact, ids, positions)[0]).abs().max()),
            "greedy_24": tokens, "greedy_min_top2_gap": gap, "greedy_cached_equal": tokens == greedy_cached(model, ids, positions),
        })  # fmt: skip
        if gap < MIN_GAP or not sequences[-1]["greedy_cached_equal"]:
            sys.exit(f"{folder.name}, sequence {seq}: smallest gap {gap}; choose another seed")
    tensors = {name: tensor.contiguous() for name, tensor in {**tensors, **logits_of}.items()}
    producer = f"transformers {transformers.__version__} torch {torch.__version__} cpu float32 eager"
    safetensors.torch.save_file(tensors, folder / "expected.safetensors", metadata={"producer": producer})
    expected = {"name": folder.name, "store_dtype": DTYPES[config["torch_dtype"]], "sequences": sequences}
    (folder / "expected.json").write_text(json.dumps(expected) + "\n")
    return model, sequences[-1]


def save_config_v5(folder, model):
    """Writes config_v5.json, and checks that the model it describes is the same."""
    config = copy.deepcopy(model.config)
    config.dtype = getattr(torch, json.loads((folder / "config.json").read_text())["torch_dtype"])
    with tempfile.TemporaryDirectory() as scratch:
        scratch = pathlib.Path(scratch)
        config.save_pretrained(scratch)
        shutil.copy(scratch / "config.json", folder / "config_v5.json")
        shutil.copy(folder / "model.safetensors", scratch)
        return load(scratch)


def make(name):
    seed, lengths, config, changes = CASES[name]
    folder = GOLDEN / name
    folder.mkdir(exist_ok=True)
    save_checkpoint(folder, config, seed)
    model, last = expect(folder, lengths, seed)
    ids, positions = last["input_ids"], last["position_ids"]
    logits = forward(model, ids, positions)[0]
    if not torch.equal(logits, forward(save_config_v5(folder, model), ids, positions)[0]):
        sys.exit(f"{name}: config_v5.json describes another model")
    for change in changes:
        moved = float((logits - forward(load(folder, **change), ids, positions)[0]).abs().max())
        print(f"{name}: {change} moves logits by up to {moved:.3f}")
        if moved < 0.1:
            sys.exit(f"{name} does not show {change}")
    size = sum(file.stat().st_size for file in folder.iterdir())
    print(f"{name}: {size / 1000:.0f} KB, largest logit {last['logits_absmax']}, gap {last['greedy_min_top2_gap']:.4f}")


def check(name):
    """Whether a recorded folder still comes out: its largest difference of a logit, and its greedy tokens."""
    folder = GOLDEN / name
    model, worst, equal = load(folder), 0.0, True
    recorded = json.loads((folder / "expected.json").read_text())
    with safetensors.safe_open(folder / "expected.safetensors", "pt") as expected:
        for seq in recorded["sequences"]:
            logits = forward(model, seq["input_ids"], seq["position_ids"])[0]
            worst = max(worst, float((logits - expected.get_tensor(f"seq{seq['seq']}.logits")).abs().max()))
            if seq.get("greedy_24"):
                equal &= greedy(model, seq["input_ids"], seq["position_ids"])[0] == seq["greedy_24"]
    print(f"{name}: logits off by up to {worst:.1e}, greedy tokens {'equal' if equal else 'DIFFER'}")
    return equal and worst <= 1e-4


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--check", nargs="*", metavar="NAME", help="recompute recorded folders instead of writing")
    args = parser.parse_args()
    torch.set_grad_enabled(False)
    torch.set_num_threads(1)
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    if args.check is None:
        for name in CASES:
            make(name)
        return
    names = args.check or sorted(path.parent.name for path in GOLDEN.glob("*/expected.json"))
    sys.exit(0 if all([check(name) for name in names]) else 1)


if __name__ == "__main__":
    main()
