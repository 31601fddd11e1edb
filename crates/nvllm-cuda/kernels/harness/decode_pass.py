"""Checks and times decode_pass.cu: a whole decode step of one sequence in Qwen3-0.6B's shapes in one launch, beside its kernels one by one.
python3 decode_pass.py [check] [bench] [timeline]. VARIANTS: macros to compile it with, e.g. "|-DTIGHT=0"."""
import os, struct, sys
import torch
from device import *
import attention as at
import linear as li
import step as st

HIDDEN, HEADS, KV_HEADS, DIM, FFN = st.HIDDEN, st.HEADS, st.KV_HEADS, st.DIM, st.FFN
LINEAR, ATTENTION, FOLD, SILU, OUT_F32, GATHER, NARROW = 0, 1, 2, 1, 2, 4, 8
WIDE = bool(os.environ.get("WIDE"))                                # no tiles of 8 rows
PAIRS, ROW_BYTES = 4, 2 * FFN
SHARED = 65536 + PAIRS * 32768 + 12800 + ROW_BYTES


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
        packets = lambda n: torch.zeros(n, 2, dtype=torch.int16, device="cuda")
        self.keep = qkv, attn, h1, h2, act = [packets(n) for n in (4096, 2048, HIDDEN, HIDDEN, FFN)]
        maps = []
        most = lambda outputs, rows: at.cdiv(at.cdiv(outputs, rows), SMS) * rows

        def phase(kind, w=None, k=0, outputs=0, flags=0, x=None, y=None, norm=None, bias=None, residual=None, keys=None, values=None, 
                  tags=(-1, -1, -1)):
            l = length(k)
            if kind == LINEAR and not flags & SILU and l // 64 % 2 == 0 and k % l == 0 and most(outputs, 8) < most(outputs, 16) and not WIDE:
                flags |= NARROW
            rows = 8 if flags & (SILU | NARROW) else 16
            tiles = at.cdiv(outputs, rows)
            if norm is not None and outputs == 4096:
                read[:] = [4096 if i < KV_HEADS else 0 for i in range(SMS)]   # a layer begins: keys and values of a chunk
            at_block = 0 if kind != LINEAR else least(tiles % SMS)
            for tile in range(tiles if kind == LINEAR else 0):
                read[(at_block + tile) % SMS] += k * (1 if flags & NARROW else 2)
            phases.append(struct.pack("<iiiiiiiiiiif QQQQQQQ 24x", kind, flags, k, outputs, l, at.cdiv(k, l) if k else 0, at_block, tiles, *tags,
                                      1e-6, p(x), p(y), p(residual), p(norm), p(bias), p(keys), p(values)))
            if kind == LINEAR:
                steps = 2 if flags & NARROW else 1
                whole = (k - (at.cdiv(k, l) - 1) * l) // 64 // steps
                weights.append(struct.pack("<HHBBBB", at_block, tiles, l // 64 // steps, whole, rows, steps))
                maps.extend(range_map(w, rows, steps, 2 if flags & SILU else 1, l, at.cdiv(k, l) - last) for last in range(2))

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
        self.phases, self.weights, self.maps = (torch.frombuffer(bytearray(b), dtype=torch.uint8).cuda() for b in (raw, b"".join(weights), b"".join(maps)))
        self.state, self.counters = (torch.zeros(n * 32, dtype=torch.int32, device="cuda") for n in (1, self.num))

    def pass_(self, module):
        self.h.copy_(self.x)
        a = self.a
        module.launch("decode_pass_d128_norm1", SMS, 320, SHARED + 8 * self.num_weights,
                      [self.phases, self.weights, self.num_weights, self.maps, self.state, self.counters, self.num, 1, len(self.layers), PAIRS, ROW_BYTES, self.outputs,
                       int(a.several), self.tables, self.tables.shape[1], 16, a.decode, a.counts, a.first_entry, self.slots, self.rotation, HEADS,
                       KV_HEADS, 0, a.scale, a.partial, a.ml], True)


def timeline(module, step):
    """Microseconds of a mean layer, phase by phase, from the last block that ends the phase before: until the first block has x, and the
    last; until the last has its sums, and has ended. Of blocks that work in the phase."""
    for _ in range(20):                                          # clocks up
        step.pass_(module)
    torch.cuda.synchronize()
    address, size = ctypes.c_uint64(), ctypes.c_size_t()
    check(cu.cuModuleGetGlobal_v2(ctypes.byref(address), ctypes.byref(size), module.handle, b"timeline"), "timeline")
    host = torch.zeros(132 * 256 * 8, dtype=torch.int64)
    check(cu.cuMemcpyDtoH_v2(ctypes.c_void_p(host.data_ptr()), address, ctypes.c_size_t(host.numel() * 8)), "copy")
    t = host.view(132, 256, 8).double() / 1000
    names = ["qkv", "attention", "fold", "o", "gate_up", "down"]
    begin = t[:, 0, 0].min()
    ends = lambda phase: t[:, phase, 4].max()
    for i, name in enumerate(names):
        if name == "fold" and not step.a.several:
            continue
        rows = []
        for l in range(2, len(step.layers) - 1):
            at = l * 6 + i
            before = at - 1 if i != 3 or step.a.several else at - 2
            m = t[:, at][t[:, at, 4] > t[:, at, 0]] - ends(before)
            rows.append([m[:, 1].min(), m[:, 1].median(), m[:, 1].max(), m[:, 2].max(), m[:, 3].max(), m[:, 4].max()])
        r = torch.tensor(rows).mean(0)
        print(f"{name:10s} blocks {len(m):3d}  mark 1 {r[0]:5.2f} {r[1]:5.2f} {r[2]:5.2f}  mark 2 {r[3]:5.2f}  mark 3 {r[4]:5.2f}  end {r[5]:5.2f}")
    head = len(step.layers) * 6
    print(f"layers {ends(head - 1) - begin:.1f}, head {ends(head) - ends(head - 1):.1f}, from the first mark to the last {ends(head) - begin:.1f}")


def main():
    records = Records("decode_pass")
    for variant in os.environ.get("VARIANTS", "").split("|"):
        module = Module("decode_pass/decode_pass.cu", variant.replace("-D", "").split())
        if "check" in sys.argv:
            for batch, context in [(1, c) for c in (0, 1, 63, 127, 200, 255, 256, 700, 3000)]:
                step = Step(batch, context, 3, 2000)
                step.record()
                step.one_by_one()
                want, keys = step.logits.clone(), [k.clone() for k, _ in step.kv]
                step.logits.fill_(float("nan"))
                step.pass_(module)
                torch.cuda.synchronize()
                records.expect(torch.equal(step.logits.view(torch.int32), want.view(torch.int32)), f"bits{variant}", batch=batch, context=context)
        if "bench" in sys.argv:
            for batch, context in [(1, int(c)) for c in os.environ.get("CONTEXTS", "127 200 1023 8191").split()]:
                step = Step(batch, context, 28, 151936)
                step.record()
                us = time_graph(lambda: step.pass_(module), 1)[0]
                before = time_graph(step.one_by_one, 1)[0]
                records.add(f"{variant or 'as it is':24s} batch {batch} context {context:5d}: {us:7.1f} us, one by one {before:7.1f}, {step.bytes / us / 1e3:.0f} GB/s",
                            variant=variant, batch=batch, context=context, us=us, one_by_one=before)
                del step
        if "timeline" in sys.argv:
            timed = Module("decode_pass/decode_pass.cu", variant.replace("-D", "").split() + ["TIMELINE"])
            for batch, context in [(1, 200)]:
                step = Step(batch, context, 28, 151936)
                step.record()
                print(f"timeline {variant} batch {batch} context {context}, us of a clock of 1,980 MHz")
                timeline(timed, step)
                del step
    records.close()


if __name__ == "__main__":
    main()
