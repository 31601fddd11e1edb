"""How often the demo model answers rightly under a sampling, and how much its stories repeat themselves.

The questions are the chats and the tool call of tests/golden/nvllm-tiny.json, each asked with the seeds 0, 1, .. .
An answer is right if it ends by itself, closes a thinking block that it opens, and says what the golden answer says:

- the capital, who it is, the opposite: the golden answer's word
- the sum: the golden answer's number (greedily it is a wrong one: what is held is that sampling changes nothing)
- three colours: three different names of colours and nothing else (which ones is free)
- the story: at least one sentence (the rest is free)
- the tool call: the same name and arguments, as valid JSON in <tool_call>

Beside them a first "Hello" is asked: a penalty on the prompt's tokens may forbid to give it back. Right is the greeting and an offer to help.

The stories continue three openings for 256 tokens. Repetition is the share of word triples that were there before.

    python3 tests/python/demo_sampling.py --seeds 8 --out FILE "-t 0.6 --top-k 20 --top-p 0.95" "-t 0.8 .."

runs each sampling (the flags of `nvllm generate`), appends each answer to FILE as a line of JSON, and prints the counts.
Python and its standard library are all it needs.
"""

import argparse
import json
import pathlib
import re
import shlex
import subprocess

ROOT = pathlib.Path(__file__).resolve().parents[2]
OPENINGS = ["Once upon a time", "The old man looked at the sea and", "\"Where are you going?\" said the"]
GREETING = "<|im_start|>user\nHello<|im_end|>\n<|im_start|>assistant\n"
COLOURS = set(
    "red orange yellow green blue purple pink brown black white grey gray violet indigo gold golden silver scarlet crimson turquoise beige "
    "magenta cyan teal navy maroon lilac lavender olive amber ivory cream tan".split()
)


def run(binary, sampling, seed, prompt, num_tokens):
    command = [binary, "generate", prompt, "--special", "--json", "--threads", "1", "-n", str(num_tokens), "--seed", str(seed)]
    done = subprocess.run(command + shlex.split(sampling), capture_output=True, check=True)
    return json.loads(done.stdout)


def tool_call(text):
    found = re.fullmatch(r"\s*<tool_call>(.*)</tool_call>\s*", text, re.S)
    try:
        call = json.loads(found[1]) if found else None
    except ValueError:
        return None
    return call and (call.get("name"), call.get("arguments"))


def final(text):
    """The answer after the thinking; None if a block is left open or opened twice."""
    text = text.replace("<|im_end|>", "")
    if text.count("<think>") != text.count("</think>") or text.count("<think>") > 1:
        return None
    return text.split("</think>")[-1].strip()


def is_right(case, text, reason):
    answer, golden = final(text), final(case["output_text"])
    if reason != "stop" or not answer:
        return False
    if case["kind"] == "tool":
        return tool_call(answer) == tool_call(golden)
    question = case["input"][0]["content"]
    if "colours" in question:
        names = re.findall(r"[a-z]+", answer.lower().replace(" and ", " "))
        return len(names) == 3 and len(set(names)) == 3 and set(names) <= COLOURS
    if "story" in question:
        return re.search(r"\w+ \w+.*[.!?]", answer) is not None
    word = {"capital": "paris", "Who": "nvllm-tiny", "opposite": "cold"}
    decisive = next((w for k, w in word.items() if k in question), None) or re.findall(r"\d+", golden)[-1]
    assert decisive in golden.lower(), (decisive, golden)
    return decisive in (re.findall(r"\d+", answer)[-1:] if decisive.isdigit() else answer.lower())


def greets(text, reason):
    return reason == "stop" and re.match(r"Hello\b.*(help|do for you)", final(text) or "") is not None


def repetition(text):
    words = re.findall(r"\w+", text.lower())
    triples = list(zip(words, words[1:], words[2:]))
    return 1 - len(set(triples)) / max(1, len(triples))


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("samplings", nargs="+")
    parser.add_argument("--nvllm", default=ROOT / "target/release/nvllm")
    parser.add_argument("--seeds", type=int, default=8)
    parser.add_argument("--out", required=True)
    args = parser.parse_args()
    cases = [c for c in json.loads((ROOT / "tests/golden/nvllm-tiny.json").read_text())["cases"] if c["kind"] != "text"]
    for sampling in args.samplings:
        right, greeted, repeated = [0] * len(cases), 0, []
        with open(args.out, "a") as out:
            def record(**fields):
                out.write(json.dumps({"sampling": sampling, **fields}) + "\n")

            for seed in range(args.seeds):
                for index, case in enumerate(cases):
                    got = run(args.nvllm, sampling, seed, case["prompt"], 512)
                    good = is_right(case, got["text"], got["finish_reason"])
                    right[index] += good
                    record(case=index, seed=seed, right=good, finish_reason=got["finish_reason"], text=got["text"])
                got = run(args.nvllm, sampling, seed, GREETING, 512)
                good = greets(got["text"], got["finish_reason"])
                greeted += good
                record(case="greeting", seed=seed, right=good, finish_reason=got["finish_reason"], text=got["text"])
                for opening in OPENINGS:
                    got = run(args.nvllm, sampling, seed, opening, 256)
                    repeated.append(repetition(got["text"]))
                    record(opening=opening, seed=seed, repetition=round(repeated[-1], 3), text=got["text"])
        chats = sum(right[i] for i, c in enumerate(cases) if c["kind"] == "chat")
        tools = sum(right[i] for i, c in enumerate(cases) if c["kind"] == "tool")
        num_chats = sum(c["kind"] == "chat" for c in cases)
        print(f"{sampling}: chats {chats} of {num_chats * args.seeds}, tool calls {tools} of {(len(cases) - num_chats) * args.seeds}, "
              f"greetings {greeted} of {args.seeds}; "
              f"repetition {sum(repeated) / len(repeated):.2f}, at most {max(repeated):.2f}; by case {right}", flush=True)


if __name__ == "__main__":
    main()
