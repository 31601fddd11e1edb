"""Hugging Face transformers: `eager` as most people run it, `compile` with a static cache and torch.compile. See protocol.py.

Needs the packages torch, transformers and numpy.
"""

import sys

from protocol import clock, missing, serve, top5

try:
    import torch
    import transformers
except ImportError as error:
    missing(f"Python package {error.name} (install torch and transformers)")


class Peer:
    def __init__(self, mode, model_dir, num_threads):
        torch.set_num_threads(num_threads)
        torch.set_grad_enabled(False)
        self.device = "cuda" if torch.cuda.is_available() else "cpu"
        self.model = transformers.AutoModelForCausalLM.from_pretrained(model_dir, dtype="auto").to(self.device).eval()
        self.static = mode == "compile"
        # The prompt has another shape each time and stays eager, as in transformers' own `generate`.
        self.step = torch.compile(self.model, fullgraph=True) if self.static else self.model

    def wait(self):
        if self.device == "cuda":
            torch.cuda.synchronize()

    def cache(self, reserve):
        if self.static:
            return transformers.StaticCache(config=self.model.config, max_cache_len=reserve)
        return transformers.DynamicCache(config=self.model.config)

    def prefill(self, prompts, reserve):
        ids = torch.tensor(prompts, device=self.device)
        self.past = self.cache(reserve)
        self.wait()
        begin = clock()
        positions = torch.arange(ids.shape[1], device=self.device)
        out = self.model(input_ids=ids, past_key_values=self.past, cache_position=positions, use_cache=True, logits_to_keep=1)
        self.last = out.logits[:, -1].argmax(-1, keepdim=True)
        self.wait()
        seconds = clock() - begin
        self.position = ids.shape[1]
        return {"seconds": seconds, "logits": top5(out.logits[0, -1].float().cpu().numpy())}

    def decode(self, num):
        seconds = []
        for _ in range(num):
            begin = clock()
            position = torch.tensor([self.position], device=self.device)
            out = self.step(input_ids=self.last, past_key_values=self.past, cache_position=position, use_cache=True, logits_to_keep=1)
            self.last = out.logits[:, -1].argmax(-1, keepdim=True)
            self.wait()
            seconds.append(clock() - begin)
            self.position += 1
        return {"seconds": seconds}


def main():
    mode, model_dir, num_threads = sys.argv[1], sys.argv[2], int(sys.argv[4])
    peer = Peer(mode, model_dir, num_threads)
    dtype = str(peer.model.dtype).removeprefix("torch.")
    dtype = {"bfloat16": "bf16", "float16": "f16", "float32": "f32"}.get(dtype, dtype)
    how = "static cache, torch.compile of the step" if peer.static else "eager, dynamic cache"
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
