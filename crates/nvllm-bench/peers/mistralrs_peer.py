"""mistral.rs through its Python package. See protocol.py.

It takes prompts as text only: token ids are turned into text and must come back as the same ids, else the command is refused.
Raw completions neither stream nor tell scores: the token that it chooses is compared, and a turn of decoding is a request of its
own of which it tells the mean time of a step.

Needs the package mistralrs.
"""

import sys
from importlib.metadata import version

from protocol import clock, missing, serve

try:
    import mistralrs
except ImportError as error:
    missing(f"Python package {error.name} (install mistralrs)")


class Peer:
    def __init__(self, model_dir):
        which = mistralrs.Which.Plain(model_id=model_dir)
        self.runner = mistralrs.Runner(which=which, max_seqs=1, prefix_cache_n=0, token_source="none")

    def complete(self, num):
        """The prompt and `num` tokens after it."""
        request = mistralrs.CompletionRequest(
            prompt=self.text, model="default", max_tokens=num, temperature=0.0, ignore_eos=True
        )
        response = self.runner.send_completion_request(request)
        made = (response.usage.prompt_tokens, response.usage.completion_tokens)
        if made != (self.prompt_len, num):
            raise ValueError(f"it ran {made[0]} and made {made[1]} tokens; {self.prompt_len} and {num} were asked for")
        return response

    def prefill(self, prompts, reserve):
        if len(prompts) > 1:
            raise ValueError(f"{len(prompts)} sequences; the adapter runs one")
        ids = prompts[0]
        self.text, self.prompt_len = self.runner.detokenize_text(ids, False), len(ids)
        again = self.runner.tokenize_text(self.text, False, None)
        if again != ids:
            raise ValueError(f"the prompt is given as text, and these {len(ids)} ids come back as {len(again)} others")
        begin = clock()
        response = self.complete(1)
        seconds = clock() - begin
        return {"seconds": seconds, "chosen": self.runner.tokenize_text(response.choices[0].text, False, None)[0]}

    def decode(self, num):
        # The first token comes with the prompt.
        usage = self.complete(num + 1).usage
        return {"seconds": [usage.total_completion_time_sec / num]}


def main():
    peer = Peer(sys.argv[1])
    hello = {
        "version": f"mistralrs {version('mistralrs')}",
        "detail": "Python package, one sequence, prefix cache off; mean of a turn",
        "activations": "its own",
        "kv": "its own",
    }
    serve(hello, {"prefill": peer.prefill, "decode": peer.decode})


if __name__ == "__main__":
    main()
