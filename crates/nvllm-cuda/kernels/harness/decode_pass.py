"""Checks and times decode_pass.cu: a whole decode step of Qwen3-0.6B's shapes in one launch, beside its kernels one by one.
python3 decode_pass.py [check] [bench] [timeline]. VARIANTS: macros to compile it with, e.g. "|-DTIGHT=0"."""
import os, struct, sys
import torch
from device import *
import attention as at
import linear as li
import step as st

HIDDEN, HEADS, KV_HEADS, DIM, FFN = st.HIDDEN, st.HEADS, st.KV_HEADS, st.DIM, st.FFN
LINEAR, ATTENTION, FOLD, END, SILU, OUT_F32, GATHER = 0, 1, 2, 3, 1, 2, 4
SHARED = 206848


class Step:
    """A decode step of `batch` sequences with `context` positions before it."""

    def __init__(self, batch, context, layers, vocab):
        e = lambda *s: torch.randn(*s, device="cuda", dtype=torch.bfloat16) / 32
        one = lambda n: torch.rand(n, device="cuda").bfloat16() + 0.5
        self.layers = [dict(qkv=e(4096, HIDDEN), o=e(HIDDEN, 2048), gate_up=e(2 * FFN, HIDDEN), down=e(HIDDEN, FFN), norm=one(HIDDEN),
                            norm2=one(HIDDEN), q=one(DIM), k=one(DIM)) for _ in range(layers)]
        self.head, self.norm, self.batch = e(vocab, HIDDEN), one(HIDDEN), batch
        length = context + 1
        blocks = batch * at.cdiv(length, 16) + 1
        self.kv = [[torch.randn(blocks, KV_HEADS, 16, DIM, device="cuda", dtype=torch.bfloat16) for _ in range(2)] for _ in range(layers)]
        self.tables = (torch.randperm(blocks - 1, device="cuda").int() + 1).view(batch, -1).contiguous()
        self.a = at.Attention(HEADS, KV_HEADS, DIM, 16).plan([(i, 1, context) for i in range(batch)], batch, 2)
        self.rotation = torch.randn(batch, DIM // 2, 2, device="cuda")
        self.positions = at.ints(list(range(batch)))
        self.slots = (self.tables[:, context // 16] * 16 + context % 16).int().contiguous()
        self.x = e(batch, HIDDEN) * 32
        self.h, self.normed, self.qkv, self.q, self.attn, self.act = (e(batch, n) for n in (HIDDEN, HIDDEN, 4096, 2048, 2048, FFN))
        self.logits = torch.empty(batch, vocab, device="cuda")
        self.outputs = torch.zeros(batch, 8, dtype=torch.int32, device="cuda")
        self.outputs[:, 0] = torch.arange(batch)
        self.bytes = sum(w.numel() * 2 for l in self.layers for w in l.values()) + self.head.numel() * 2 + layers * batch * length * KV_HEADS * DIM * 4

    def one_by_one(self, pdl=True):
        h, norms = self.h, self.batch <= 2
        h.copy_(self.x)
        for l, (k, v) in zip(self.layers, self.kv):
            if norms:
                st.linear(l["qkv"], h, self.qkv, pdl=pdl, norm=l["norm"], late=True)
            else:
                at.norm(h, l["norm"], self.normed, pdl=pdl)
                st.linear(l["qkv"], self.normed, self.qkv, pdl=pdl, late=True)
            at.rope(self.qkv, l["q"], l["k"], self.positions, self.rotation, self.slots, self.q, k, v, HEADS, KV_HEADS, DIM, 16, pdl=pdl)
            self.a.run_decode(self.q, k, v, self.attn, self.tables, pdl)
            st.linear(l["o"], self.attn, h, residual=h, pdl=pdl, late=True)
            if norms:
                st.linear(l["gate_up"], h, self.act, silu=True, pdl=pdl, norm=l["norm2"], late=True)
            else:
                at.norm(h, l["norm2"], self.normed, pdl=pdl)
                st.linear(l["gate_up"], self.normed, self.act, silu=True, pdl=pdl, late=True)
            st.linear(l["down"], self.act, h, residual=h, pdl=pdl, late=True)
        if norms:
            st.linear(self.head, h, self.logits, pdl=pdl, norm=self.norm)
        else:
            at.norm(h, self.norm, self.normed, pdl=pdl)
            st.linear(self.head, self.normed, self.logits, pdl=pdl)

    def record(self):
        """Phases as the host makes them."""
        phases, weights, read = [], [], [0] * SMS
        p = lambda t: 0 if t is None else t.data_ptr()
        window = lambda first, n: [read[(first + i) % SMS] for i in range(n)]
        least = lambda n: min(range(SMS), key=lambda first: (max(window(first, n), default=-1), sum(window(first, n))))
        length = lambda k: at.cdiv(k, 512) * 64
        packets = lambda n: torch.zeros(2, n, 2, dtype=torch.int16, device="cuda")
        self.keep = qkv, attn, h1, h2, act = [packets(n) for n in (4096, 2048, HIDDEN, HIDDEN, FFN)]

        def phase(kind, w=None, k=0, outputs=0, flags=0, x=None, y=None, norm=None, bias=None, residual=None, keys=None, values=None,
                  tags=(-1, -1, -1)):
            tiles = at.cdiv(outputs, 8 if flags & SILU else 16)
            if norm is not None and outputs == 4096:
                read[:] = [0] * SMS                              # a layer begins
            at_block = 0 if kind != LINEAR else least(tiles % SMS)   # attention: where o is not, 68 to 131
            for tile in range(tiles if kind == LINEAR else 0):
                read[(at_block + tile) % SMS] += k
            phases.append(struct.pack("<iiiiiiIiiiiif4x QQQQQQQ 16x", kind, flags, k, outputs, length(k), at.cdiv(k, length(k)) if k else 0,
                                      65536 // (length(k) // 64) + 1 if k else 0, at_block, tiles, *tags, 1e-6, p(x), p(y), p(residual),
                                      p(norm), p(bias), p(keys), p(values)))
            if kind == LINEAR:
                weights.append(struct.pack("<Qiiiiii", p(w), k, outputs, flags, at_block, tiles, 0))

        for i, (l, (k, v)) in enumerate(zip(self.layers, self.kv)):
            n = len(phases)
            first = dict(x=h2, tags=(n - 1, n, -1)) if i else dict(x=self.h, tags=(-1, n, -1))
            phase(LINEAR, l["qkv"], HIDDEN, 4096, y=qkv, norm=l["norm"], **first)
            phase(ATTENTION, x=qkv, y=attn, norm=l["q"], bias=l["k"], keys=k, values=v, tags=(n, n + 1, -1))
            phase(FOLD, y=attn, tags=(n + 1, n + 1, -1))
            residual = dict(residual=h2, tags=(n + 1, n + 3, n - 1)) if i else dict(residual=self.h, tags=(n + 1, n + 3, -1))
            phase(LINEAR, l["o"], 2048, HIDDEN, x=attn, y=h1, **residual)
            phase(LINEAR, l["gate_up"], HIDDEN, FFN, SILU, x=h1, y=act, norm=l["norm2"], tags=(n + 3, n + 4, -1))
            phase(LINEAR, l["down"], FFN, HIDDEN, x=act, y=h2, residual=h1, tags=(n + 4, n + 5, n + 3))
        phase(LINEAR, self.head, HIDDEN, self.head.shape[0], OUT_F32 | GATHER, x=h2, y=self.logits, norm=self.norm, tags=(len(phases) - 1, -1, -1))
        self.num, self.num_weights = len(phases), len(weights)
        raw = b"".join(phases)
        assert len(raw) == 128 * self.num
        self.phases, self.weights = (torch.frombuffer(bytearray(b), dtype=torch.uint8).cuda() for b in (raw, b"".join(weights)))
        self.state, self.counters = (torch.zeros(n * 32, dtype=torch.int32, device="cuda") for n in (1, self.num))

    def pass_(self, module):
        self.h.copy_(self.x)
        a = self.a
        module.launch("decode_pass_d128_norm1", SMS, 256, SHARED + 32 * self.num_weights,
                      [self.phases, self.weights, self.num_weights, self.state, self.counters, self.num, self.batch, self.batch, self.outputs,
                       int(a.several), self.tables, self.tables.shape[1], 16, a.decode, a.counts, a.first_entry, self.slots, self.rotation, HEADS,
                       KV_HEADS, 0, a.scale, a.partial, a.ml], True)


def timeline(module, step):
    """Mean microseconds of each part of a phase, by kind of phase, and the longest way through a layer."""
    step.pass_(module)
    torch.cuda.synchronize()
    address, size = ctypes.c_uint64(), ctypes.c_size_t()
    check(cu.cuModuleGetGlobal_v2(ctypes.byref(address), ctypes.byref(size), module.handle, b"timeline"), "timeline")
    host = torch.zeros(132 * 256 * 8, dtype=torch.int64)
    check(cu.cuMemcpyDtoH_v2(ctypes.c_void_p(host.data_ptr()), address, ctypes.c_size_t(host.numel() * 8)), "copy")
    t = host.view(132, 256, 8).double() / 1980.0
    names = ["qkv", "attention", "fold", "o", "gate_up", "down"]
    for i, name in enumerate(names):
        if name == "fold" and not step.a.several:
            continue
        rows = [t[:, l * 6 + i] for l in range(2, len(step.layers) - 1)]
        d = torch.stack(rows)                                    # [layer, block, mark]
        worked = d[..., 4] > d[..., 0]
        parts = [(d[..., j + 1] - d[..., j])[worked] for j in range(4)]
        print(f"{name:10s} blocks {worked.double().sum(1).mean():6.1f}  x {parts[0].mean():6.2f} (least {parts[0].quantile(.05):5.2f})  compute {parts[1].mean():5.2f} "
              f"most {parts[1].max():5.2f}  barrier {parts[2].mean():5.2f} most {parts[2].max():5.2f} rest {parts[3].mean():5.2f}")


def main():
    records = Records("decode_pass")
    for variant in os.environ.get("VARIANTS", "").split("|"):
        module = Module("decode_pass/decode_pass.cu", variant.replace("-D", "").split())
        if "check" in sys.argv:
            for batch, context in [(1, 0), (1, 127), (2, 300), (2, 700)]:
                step = Step(batch, context, 3, 2000)
                step.record()
                step.one_by_one()
                want, keys = step.logits.clone(), [k.clone() for k, _ in step.kv]
                step.logits.fill_(float("nan"))
                step.pass_(module)
                torch.cuda.synchronize()
                records.expect(torch.equal(step.logits.view(torch.int32), want.view(torch.int32)), f"bits{variant}", batch=batch, context=context)
        if "bench" in sys.argv:
            for batch, context in [(1, 127), (2, 127), (1, 1023), (2, 1023), (1, 8191)]:
                step = Step(batch, context, 28, 151936)
                step.record()
                us = time_graph(lambda: step.pass_(module), 1)[0]
                before = time_graph(step.one_by_one, 1)[0]
                records.add(f"{variant or 'as it is':24s} batch {batch} context {context:5d}: {us:7.1f} us, one by one {before:7.1f}, {step.bytes / us / 1e3:.0f} GB/s",
                            variant=variant, batch=batch, context=context, us=us, one_by_one=before)
                del step
        if "timeline" in sys.argv:
            timed = Module("decode_pass/decode_pass.cu", variant.replace("-D", "").split() + ["TIMELINE"])
            for batch, context in [(1, 127)]:
                step = Step(batch, context, 28, 151936)
                step.record()
                print(f"timeline {variant} batch {batch} context {context}, us of a clock of 1,980 MHz")
                timeline(timed, step)
                del step
    records.close()


if __name__ == "__main__":
    main()
