"""How far logits are from those of transformers in fp32, on the same weights and token ids: ours, and transformers' own in bf16.

    python logits_distance.py --model DIR --nvllm PROGRAM [--backend cuda] [--records FILE]

The rule, set before the first result. Over the rows of all prompts together,
- our logits under bf16 activations have a mean KL divergence KL(fp32 || ours) and a largest error no larger than transformers' in bf16;
- our logits under f32 activations have at most 1/100 of that error and 1/10,000 of that divergence, which is of the size of an error's
  square. (f32 carries 16 bits more than bf16; one product in TF32, which carries 3 more, breaks this.)
Single prompts are shown and do not decide: a short one has few rows, and both sides' distances are rounding noise.

Prints a table, appends a record a prompt to FILE (docs/parity.md), exits with 1 if the rule is broken. Needs the packages torch,
transformers, safetensors and numpy.
"""

import argparse
import datetime
import hashlib
import json
import os
import pathlib
import subprocess
import sys
import tempfile

import numpy
import safetensors.torch
import torch
import transformers

LENGTHS = [1, 7, 32, 129, 512, 777, 1024, 2048]
THEIRS, OURS, OURS_F32 = "transformers bf16", "nvllm bf16", "nvllm f32"
# Share of transformers' bf16 largest error and mean divergence that is allowed.
ALLOWED = {OURS: (1.0, 1.0), OURS_F32: (1e-2, 1e-4)}
ROWS_AT_ONCE = 256


def arguments():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", type=pathlib.Path, required=True, help="directory in Hugging Face's layout")
    parser.add_argument("--nvllm", type=pathlib.Path, required=True, help="the program nvllm")
    parser.add_argument("--backend", default="cpu", help="nvllm's backend")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu", help="torch's device")
    parser.add_argument("--lengths", type=int, nargs="+", default=LENGTHS, help="tokens of each prompt")
    parser.add_argument("--seed", type=int, default=0, help="of the token ids")
    parser.add_argument("--commit", default="unknown", help="of nvllm's source")
    parser.add_argument("--records", type=pathlib.Path, help="file of JSON lines to append to")
    return parser.parse_args()


def load(args, dtype):
    model = transformers.AutoModelForCausalLM.from_pretrained(args.model, dtype=dtype)
    return model.to(args.device).eval()


def ours(args, ids, activations, scratch):
    """Logits [tokens, vocabulary] by `nvllm logits`."""
    ids_file, out = scratch / "ids.json", scratch / "logits.safetensors"
    ids_file.write_text(json.dumps(ids))
    command = [args.nvllm.resolve(), "logits", "--model", args.model, "--backend", args.backend, "--activations", activations]
    command += ["--max-model-len", str(max(args.lengths)), "--ids", ids_file, "--out", out]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True)
    if done.returncode != 0:
        sys.exit(f"nvllm logits ended with {done.returncode}: {done.stderr.strip()}")
    logits = safetensors.torch.load_file(out)["logits"]
    out.unlink()
    return logits.to(args.device)


def distance(exact, other):
    """What is summed over rows, and what is largest among them."""
    if exact.shape != other.shape:
        sys.exit(f"logits of shape {list(other.shape)}; transformers has {list(exact.shape)}")
    divergences, errors, num_equal = [], [], 0
    for exact, other in zip(exact.split(ROWS_AT_ONCE), other.split(ROWS_AT_ONCE)):
        exact, other = exact.double(), other.double()
        log_p, log_q = exact.log_softmax(-1), other.log_softmax(-1)
        divergences.append((log_p.exp() * (log_p - log_q)).sum(-1).cpu().numpy())
        errors.append((exact - other).abs().amax(-1).cpu().numpy())
        num_equal += int((exact.argmax(-1) == other.argmax(-1)).sum())
    divergences, errors = numpy.concatenate(divergences), numpy.concatenate(errors)
    # A sum of rounding errors may be below zero by a hair where two distributions are equal.
    return {
        "kl_sum": float(numpy.maximum(divergences, 0.0).sum()),
        "kl_max": float(numpy.maximum(divergences, 0.0).max()),
        "max_error": float(errors.max()),
        "argmax_equal": num_equal,
    }


def measure(args, ids, exact_model, rounded_model, scratch):
    """Each engine's distance, and the largest logit."""
    tokens = torch.tensor([ids], device=args.device)
    exact = exact_model(input_ids=tokens, use_cache=False).logits[0]
    found = {THEIRS: distance(exact, rounded_model(input_ids=tokens, use_cache=False).logits[0])}
    for name, activations in [(OURS, "bf16"), (OURS_F32, "f32")]:
        found[name] = distance(exact, ours(args, ids, activations, scratch))
    return found, float(exact.abs().max())


def total(records, name):
    """Mean divergence, largest error and share of equal choices over all prompts."""
    of = [record["distances"][name] for record in records]
    rows = sum(record["prompt_len"] for record in records)
    # numpy's maximum keeps a NaN.
    error = float(numpy.max([one["max_error"] for one in of]))
    return sum(one["kl_sum"] for one in of) / rows, error, sum(one["argmax_equal"] for one in of) / rows


def broken(records):
    """What breaks the rule, one line each."""
    kl, error, _ = total(records, THEIRS)
    lines = []
    for name, (error_share, kl_share) in ALLOWED.items():
        our_kl, our_error, _ = total(records, name)
        if not our_kl <= kl_share * kl:
            lines.append(f"{name}: mean KL {our_kl:.3e}; at most {kl_share * kl:.3e} is allowed")
        if not our_error <= error_share * error:
            lines.append(f"{name}: largest error {our_error:.3e}; at most {error_share * error:.3e} is allowed")
    return lines


def table(records):
    names = [THEIRS, OURS, OURS_F32]
    lines = ["| prompt |" + "".join(f" {name}: mean KL | largest error | argmax equal |" for name in names)]
    lines.append("|---|" + "---|---|---|" * len(names))
    for label, some in [(f"{record['prompt_len']} tokens", [record]) for record in records] + [("all", records)]:
        cells = (total(some, name) for name in names)
        lines.append(f"| {label} |" + "".join(f" {kl:.2e} | {error:.2e} | {100 * equal:.1f} % |" for kl, error, equal in cells))
    return "\n".join(lines)


def conditions(args, config):
    """What every record of a run says of where it was made."""
    digest = hashlib.sha256()
    for file in sorted(args.model.glob("*.safetensors")):
        with open(file, "rb") as weights:
            while piece := weights.read(1 << 24):
                digest.update(piece)
    now = datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")
    on_gpu = torch.device(args.device).type == "cuda"
    return {
        "schema": 1,
        "run": f"{now}-{os.getpid()}",
        "time": now,
        "commit": args.commit,
        "backend": args.backend,
        "device": torch.cuda.get_device_name(args.device) if on_gpu else "cpu",
        "model": args.model.resolve().name,
        "sha256": digest.hexdigest(),
        "vocab_size": config.vocab_size,
        "peer": f"transformers {transformers.__version__}, torch {torch.__version__}, {config._attn_implementation} attention",
        "seed": args.seed,
    }


def main():
    args = arguments()
    torch.set_grad_enabled(False)
    transformers.utils.logging.disable_progress_bar()
    # fp32 is fp32: no TF32 in products or convolutions.
    torch.set_float32_matmul_precision("highest")
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    exact_model, rounded_model = load(args, torch.float32), load(args, torch.bfloat16)
    shared = conditions(args, exact_model.config)
    draw = numpy.random.default_rng(args.seed)
    records = []
    with tempfile.TemporaryDirectory() as scratch:
        for length in args.lengths:
            ids = draw.integers(0, shared["vocab_size"], length).tolist()
            found, largest = measure(args, ids, exact_model, rounded_model, pathlib.Path(scratch))
            records.append({**shared, "prompt_len": length, "largest_logit": largest, "distances": found})
    print(table(records))
    if args.records:
        args.records.parent.mkdir(parents=True, exist_ok=True)
        with open(args.records, "a") as file:
            file.writelines(json.dumps(record) + "\n" for record in records)
    lines = broken(records)
    print("\n".join(lines) if lines else "our distance to fp32 is no larger than transformers' own in bf16")
    sys.exit(1 if lines else 0)


if __name__ == "__main__":
    main()
