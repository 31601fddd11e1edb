"""What every adapter shares: one JSON object a line, commands in, answers out.

An adapter is started as

    python3 ADAPTER [ARGS] MODEL_DIR CONVERTED NUM_THREADS DEVICE

MODEL_DIR is a Hugging Face directory. CONVERTED is the beginning of the name of files that the adapter may write from it
and find again. DEVICE is where our backend computes, as torch names it: `cpu`, `cuda:0`. The first line that it writes says who answers, or what is missing:

    {"version", "detail", "weights"?, "activations", "kv", "ops": [..]}     or     {"missing": reason}

Then it answers commands until its input ends, each with one line, or with {"error": reason}:

    {"op": "prefill", "prompts": [[id, ..], ..], "reserve": n}   forgets everything and runs the prompts, with room for n tokens each
        -> {"seconds", one of "logits": [[id, x], ..] | "logprobs": [[id, x], ..] | "chosen": id}     scores after the first prompt
    {"op": "decode", "num": n}                                   n greedy tokens for each prompt
        -> {"seconds": [of each step]}                           or the mean of the steps alone, where no more is known
    {"op": "set", "prompts": [..], "output_lens": [..]}          all at once, greedy, end tokens ignored
        -> {"seconds", "token_seconds": [[of each token, from the start], ..]}
"""

import json
import os
import sys
import time
import traceback

# What is answered; libraries that print do so on stderr.
_answers = os.fdopen(os.dup(1), "w")
os.dup2(2, 1)


def say(message):
    print(json.dumps(message), file=_answers, flush=True)


def missing(reason):
    say({"missing": reason})
    sys.exit(3)


def clock():
    return time.perf_counter()


def top5(scores):
    """Id and score of the five largest of a numpy array."""
    ids = scores.argsort()[::-1][:5]
    return [[int(i), float(scores[i])] for i in ids]


def serve(hello, ops):
    """Says hello, then answers until the input ends."""
    say({**hello, "ops": sorted(ops)})
    for line in sys.stdin:
        command = json.loads(line)
        try:
            say(ops[command.pop("op")](**command))
        except Exception as error:
            traceback.print_exc()
            say({"error": f"{type(error).__name__}: {error}"})
