"""Checks and times paged attention, qk_norm_rope_append and rms_norm. python3 attention.py [check] [bench]"""
import math, os, random, sys
import torch
from device import *

CHUNK = int(os.environ.get("KV_CHUNK", "256"))
LISTS, DECODE, PREFILL = (Module(f"attention/{n}.cu", [f"KV_CHUNK={CHUNK}"]) for n in ("work_list", "decode", "prefill"))
ROPE, NORM = Module("qk_norm_rope_append/fused.cu"), Module("rms_norm/fused.cu")


def cdiv(a, b):
    return (a + b - 1) // b


def ints(values):
    return torch.tensor(values, dtype=torch.int32, device="cuda")


class Attention:
    """One layer's shapes and scratch space."""

    def __init__(self, heads, kv_heads, dim, block_len, window=0, kv=""):
        """kv: "", or the codes of the cache, "_fp8" or "_int8"; k and v then are pairs of codes and scales (or None)."""
        self.kv = kv
        self.heads, self.kv_heads, self.dim, self.block_len, self.window = heads, kv_heads, dim, block_len, window
        self.group, self.scale = heads // kv_heads, 1 / math.sqrt(dim)

    def plan(self, seqs, rows, decode_rows=16):
        """seqs: [(first_row, num_rows, kv_start)]. Device arrays and the work lists."""
        self.first, self.rows, self.start = (ints([s[i] for s in seqs]) for i in range(3))
        entries = sum(cdiv(s[2] + s[1], CHUNK) for s in seqs) + 1
        self.entries, self.tiles = entries, rows // (128 // self.group) + len(seqs)
        self.decode, self.prefill = (torch.full((n * 8,), -1, dtype=torch.int32, device="cuda") for n in (entries, self.tiles))
        self.counts = ints([-1, -1])
        self.part_rows = max(1, decode_rows)
        self.partial = torch.full((entries * self.kv_heads * self.part_rows * self.dim,), float("nan"), device="cuda")
        self.ml = torch.full((entries * self.kv_heads * self.part_rows * 2,), float("nan"), device="cuda")
        self.first_entry = ints([-2] * len(seqs))
        self.several = any(s[2] + s[1] > CHUNK for s in seqs)
        self.decode_rows = decode_rows
        self.build()
        return self

    def build(self, pdl=False):
        LISTS.launch("attention_work_list", 1, 256, 0, [self.first, self.rows, self.start, self.first.numel(), self.group, self.decode_rows,
                     128 // self.group, self.window, self.entries, self.decode, self.prefill, self.counts, self.first_entry], pdl)

    def shared(self):
        """Of decode and of prefill, as their headers have it."""
        stages, coded, scaled = 2 if TIGHT else 3, self.kv != "", self.kv == "_int8"
        stage = 128 * self.dim * (1 if coded else 2) + 512 * scaled
        return stages * (stage + 32 * self.dim) + 2560 + 2048 * scaled, stages * stage + (512 if coded else 256) * self.dim

    def pages(self, k, v):
        return ([k, v], [None, None]) if self.kv == "" else ([k[0], v[0]], [k[1], v[1]])

    def run_decode(self, q, k, v, out, tables, pdl=False, waves=None, ahead=False):
        (k, v), scales = self.pages(k, v)
        waves = waves or (2 if self.kv == "" else 3)
        grid = min(waves * SMS, self.entries * self.kv_heads)
        DECODE.launch(f"attention_decode{self.kv}_d{self.dim}", grid, 128, self.shared()[0],
                      [q, k, v, out, tables, tables.shape[1], self.decode, self.counts, self.heads, self.kv_heads, self.block_len, self.scale,
                       self.window, self.partial, self.ml, self.part_rows, *scales, int(ahead)], pdl)
        if self.several:
            DECODE.launch(f"attention_fold_d{self.dim}", (self.first.numel(), self.kv_heads), 128, 0,
                          [self.partial, self.ml, self.part_rows, out, self.decode, self.first_entry, self.heads, self.kv_heads, self.scale], pdl)

    def run_prefill(self, q, k, v, out, tables, pdl=False):
        (k, v), scales = self.pages(k, v)
        PREFILL.launch(f"attention_prefill{self.kv}_d{self.dim}", (self.tiles, self.kv_heads), 256, self.shared()[1],
                       [q, k, v, out, tables, tables.shape[1], self.prefill, self.counts, self.heads, self.kv_heads, self.block_len,
                        self.scale, self.window, *scales], pdl)


def codes_of(kv, x):
    """Codes, scales and values of rows in float32."""
    x = x.float()
    if kv == "_fp8":
        codes = x.clamp(-448, 448).to(torch.float8_e4m3fn)
        return codes.view(torch.uint8), None, codes.float()
    scale = x.abs().amax(-1) / torch.full((1,), 127.0, device="cuda")
    codes = (x / scale.unsqueeze(-1)).round().clamp(-127, 127)
    return codes.to(torch.int8).view(torch.uint8), scale, codes * scale.unsqueeze(-1)


def pages_for(a, lengths, spare=3):
    """Pages full of NaN but for the positions of each sequence, at random blocks; and the block tables."""
    counts = [cdiv(n, a.block_len) for n in lengths]
    order = torch.randperm(sum(counts) + spare, device="cuda")[: sum(counts)].int().tolist()
    tables, at = torch.zeros(len(lengths), max(counts), dtype=torch.int32), 0
    for i, n in enumerate(counts):
        tables[i, :n] = torch.tensor(order[at : at + n])
        at += n
    shape = (sum(counts) + spare, a.kv_heads, a.block_len, a.dim)
    dense = [[torch.randn(n, a.kv_heads, a.dim, device="cuda").bfloat16() for n in lengths] for _ in range(2)]

    def fill(page, sequences):
        for i, x in enumerate(sequences):
            for b in range(counts[i]):
                part = x[b * a.block_len : (b + 1) * a.block_len]
                page[tables[i, b].item(), :, : part.shape[0]] = part.transpose(0, 1)
        return page

    nan = lambda shape, dtype: torch.full(shape, float("nan"), device="cuda", dtype=dtype)
    if a.kv == "":
        return [fill(nan(shape, torch.bfloat16), x) for x in dense], dense, tables.cuda()
    pages, values = [], []
    for sequences in dense:
        coded = [codes_of(a.kv, x) for x in sequences]
        scales = None if a.kv == "_fp8" else fill(nan(shape[:3], torch.float32), [c[1] for c in coded])
        pages.append((fill(torch.full(shape, 0x7f, device="cuda", dtype=torch.uint8), [c[0] for c in coded]), scales))
        values.append([c[2] for c in coded])
    return pages, values, tables.cuda()


def reference(a, q, k, v, start):
    """float64, one sequence: q [rows, heads, dim], k and v [positions, kv_heads, dim]."""
    q, k, v = q.double(), k.double().repeat_interleave(a.group, 1), v.double().repeat_interleave(a.group, 1)
    s = torch.einsum("qhd,khd->hqk", q, k) * a.scale
    query = start + torch.arange(q.shape[0], device="cuda")[:, None]
    position = torch.arange(k.shape[0], device="cuda")[None]
    seen = position <= query
    if a.window:
        seen &= position > query - a.window
    return torch.einsum("hqk,khd->qhd", s.masked_fill(~seen, float("-inf")).softmax(-1), v)


def check_attention(records):
    seed = int(torch.seed() % 2**31)
    torch.manual_seed(seed)
    rng = random.Random(seed)
    print("seed", seed, flush=True)
    shapes = [(16, 8, 128, 16, 0), (16, 8, 128, 32, 0), (8, 8, 64, 48, 0), (32, 4, 128, 16, 0), (14, 2, 64, 16, 0), (16, 8, 128, 16, 100),
              (16, 1, 64, 64, 300)]
    for (heads, kv_heads, dim, block_len, window), kv in [(shape, kv) for shape in shapes for kv in ("", "_fp8", "_int8")]:
        a = Attention(heads, kv_heads, dim, block_len, window, kv)
        lengths = [1, 5, 64, 255, 256, 257, rng.randint(300, 700), rng.randint(700, 1500)]
        if os.environ.get("CHECK") == "few":
            lengths = [1, 64, 257, 20, 130]
        starts = [rng.choice([0, 0, rng.randrange(n)]) for n in lengths]
        starts[-1], starts[2] = 0, min(lengths[2] - 1, 256)
        case = dict(heads=heads, kv_heads=kv_heads, dim=dim, block_len=block_len, window=window, kv=kv)
        (k, v), (dk, dv), tables = pages_for(a, lengths)
        seqs, row = [], 0
        for n, s in zip(lengths, starts):
            seqs.append((row, n - s, s))
            row += n - s
        q = torch.randn(row, heads, dim, device="cuda").bfloat16() * 2
        expected = torch.cat([reference(a, q[f : f + n], x, y, s) for (f, n, s), x, y in zip(seqs, dk, dv)])
        first = None

        def judge(what, out):
            nonlocal first
            torch.cuda.synchronize()
            error = relative_error(out, expected)
            records.expect(error < 4e-3, "error", kernel=what, error=error, **case)
            first = out if first is None else first
            same = torch.equal(out.view(torch.int16), first.view(torch.int16))
            records.expect(same, "bits", kernel=what, differing=0 if same else (out != first).float().mean().item(), **case)

        poison = lambda: torch.full((row, heads, dim), float("nan"), device="cuda", dtype=torch.bfloat16)
        out = poison()  # whole, by prefill alone
        a.plan(seqs, row, 0).run_prefill(q, k, v, out, tables)
        judge("prefill, whole", out)
        out = poison()  # every row as a decode of its own
        alone = [(f + i, 1, s + i) for f, n, s in seqs for i in range(n)]
        repeated = tables.repeat_interleave(ints([n for _, n, _ in seqs]).long(), 0).contiguous()
        a.plan(alone, row, 16).run_decode(q, k, v, out, repeated)
        judge("decode, each row alone", out)
        records.expect(int(a.counts[1]) == 0, "lists", counts=a.counts.tolist(), **case)
        out = poison()
        a.run_decode(q, k, v, out, repeated, waves=1)
        judge("decode again, fewer blocks", out)
        out, cuts, owner = poison(), [], []  # cut into steps, few rows by decode and many by prefill, in one mixed batch
        for i, (f, n, s) in enumerate(seqs):
            at = 0
            while at < n:
                m = min(n - at, rng.choice([1, 2, 7, 40, 200]))
                cuts.append((f + at, m, s + at))
                owner.append(i)
                at += m
        cut_tables = tables[ints(owner).long()].contiguous()
        a.plan(cuts + [(0, 0, 0)], row, 16 // a.group * a.group)
        a.run_decode(q, k, v, out, cut_tables)
        a.run_prefill(q, k, v, out, cut_tables)
        judge("mixed", out)


def rope(qkv, q_norm, k_norm, position, rotation, slots, q, k, v, heads, kv_heads, dim, block_len, span=None, pdl=False):
    rows, width = position.numel(), heads + 2 * kv_heads
    span = span or (1 if rows * width <= 16 * 8 * SMS else 4)
    ROPE.launch(f"qk_norm_rope_append_d{dim}", cdiv(rows * cdiv(width, span), 16), 256, 0,
                [qkv, q_norm, k_norm, position, rotation, slots, q, k, v, rows, heads, kv_heads, block_len, 1e-6, span, None, None], pdl)


def check_rope(records):
    for heads, kv_heads, dim, block_len, normed, span in [(16, 8, 128, 16, True, 1), (16, 8, 128, 16, True, 4), (14, 2, 64, 32, False, 4),
                                                          (4, 4, 64, 16, True, 3), (5, 1, 128, 16, True, 2)]:
        rows, blocks, positions = 37, 9, 4096
        width = heads + 2 * kv_heads
        qkv = torch.randn(rows, width, dim, device="cuda").bfloat16()
        norms = [torch.randn(dim, device="cuda").bfloat16() if normed else None for _ in range(2)]
        position = torch.randint(0, positions, (rows,), device="cuda", dtype=torch.int32)
        angle = torch.arange(positions, device="cuda").double()[:, None] * 1e6 ** (-torch.arange(0, dim, 2, device="cuda").double() / dim)
        rotation = torch.stack([angle.cos(), angle.sin()], -1).float().contiguous()
        slots = torch.randperm(blocks * block_len, device="cuda")[:rows].int()
        slots[5] = -1
        nan = lambda *s: torch.full(s, float("nan"), device="cuda", dtype=torch.bfloat16)
        q, k, v = nan(rows, heads, dim), nan(blocks, kv_heads, block_len, dim), nan(blocks, kv_heads, block_len, dim)
        rope(qkv, *norms, position, rotation, slots, q, k, v, heads, kv_heads, dim, block_len, span)
        torch.cuda.synchronize()

        def formula(x, norm):
            x = x.double()
            if norm is not None:
                x = x * (x.square().mean(-1, keepdim=True) + 1e-6).rsqrt() * norm.double()
            cos, sin = (rotation[position.long()][..., i].double()[:, None] for i in range(2))
            a, b = x[..., : dim // 2], x[..., dim // 2 :]
            return torch.cat([a * cos - b * sin, b * cos + a * sin], -1)

        case = dict(heads=heads, dim=dim, normed=normed)
        error = relative_error(q, formula(qkv[:, :heads], norms[0]))
        records.expect(error < 3e-3, "error", kernel="qk_norm_rope_append q", error=error, **case)
        kept = slots >= 0
        place = slots[kept].long()
        got = lambda pages: pages[place // block_len, :, place % block_len]
        error = relative_error(got(k), formula(qkv[:, heads : heads + kv_heads], norms[1])[kept])
        records.expect(error < 3e-3, "error", kernel="qk_norm_rope_append k", error=error, **case)
        records.expect(torch.equal(got(v), qkv[kept][:, heads + kv_heads :]), "copy", kernel="qk_norm_rope_append v", **case)
        written = sum(int((~p.isnan()).sum()) for p in (k, v))
        records.expect(written == 2 * int(kept.sum()) * kv_heads * dim, "nothing else was written", written=written, **case)


def norm(x, w, y, r=None, h=None, pdl=False):
    rows, n = x.shape
    NORM.launch(f"rms_norm_{1024 if n <= 1024 else 4096 if n <= 4096 else 16384}", rows, 128, 0, [x, r, h, w, y, n, 1e-6], pdl)


def check_norm(records):
    for n in (8, 64, 1000, 1024, 2560, 4096, 5120, 16384):
        x, r, w = (torch.randn(*s, device="cuda").bfloat16() for s in ((9, n), (9, n), (n,)))
        y, h = torch.full_like(x, float("nan")), torch.full_like(x, float("nan"))
        formula = lambda x: x.double() * (x.double().square().mean(-1, keepdim=True) + 1e-6).rsqrt() * w.double()
        norm(x, w, y)
        error = relative_error(y, formula(x))
        records.expect(error < 4e-3, "error", kernel="rms_norm", n=n, error=error)
        norm(x, w, y, r, h)
        records.expect(torch.equal(h, x + r), "sum", kernel="rms_norm", n=n)
        error = relative_error(y, formula(h))
        records.expect(error < 4e-3, "error", kernel="rms_norm after add", n=n, error=error)


def bench(records, bandwidth, rate):
    cases = [(1, 128), (1, 1024), (1, 4096), (1, 32768), (8, 1024), (8, 4096), (64, 1024), (64, 4096), (256, 1024)]
    for (batch, context), kv in [(case, kv) for case in cases for kv in ("", "_fp8", "_int8")]:
        a = Attention(16, 8, 128, 16, 0, kv)
        size = batch * context * a.kv_heads * 2 * (a.dim * (2 if kv == "" else 1) + (4 if kv == "_int8" else 0))
        copies = max(1, min(32, (300 << 20) // size))
        blocks = batch * context // 16 + 1
        layers = [[torch.randn(blocks, a.kv_heads, 16, a.dim, device="cuda", dtype=torch.bfloat16) for _ in range(2)] for _ in range(copies)]
        if kv:
            layers = [[codes_of(kv, x)[:2] for x in layer] for layer in layers]
        tables = (torch.randperm(blocks - 1, device="cuda").int() + 1).view(batch, -1).contiguous()
        q = torch.randn(batch, 16, 128, device="cuda").bfloat16()
        out = torch.empty_like(q)
        a.plan([(i, 1, context - 1) for i in range(batch)], batch, 2)
        for waves, pdl in [(2, True), (3, True)] if kv else [(2, True)]:
            us, least = time_graph(lambda: [a.run_decode(q, k, v, out, tables, pdl, waves) for k, v in layers], copies)
            records.add(f"decode{kv} b={batch:<3} ctx={context:<5} waves={waves} pdl={int(pdl)} {us:8.2f} us {size/us/1e3:6.0f} GB/s {size/us*1e6/bandwidth:.2f}",
                        op="attention", kernel="decode" + kv, chunk=CHUNK, batch=batch, context=context, waves=waves, pdl=pdl, us=us, least_us=least, bytes=size,
                        share_of_copy=size / us * 1e6 / bandwidth)
        del layers
    bench_prefill(records, rate)
    bench_rows(records)


def bench_prefill(records, rate):
    cases = [(16, 1024, 0), (1, 8192, 0), (4, 512, 3584), (1, 128, 0)]
    for (batch, new, start), kv in [(case, kv) for case in cases for kv in ("", "_fp8", "_int8")]:
        a = Attention(16, 8, 128, 16, 0, kv)
        length = new + start
        blocks = batch * length // 16 + 1
        k, v = (torch.randn(blocks, a.kv_heads, 16, a.dim, device="cuda", dtype=torch.bfloat16) for _ in range(2))
        if kv:
            k, v = codes_of(kv, k)[:2], codes_of(kv, v)[:2]
        tables = (torch.randperm(blocks - 1, device="cuda").int() + 1).view(batch, -1).contiguous()
        q = torch.randn(batch * new, 16, 128, device="cuda").bfloat16()
        out = torch.empty_like(q)
        flop = batch * (new * start + new * (new + 1) // 2) * 16 * 128 * 4
        text = ""
        if start == 0 and not kv:
            x = torch.randn(batch, 16, new, 128, device="cuda").bfloat16()
            y = torch.randn(batch, 16, new, 128, device="cuda").bfloat16()
            other = time_graph(lambda: torch.nn.functional.scaled_dot_product_attention(x, y, y, is_causal=True), 1)[0]
            text = f"  torch sdpa (not paged) {other:.1f} us"
            records.add(op="attention", kernel="torch sdpa", batch=batch, new=new, us=other)
        a.plan([(i * new, new, start) for i in range(batch)], batch * new, 2)
        us, least = time_graph(lambda: [a.run_prefill(q, k, v, out, tables) for _ in range(4)], 4)
        records.add(f"prefill{kv} b={batch} new={new} start={start} {us:8.1f} us {flop/us/1e6:6.0f} TFLOP/s {flop/us*1e6/rate:.2f}{text}", op="attention",
                    kernel="prefill" + kv, chunk=CHUNK, batch=batch, new=new, start=start, us=us, least_us=least, flop=flop,
                    share_of_matmul=flop / us * 1e6 / rate)

def bench_rows(records):
    for rows in (1, 16, 16384):
        blocks = rows // 16 + 1
        copies = 1 if rows > 1000 else 28
        qkv = [torch.randn(rows, 4096, device="cuda").bfloat16() for _ in range(copies)]
        k, v = (torch.empty(blocks, 8, 16, 128, device="cuda", dtype=torch.bfloat16) for _ in range(2))
        w = torch.randn(4096, device="cuda").bfloat16()
        position, rotation = ints(list(range(rows))), torch.randn(rows, 64, 2, device="cuda")
        q = torch.empty(rows, 2048, device="cuda", dtype=torch.bfloat16)
        us, _ = time_graph(lambda: [rope(x, w, w, position, rotation, position, q, k, v, 16, 8, 128, 16, pdl=True) for x in qkv], copies)
        size = rows * (4096 * 2 * 2 + 512)
        records.add(f"qk_norm_rope_append rows={rows} {us:.2f} us {size/us/1e3:.0f} GB/s", op="qk_norm_rope_append", rows=rows, us=us, bytes=size)
        x, y = (torch.randn(rows, 1024, device="cuda").bfloat16() for _ in range(2))
        us, _ = time_graph(lambda: [norm(x, w, y, pdl=True) for _ in range(copies)], copies)
        records.add(f"rms_norm rows={rows} {us:.2f} us {rows*4096/us/1e3:.0f} GB/s", op="rms_norm", rows=rows, us=us, bytes=rows * 4096)


if __name__ == "__main__":
    what = sys.argv[1:] or ["check", "bench"]
    records = Records(f"attention_{CHUNK}_" + "_".join(what))
    bandwidth, rate = ceilings(records) if "bench" in what else (None, None)
    if "check" in what:
        for part in (check_attention, check_rope, check_norm):
            part(records)
    if "bench" in what:
        bench(records, bandwidth, rate)
    records.close()
