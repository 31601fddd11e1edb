"""Hugging Face transformers: `eager` as most people run it, `compile` with a static cache and torch.compile. See protocol.py.

Needs the packages torch, transformers (from 5.17 on: a static cache knows its own length) and numpy.
"""

import sys

from protocol import clock, missing, serve, top5

try:
    import torch
    import transformers
except ImportError as error:
    missing(f"Python package {error.name} (install torch and transformers)")


class Peer:
    def __init__(self, mode, model_dir, num_threads, device):
        torch.set_num_threads(num_threads)
        torch.set_grad_enabled(False)
        if device != "cpu" and not torch.cuda.is_available():
            missing("a torch with CUDA: this one sees no GPU")
        self.device = device
        self.model = transformers.AutoModelForCausalLM.from_pretrained(model_dir, dtype="auto").to(self.device).eval()
        self.static = mode == "compile"
        # The prompt has another shape each time and stays eager, as in transformers' own `generate`.
        # On a GPU steps are replayed as CUDA graphs, as `generate` with a static cache does.
        graphs = "reduce-overhead" if device != "cpu" else None
        self.step = torch.compile(self.model, fullgraph=True, mode=graphs) if self.static else self.model

    def wait(self):
        if self.device != "cpu":
            torch.cuda.synchronize(self.device)

    def cache(self, reserve):
        if self.static:
            return transformers.StaticCache(config=self.model.config, max_cache_len=reserve)
        return transformers.DynamicCache(config=self.model.config)

    def prefill(self, prompts, reserve):
        ids = torch.tensor(prompts, device=self.device)
        self.past = self.cache(reserve)
        self.wait()
        begin = clock()
        # Positions follow from the cache.
        out = self.model(input_ids=ids, past_key_values=self.past, use_cache=True, logits_to_keep=1)
        self.last = out.logits[:, -1].argmax(-1, keepdim=True)
        self.wait()
        seconds = clock() - begin
        return {"seconds": seconds, "logits": top5(out.logits[0, -1].float().cpu().numpy())}

    def decode(self, num):
        seconds = []
        for _ in range(num):
            begin = clock()
            out = self.step(input_ids=self.last, past_key_values=self.past, use_cache=True, logits_to_keep=1)
            self.last = out.logits[:, -1].argmax(-1, keepdim=True)
            self.wait()
            seconds.append(clock() - begin)
        return {"seconds": seconds}


def main():
    mode, model_dir, num_threads, device = sys.argv[1], sys.argv[2], int(sys.argv[4]), sys.argv[5]
    peer = Peer(mode, model_dir, num_threads, device)
    dtype = str(peer.model.dtype).removeprefix("torch.")
    dtype = {"bfloat16": "bf16", "float16": "f16", "float32": "f32"}.get(dtype, dtype)
    graphs = ", CUDA graphs" if device != "cpu" else ""
    how = f"static cache, torch.compile of the step{graphs}" if peer.static else "eager, dynamic cache"
    hello = {
        "version": f"transformers {transformers.__version__}, torch {torch.__version__}",
        "detail": f"{how}, {peer.model.config._attn_implementation} attention, {peer.device}, {torch.get_num_threads()} threads",
        "weights": dtype,
        "activations": dtype,
        "kv": dtype,
    }
    # No continuous batching that keeps to given output lengths: the set is not run.
    serve(hello, {"prefill": peer.prefill, "decode": peer.decode})


if __name__ == "__main__":
    main()
