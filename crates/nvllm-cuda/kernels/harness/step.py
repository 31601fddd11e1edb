"""Times all kernels of one Qwen3-0.6B step (28 layers and the head, no sampler) in one graph, weights and KV of their own in each
layer. python3 step.py [SEQUENCES:ROWS:CONTEXT..], of all that are listed below if none is named. The tokens/s printed are of the kernels alone, not of an engine."""
import sys
import torch
from device import *
import attention as at
import linear as li

HIDDEN, HEADS, KV_HEADS, DIM, FFN, VOCAB, LAYERS = 1024, 16, 8, 128, 3072, 151936, 28


def linear(w, x, y, residual=None, silu=False, pdl=False, norm=None, late=False):
    """The kernel that the backend chooses for this shape on an H200 (src/lower/linear/mod.rs)."""
    (n, k), m = w.shape, x.shape[0]
    if m <= 16 or m <= 32 and k <= 2048 and n < 8192:
        return li.small(w, x, y, residual=residual, silu=silu, pdl=pdl, norm=norm, late=late)
    if not li.WGMMA:
        if m <= 128 and n < 4096:
            return li.mid(w, x, y, residual=residual, silu=silu, pdl=pdl, split=True)
        return li.tensor_core(w, x, y, residual=residual, silu=silu, tokens=64 if m <= 256 else 128, pdl=pdl)
    if m <= 64 and not silu and 8 * li.cdiv(n, 64) <= SMS:
        return li.cluster_split(w, x, y, residual=residual, pdl=pdl)
    at_once = lambda c, cols: 64 * c * (SMS // li.cdiv(n, cols))
    tiles = [(1, 32, 2), (1, 64, 2), (2, 64, 2)] if k <= 3072 and li.range_len(k) // 64 % 2 == 0 else []
    c, cols, steps = next((t for t in tiles if m <= at_once(*t[:2])), (0, 0, 0))
    if not c:
        cols, c = 128, 1 if m <= max(64, at_once(1, 128)) else 3 if k <= 1024 and m > 1024 else 2
        steps = 2 if c == 1 and li.range_len(k) // 64 % 2 == 0 else 1
    li.wgmma(w, x, y, residual=residual, silu=silu, c=c, cols=cols, steps=steps, pdl=pdl)


def main():
    records = Records(f"step_{at.CHUNK}")
    bandwidth, rate = ceilings(records)
    e = lambda *s: torch.randn(*s, device="cuda", dtype=torch.bfloat16) / 32
    layers = [dict(qkv=e(4096, HIDDEN), o=e(HIDDEN, 2048), gate_up=e(2 * FFN, HIDDEN), down=e(HIDDEN, FFN), norm=e(HIDDEN), qk=e(DIM)) for _ in range(LAYERS)]
    head = e(VOCAB, HIDDEN)
    weights = sum(w.numel() * 2 for l in layers for w in l.values()) + head.numel() * 2
    rotation = torch.randn(40960, DIM // 2, 2, device="cuda")
    # (sequences, new rows each, context before)
    named = [tuple(map(int, case.split(":"))) for case in sys.argv[1:]]
    for batch, new, context in named or [(1, 1, 127), (1, 1, 1023), (1, 1, 8191), (2, 1, 1023), (4, 1, 1023), (8, 1, 127), (8, 1, 1023), (16, 1, 1023), (32, 1, 127), (64, 1, 127), (64, 1, 1023), (256, 1, 127),
                                (256, 1, 1023), (1, 512, 0), (16, 1024, 0)]:
        m, length = batch * new, context + new
        a = at.Attention(HEADS, KV_HEADS, DIM, 16)
        blocks = batch * at.cdiv(length, 16) + 1
        kv = [[torch.randn(blocks, KV_HEADS, 16, DIM, device="cuda", dtype=torch.bfloat16) for _ in range(2)] for _ in range(LAYERS)]
        tables = (torch.randperm(blocks - 1, device="cuda").int() + 1).view(batch, -1).contiguous()
        a.plan([(i * new, new, context) for i in range(batch)], m, 2)
        positions = at.ints([context + i for _ in range(batch) for i in range(new)])
        slots = torch.stack([tables[i // new].long()[(context + i % new) // 16] * 16 + (context + i % new) % 16 for i in range(m)]).int() if m < 1000 else \
            (tables.long()[:, :, None] * 16 + torch.arange(16, device="cuda")).view(batch, -1)[:, context:length].reshape(-1).int()
        h, x, qkv, q, attn, act = (e(m, n) for n in (HIDDEN, HIDDEN, 4096, 2048, 2048, FFN))
        outputs = batch
        logits = torch.empty(outputs, VOCAB, device="cuda")
        last = x[:outputs]
        # Whether the norms before qkv, gate_up and head are made inside them, and when the next kernel may start (li.LATE).
        for pdl, norms, late in [(False, m <= 2, "none"), (True, m <= 2, "none")] + [(True, n, "all") for n in (False, True)] * (m <= 16):

            def step():
                a.build(pdl)
                for i, (l, (k, v)) in enumerate(zip(layers, kv)):
                    if norms:
                        linear(l["qkv"], h, qkv, pdl=pdl, norm=l["norm"], late="qkv" in li.LATE[late])
                    else:
                        at.norm(h, l["norm"], x, pdl=pdl)
                        linear(l["qkv"], x, qkv, pdl=pdl, late="qkv" in li.LATE[late])
                    at.rope(qkv, l["qk"], l["qk"], positions, rotation, slots, q, k, v, HEADS, KV_HEADS, DIM, 16, pdl=pdl)
                    if new == 1:  # the first waits for all before it, the others read what is old ahead of that
                        a.run_decode(q, k, v, attn, tables, pdl and i > 0, ahead=pdl and i > 0)
                    else:
                        a.run_prefill(q, k, v, attn, tables, pdl)
                    linear(l["o"], attn, h, residual=h, pdl=pdl, late="o" in li.LATE[late])
                    if norms:
                        linear(l["gate_up"], h, act, silu=True, pdl=pdl, norm=l["norm"], late="gate_up" in li.LATE[late])
                    else:
                        at.norm(h, l["norm"], x, pdl=pdl)
                        linear(l["gate_up"], x, act, silu=True, pdl=pdl, late="gate_up" in li.LATE[late])
                    linear(l["down"], act, h, residual=h, pdl=pdl, late="down" in li.LATE[late])
                if norms:
                    linear(head, h, logits, pdl=pdl, norm=layers[0]["norm"])
                else:
                    at.norm(h, l["norm"], x, pdl=pdl)
                    linear(head, last, logits, pdl=pdl)

            us, least = time_graph(step, 1)
            size = weights + LAYERS * batch * length * KV_HEADS * DIM * 4
            flop = 2 * m * (weights / 2 - head.numel()) + 2 * outputs * head.numel()
            records.add(f"step batch={batch:<3} new={new:<4} context={context:<5} pdl={int(pdl)} norms inside={int(norms)} late={late} {us:8.1f} us, {m / us * 1e6:8.0f} rows/s, "
                        f"{size / us / 1e3:.0f} GB/s ({size / us * 1e6 / bandwidth:.2f}), {flop / us / 1e6:.0f} TFLOP/s in linears ({flop / us * 1e6 / rate:.2f})",
                        op="step", batch=batch, new=new, context=context, chunk=at.CHUNK, pdl=pdl, norms_inside=bool(norms), late=late, us=us, least_us=least, bytes=size, linear_flop=flop,
                        share_of_copy=size / us * 1e6 / bandwidth, share_of_matmul=flop / us * 1e6 / rate)
    records.close()


if __name__ == "__main__":
    main()
