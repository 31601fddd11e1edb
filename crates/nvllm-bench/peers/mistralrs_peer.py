"""mistral.rs through its Python package. See protocol.py.

It takes prompts as text only: token ids are turned into text and must come back as the same ids, else the command is refused.
Times of tokens are those at which its stream yields them; a prompt's time is that to the first token.

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
        self.stream = None

    def text(self, ids):
        text = self.runner.detokenize_text(ids, False)
        again = self.runner.tokenize_text(text, False, None)
        if again != ids:
            raise ValueError(f"the prompt is given as text, and these {len(ids)} ids come back as {len(again)} others")
        return text

    def start(self, prompt, num, scores):
        """A stream of at most `num` tokens after the prompt."""
        request = mistralrs.ChatCompletionRequest(
            messages=self.text(prompt),
            model="default",
            max_tokens=num,
            temperature=0.0,
            ignore_eos=True,
            logprobs=scores,
            top_logprobs=5 if scores else None,
            stream=True,
        )
        return iter(self.runner.send_chat_completion_request(request))

    def prefill(self, prompts, reserve):
        if len(prompts) > 1:
            raise ValueError(f"{len(prompts)} sequences; the adapter runs one")
        if self.stream:
            # There is no abort: what is left is run to its end.
            for _ in self.stream:
                pass
        self.stream = self.start(prompts[0], reserve - len(prompts[0]), True)
        begin = clock()
        chunk = next(self.stream)
        seconds = clock() - begin
        top = chunk.choices[0].logprobs.top_logprobs
        return {"seconds": seconds, "logprobs": [[int(entry.token), float(entry.logprob)] for entry in top]}

    def decode(self, num):
        seconds = []
        for _ in range(num):
            begin = clock()
            next(self.stream)
            seconds.append(clock() - begin)
        return {"seconds": seconds}


def main():
    peer = Peer(sys.argv[1])
    hello = {
        "version": f"mistralrs {version('mistralrs')}",
        "detail": "Python package, one sequence, prefix cache off",
        "activations": "its own",
        "kv": "its own",
    }
    serve(hello, {"prefill": peer.prefill, "decode": peer.decode})


if __name__ == "__main__":
    main()
