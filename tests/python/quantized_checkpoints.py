"""Whether others read what `nvllm quantize` writes as we mean it: logits of transformers with compressed-tensors or bitsandbytes, on a
checkpoint that was just written, beside ours on the same model quantised at load (`--quantize`).

    python quantized_checkpoints.py --model models/nvllm-tiny --nvllm PROGRAM [--read] [--formats NAME ..]

- `weights`: inputs of layers as they are, beside our CPU backend in f32, which expands codes.
- `run`: their module as it runs, with inputs quantised, beside our reference backend. compressed-tensors divides an int8 input by the
  largest magnitude / 127.5; vLLM and we by / 127, and so does their module here.
The values are the same, so that only the order of sums may differ: a mean KL divergence of at most 1e-8 is allowed. Where inputs are
quantised, what the order changes makes an input in the middle between two codes the one or the other, a whole step, and layers after it
differ: half of the divergence between the quantised model and the original is allowed.
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

import bitsandbytes
import compressed_tensors.quantization.lifecycle.forward as their_forward
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
SAME, NEAR = 1e-8, 0.5


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


def scaled_as_ours():
    """Has compressed-tensors scale int8 inputs by 127."""
    of_tokens = their_forward.compute_dynamic_scales_and_zp

    def scales(value, args, *rest, **more):
        scale, zero_point = of_tokens(value, args, *rest, **more)
        return (scale * 127.5 / 127 if args.type == "int" else scale), zero_point

    their_forward.compute_dynamic_scales_and_zp = scales


def theirs(directory, ids, **config):
    model = transformers.AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32, **config).eval()
    for parameter in model.parameters():
        # bitsandbytes leaves what is not quantised in the checkpoint's dtype.
        if parameter.is_floating_point():
            parameter.data = parameter.data.float()
    for module in model.modules():
        state = getattr(getattr(module, "weight", None), "quant_state", None)
        if state is not None:
            # bitsandbytes multiplies in bf16 on a CPU; its weights are what is looked at.
            state.dtype = torch.float32
            dense = bitsandbytes.functional.dequantize_4bit(module.weight.data, state)
            module.forward = lambda x, dense=dense, bias=module.bias: torch.nn.functional.linear(x, dense, bias)
    with torch.no_grad():
        return model(torch.tensor([ids])).logits[0].double()


def divergence(p, q):
    p, q = torch.log_softmax(p, -1), torch.log_softmax(q, -1)
    return ((p.exp() * (p - q)).sum(-1)).mean().item()


def main():
    args = arguments()
    scaled_as_ours()
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
        dense = {"quantization_config": transformers.CompressedTensorsConfig(dequantize=True)} if quantizes_inputs else {}
        weights = theirs(directory, ids, **dense)
        mine = None if load is None else ours(args, ids, scratch, args.model, "cpu", *load)
        if mine is None:
            row(name, "loads", weights, original, math.inf)
        else:
            row(name, "weights", weights, mine, SAME)
        if quantizes_inputs:
            row(name, "run", theirs(directory, ids), ours(args, ids, scratch, args.model, "reference", *load), NEAR)
        if args.read:
            read = ours(args, ids, scratch, directory, "cpu")
            row(name, "read", weights, read, SAME)
            if mine is not None and not torch.equal(read, mine):
                print(f"{name}: the checkpoint is not the model quantised at load")
                broken = True
    sys.exit(broken)


if __name__ == "__main__":
    main()
