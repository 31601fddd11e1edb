"""Whether others read what `nvllm quantize` writes as we mean it: logits of transformers with compressed-tensors or bitsandbytes, on a
checkpoint that was just written, beside ours on the same model quantised at load (`--quantize`).

    python quantized_checkpoints.py --model models/nvllm-tiny --nvllm PROGRAM [--read] [--formats NAME ..]

- `weights`: their weights dequantised to f32, inputs as they are, beside our CPU backend in f32, which expands codes. The values are the
  same, so that only the order of sums may differ: a mean KL divergence of at most 1e-8 is allowed.
- `run`: their module as it runs, inputs quantised, beside our reference backend. compressed-tensors divides an int8 input by the largest
  magnitude / 127.5 and vLLM and we by / 127, so that such logits are near and not equal: the divergence has to be below a tenth of that
  between the quantised model and the original.
With --read also ours on the checkpoint itself, which has to be ours on the model quantised at load, bit for bit.

Exits with 1 if a rule is broken. Needs the packages torch, transformers, accelerate, compressed-tensors, bitsandbytes, safetensors, numpy.
"""

import argparse
import json
import math
import pathlib
import subprocess
import sys
import tempfile

import numpy
import safetensors.torch
import torch
import transformers

# Arguments of `nvllm quantize`; those of loading; whether their module quantises its inputs.
FORMATS = {
    "int8": (["--format", "int8"], ["--quantize", "int8"], True),
    "fp8": (["--format", "fp8"], ["--quantize", "fp8"], True),
    "int4 of 32": (["--format", "int4", "--group-size", "32"], ["--quantize", "int4", "--quantize-group-size", "32"], False),
    "int4 of 64": (["--format", "int4", "--group-size", "64"], ["--quantize", "int4", "--quantize-group-size", "64"], False),
    "nf4": (["--format", "nf4"], ["--quantize", "nf4"], False),
    # Nothing of ours has scales in 8 bits: beside nf4.
    "nf4 twice": (["--format", "nf4", "--double-quant"], None, False),
    # Ours at load quantises the embeddings too where they are the head: the checkpoint does not.
    "int4, head int8": (["--format", "int4", "--group-size", "64", "--head", "int8"], None, False),
}
TOKENS = 48
SAME, NEAR = 1e-8, 0.1


def arguments():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", type=pathlib.Path, required=True, help="directory in Hugging Face's layout")
    parser.add_argument("--nvllm", type=pathlib.Path, required=True, help="the program nvllm")
    parser.add_argument("--read", action="store_true", help="also run the checkpoint itself")
    parser.add_argument("--formats", nargs="+", choices=FORMATS, default=list(FORMATS))
    return parser.parse_args()


def run(*command):
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{' '.join(map(str, command))}: {done.stderr}")


def ours(args, ids, scratch, model, backend, *flags):
    """Logits [tokens, vocabulary] by `nvllm logits`."""
    (scratch / "ids.json").write_text(json.dumps(ids))
    out = scratch / "logits.safetensors"
    command = [args.nvllm.resolve(), "logits", "--model", model, "--backend", backend, "--activations", "f32"]
    run(*command, *flags, "--ids", scratch / "ids.json", "--out", out)
    return safetensors.torch.load_file(out)["logits"].double()


def theirs(directory, ids, **config):
    model = transformers.AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32, **config).eval()
    for module in model.modules():
        state = getattr(getattr(module, "weight", None), "quant_state", None)
        if state is not None:
            # bitsandbytes rounds dequantised weights to the dtype that the checkpoint names.
            state.dtype = torch.float32
    with torch.no_grad():
        return model(torch.tensor([ids])).logits[0].double()


def dequantized(directory):
    """What to load the checkpoint with for its weights alone."""
    method = json.loads((directory / "config.json").read_text())["quantization_config"]["quant_method"]
    if method != "compressed-tensors":
        return {}
    return {"quantization_config": transformers.CompressedTensorsConfig(dequantize=True)}


def divergence(p, q):
    p, q = torch.log_softmax(p, -1), torch.log_softmax(q, -1)
    return ((p.exp() * (p - q)).sum(-1)).mean().item()


def main():
    args = arguments()
    scratch = pathlib.Path(tempfile.mkdtemp(prefix="quantized-"))
    vocabulary = json.loads((args.model / "config.json").read_text())["vocab_size"]
    ids = numpy.random.default_rng(0).integers(0, vocabulary, TOKENS).tolist()
    original = ours(args, ids, scratch, args.model, "cpu")
    broken = False
    print(f"{'format':16} {'what':9} {'largest':>10} {'KL':>10} {'allowed':>10} {'to original':>12} {'same top-1':>11}")

    def row(name, what, theirs, mine, allowed):
        nonlocal broken
        kl, lost = divergence(theirs, mine), divergence(original, theirs)
        allowed = NEAR * lost if allowed == NEAR else allowed
        top = (theirs.argmax(-1) == mine.argmax(-1)).double().mean().item()
        ok = abs(kl) <= allowed
        broken |= not ok
        largest = (theirs - mine).abs().max().item()
        print(f"{name:16} {what:9} {largest:10.2e} {kl:10.2e} {allowed:10.2e} {lost:12.2e} {top:11.1%}{'' if ok else '  BROKEN'}")

    for name in args.formats:
        made, load, quantizes_inputs = FORMATS[name]
        directory = scratch / name.replace(" ", "-").replace(",", "")
        run(args.nvllm.resolve(), "quantize", args.model, *made, "-o", directory)
        weights = theirs(directory, ids, **dequantized(directory))
        if load is not None:
            mine = ours(args, ids, scratch, args.model, "cpu", *load)
            row(name, "weights", weights, mine, SAME)
            if quantizes_inputs:
                row(name, "run", theirs(directory, ids), ours(args, ids, scratch, args.model, "reference", *load), NEAR)
            else:
                row(name, "run", theirs(directory, ids), mine, SAME)
        elif not args.read:
            row(name, "loads", weights, original, math.inf)
        if args.read:
            read = ours(args, ids, scratch, directory, "cpu")
            row(name, "read", weights, read, SAME)
            if load is not None and not torch.equal(read, mine):
                print(f"{name}: the checkpoint is not the model quantised at load")
                broken = True
    sys.exit(broken)


if __name__ == "__main__":
    main()
