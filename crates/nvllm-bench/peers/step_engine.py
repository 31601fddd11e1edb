"""vLLM and nano-vllm, driven step by step through their offline engines. See protocol.py.

Prefix caching is off, end tokens are ignored, sampling is greedy (nano-vllm refuses a temperature of 0 and gets 1e-5). Needs
the package vllm, or nanovllm, and what these need: for nano-vllm a CUDA device.
"""

import sys

from protocol import clock, missing, serve


class Vllm:
    """https://docs.vllm.ai: LLM.llm_engine with add_request and step, outputs cumulative by request."""

    def __init__(self, model_dir, num_threads):
        try:
            import vllm
        except ImportError as error:
            missing(f"Python package {error.name} (install vllm)")
        self.vllm = vllm
        self.llm = vllm.LLM(model=model_dir, skip_tokenizer_init=True, enable_prefix_caching=False)
        self.engine = self.llm.llm_engine
        self.next, self.scores = 0, None
        self.hello = {
            "version": f"vllm {vllm.__version__}",
            "detail": "offline engine, prefix caching off, otherwise defaults",
            "activations": "its own",
            "kv": "its own",
        }

    def add(self, prompt, num, scores=False):
        params = self.vllm.SamplingParams(
            temperature=0.0, ignore_eos=True, max_tokens=num, detokenize=False, logprobs=5 if scores else None
        )
        self.next += 1
        self.engine.add_request(str(self.next), {"prompt_token_ids": prompt}, params)
        return str(self.next)

    def step(self):
        """Tokens made so far by each request of the step."""
        made = {}
        for output in self.engine.step():
            completion = output.outputs[0]
            made[output.request_id] = len(completion.token_ids)
            if completion.logprobs and self.scores is None:
                first = completion.logprobs[0]
                self.scores = {"logprobs": [[int(id), float(entry.logprob)] for id, entry in first.items()]}
        return made

    def busy(self):
        return self.engine.has_unfinished_requests()

    def abort(self, requests):
        self.engine.abort_request(requests)


class NanoVllm:
    """https://github.com/GeeeekExplorer/nano-vllm: LLM with add_request and step; sequences are looked at directly."""

    def __init__(self, model_dir, num_threads):
        try:
            import nanovllm
        except ImportError as error:
            missing(f"Python package {error.name} (install nano-vllm from its repository)")
        from importlib.metadata import version

        self.nanovllm = nanovllm
        self.llm = nanovllm.LLM(model_dir)
        self.seqs, self.scores = {}, None
        self.hello = {
            "version": f"nano-vllm {version('nano-vllm')}",
            "detail": "CUDA graphs on, defaults",
            "activations": "bf16",
            "kv": "bf16",
        }

    def add(self, prompt, num, scores=False):
        self.llm.add_request(prompt, self.nanovllm.SamplingParams(temperature=1e-5, ignore_eos=True, max_tokens=num))
        seq = self.llm.scheduler.waiting[-1]
        self.seqs[seq.seq_id] = seq
        return seq.seq_id

    def step(self):
        self.llm.step()
        if self.scores is None:
            made = [seq for seq in self.seqs.values() if seq.num_completion_tokens > 0]
            if made:
                self.scores = {"chosen": int(made[0].completion_token_ids[0])}
        return {id: seq.num_completion_tokens for id, seq in self.seqs.items()}

    def busy(self):
        return not self.llm.is_finished()

    def abort(self, requests):
        """There is no abort: what is left is run to its end."""
        while self.busy():
            self.llm.step()
        self.seqs.clear()


class Peer:
    def __init__(self, engine):
        self.engine = engine
        self.running = []

    def prefill(self, prompts, reserve):
        self.engine.abort(self.running)
        self.engine.scores = None
        rest = [max(reserve - len(prompt), 1) for prompt in prompts]
        begin = clock()
        self.running = [self.engine.add(prompt, num, scores=True) for prompt, num in zip(prompts, rest)]
        made = {}
        while any(made.get(request, 0) == 0 for request in self.running):
            made.update(self.engine.step())
        return {"seconds": clock() - begin, **self.engine.scores}

    def decode(self, num):
        seconds = []
        for _ in range(num):
            begin = clock()
            # A step may return nothing where the scheduler runs ahead of the device.
            while self.engine.busy() and not self.engine.step():
                pass
            seconds.append(clock() - begin)
        return {"seconds": seconds}

    def set(self, prompts, output_lens):
        self.engine.abort(self.running)
        begin = clock()
        self.running = [self.engine.add(prompt, num) for prompt, num in zip(prompts, output_lens)]
        times = {request: [] for request in self.running}
        while self.engine.busy():
            made = self.engine.step()
            now = clock() - begin
            for request, num in made.items():
                if request in times:
                    times[request] += [now] * (num - len(times[request]))
        seconds = clock() - begin
        token_seconds = [times[request] for request in self.running]
        self.running = []
        return {"seconds": seconds, "token_seconds": token_seconds}


def main():
    kind, model_dir, num_threads = sys.argv[1], sys.argv[2], int(sys.argv[4])
    engine = {"vllm": Vllm, "nanovllm": NanoVllm}[kind](model_dir, num_threads)
    peer = Peer(engine)
    serve(engine.hello, {"prefill": peer.prefill, "decode": peer.decode, "set": peer.set})


if __name__ == "__main__":
    main()
