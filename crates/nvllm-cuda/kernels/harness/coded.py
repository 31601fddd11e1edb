"""Checks and times the kernels over coded weights. python3 coded.py [check] [bench]"""
import itertools, os, sys
import torch
import linear
from device import *
from linear import cdiv

FEW, MANY, ROWS = (Module(f"linear/coded_{part}.cu") for part in ("few", "many", "rows"))
NF4 = [-1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635, -0.18477343022823334,
       -0.09105003625154495, 0.0, 0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224,
       0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0]
IQ4 = [-127.0, -104.0, -83.0, -65.0, -49.0, -35.0, -22.0, -10.0, 1.0, 13.0, 25.0, 38.0, 53.0, 69.0, 89.0, 113.0]
OUT_F32, LATE, GATED, MIDPOINT, ZEROS, VALUES, GROUPED, TO_I8, TO_E4M3 = (1 << i for i in range(9))
STATIC = 384                                                   # static shared memory of coded_few.cu
INSIDE = 2                                                     # rows at most whose codes are made in blocks
F32, F16, BF16 = torch.float32, torch.float16, torch.bfloat16
# Code, type of scales, columns of a block (0: all), flags of the offset.
FORMATS = {
    "i8 channel": ("i8", F32, 0, 0), "q8_0": ("i8", F16, 32, 0), "i8 g128": ("i8", BF16, 128, 0), "gptq8": ("i8", F16, 128, ZEROS),
    "q6_k": ("i8", F32, 16, 0), "q5_1": ("i8", F16, 32, VALUES), "fp8 channel": ("e4m3", F32, 0, 0), "fp8 128": ("e4m3", F32, 128, GROUPED),
    "int4 g128": ("u4", F16, 128, MIDPOINT), "int4 g64": ("u4", BF16, 64, MIDPOINT), "gptq": ("u4", F16, 128, ZEROS),
    "q4_0": ("u4", F16, 32, MIDPOINT), "q4_1": ("u4", F16, 32, VALUES), "q4_k": ("u4", F32, 32, VALUES),
    "nf4": ("nf4", F32, 64, 0), "iq4_nl": ("lut4", F16, 32, 0),
}


class Coded:
    def __init__(self, name, n, k, values=True):
        self.name, self.n, self.k = name, n, k
        self.code, self.scale, group, self.offset = FORMATS[name]
        self.bits = 8 if self.code in ("i8", "e4m3") else 4
        group = min(group or k, k)
        self.shift = 31 if group == k else group.bit_length() - 1
        self.blocks, self.period = cdiv(k, group), 128 if group >= k else min(group, 128)
        raw = torch.randint(0, 1 << self.bits, (n, k), device="cuda", dtype=torch.uint8)
        if self.code == "e4m3":
            raw[(raw & 0x7f) == 0x7f] = 0
        reach = {"i8": 128, "e4m3": 448, "u4": 8, "nf4": 1, "lut4": 127}[self.code]
        scales = ((torch.rand(n, self.blocks, device="cuda") + 0.5) / reach / k**0.5).to(self.scale)
        self.table, offsets = None, None
        if self.offset == ZEROS:
            offsets = torch.randint(0, 16, (n, self.blocks), device="cuda").to(BF16)
        if self.offset == VALUES:
            offsets = (-scales.float() * reach * (torch.rand(n, self.blocks, device="cuda") + 0.5)).to(self.scale)
        lie = [scales.float()] + ([] if offsets is None else [offsets.float()])
        lie = torch.nn.functional.pad(torch.stack(lie, 2), (0, 0, 0, 0, 0, -n % 8))
        self.scales = lie.view(-1, 8, self.blocks, lie.shape[2]).transpose(1, 2).contiguous()
        if self.code in ("nf4", "lut4"):
            self.table = torch.tensor(NF4 if self.code == "nf4" else IQ4, device="cuda")
        if self.bits == 8:
            self.codes = raw.view(n, -1, 4)[:, :, [0, 2, 1, 3]].contiguous()
        else:
            lie = raw.view(n, -1, 8)[:, :, [0, 2, 4, 6, 1, 3, 5, 7]]
            self.codes = lie[:, :, 0::2] | lie[:, :, 1::2] << 4
        self.flags = self.offset
        if values:
            wide = lambda t: t.double().repeat_interleave(group, 1)[:, :k]
            if self.code == "i8":
                v = raw.view(torch.int8).double()
            elif self.code == "e4m3":
                v = raw.view(torch.float8_e4m3fn).double()
            else:
                v = raw.double() if self.table is None else self.table.double()[raw.long()]
            v = v - 8 if self.offset == MIDPOINT else v - wide(offsets) if self.offset == ZEROS else v
            self.values = v * wide(scales) + (wide(offsets) if self.offset == VALUES else 0)

    def bytes(self):
        return sum(t.numel() * t.element_size() for t in (self.codes, self.scales))

    def shared(self, r, tokens, rows):
        blocks = 128 // self.period * (64 if self.offset in (ZEROS, VALUES) else 32)
        length = cdiv(self.k, 1024) * 128
        factors = length // 4 * tokens if self.offset == GROUPED else 0
        stage = r * (256 * self.bits + 2 * blocks)
        return 8 * (3 if TIGHT else 4) * stage + 64 * (16 * r + 4) * tokens + 16 * rows * length + factors + 128 + (2048 if self.table is not None else 0)

    def block(self, m, silu, forced=None):
        for tokens, rows in [(t, min(t, m)) for t in (32, 16, 8) if t == 8 or t < 2 * m] + [(8, r) for r in range(7, 0, -1)]:
            for r in (2, 1):
                takes = r == 1 or 4 * cdiv(self.n, 32) >= 3 * SMS and tokens < 32
                if forced and tokens < 32:
                    takes = r == forced
                if r > 1 and silu and self.n % 32:
                    takes = False
                if takes and self.shared(r, tokens, rows) + STATIC <= SHARED_LIMIT:
                    return r, tokens, rows
        raise ValueError("does not fit")

    def many(self, x, y, bias=None, residual=None, silu=False, scale=None, pdl=False):
        (m, k), n = x.shape, self.n
        stage = 256 * self.bits + 2 * (128 // self.period) * (64 if self.offset in (ZEROS, VALUES) else 32)
        shared = 3 * (8 * stage + 16384) + (cdiv(k, 128) * 256 if self.offset == GROUPED else 0) + 128 + (2048 if self.table is not None else 0)
        mode = "_sums" if self.offset in (ZEROS, VALUES) else "_scaled" if self.offset == GROUPED else ""
        flags = self.flags | (OUT_F32 if y.dtype == F32 else 0) | (GATED if silu else 0)
        MANY.launch(f"linear_coded_many_{self.code}{mode}", (cdiv(n, 128), cdiv(m, 64)), 256, shared,
                    [self.codes, self.scales, self.table, x, scale, bias, residual, y, m, n, k, self.shift, self.blocks, flags, 0, 0, 0, y.shape[1]], pdl)

    def kind(self):
        """As `InputKind` in input_quant.cuh, if x is quantised."""
        return 1 if self.code == "i8" else 2

    def rows(self, x, norm=None, pdl=False):
        """Codes of x, or of its norm, and their scales."""
        (m, k), grouped = x.shape, self.offset == GROUPED
        codes, scales = torch.empty_like(x), torch.empty(m, cdiv(k, 128) if grouped else 1, device="cuda")
        name = next(most for most in (1024, 4096, 16384) if k <= most)
        ROWS.launch(f"linear_coded_rows_{name}", m, 128, 0, [x, norm, 1e-6, self.kind(), 0.0, int(grouped), codes, scales, k], pdl)
        return codes, scales

    def launch(self, x, y, bias=None, residual=None, silu=False, scale=None, pdl=False, r=None, norm=None, codes=False, late=True):
        """With `codes`, x is quantised: by the blocks where m and k are small, else before."""
        m, n = x.shape[0], self.n
        inside = m <= (2 if norm is not None else INSIDE)
        if codes and not inside:
            x, scale = self.rows(x, norm, pdl)
        r, tokens, rows = self.block(m, silu, r)
        mode = "_sums" if self.offset in (ZEROS, VALUES) else "_scaled" if self.offset == GROUPED else ""
        name, tiles, ring = f"linear_coded_few_{self.code}{mode}_r{r}_t{tokens}", cdiv(n, 16 * r), 3 if TIGHT else 4
        full = self.shared(r, tokens, rows)
        stage = r * (256 * self.bits + 2 * (128 // self.period * (64 if self.offset in (ZEROS, VALUES) else 32)))
        short = min(ring, 1 + cdiv(self.k, 1024)) if rows <= 2 else ring
        shared = full - 8 * (ring - short) * stage
        if FEW.blocks_per_sm(name, 256, shared) * SMS < tiles:
            short, shared = ring, full
        grid = (min(tiles, FEW.blocks_per_sm(name, 256, shared) * SMS), cdiv(m, rows))
        flags = self.flags | (LATE if late else 0) | (OUT_F32 if y.dtype == F32 else 0) | (GATED if silu else 0)
        flags |= (TO_I8 if self.kind() == 1 else TO_E4M3) if codes and inside else 0
        FEW.launch(name, grid, 256, shared, [self.codes, self.scales, self.table, x, scale, bias, residual, y, m, n, self.k, self.shift,
                                             self.blocks, flags, rows, short, 0, y.shape[1], norm if inside else None, 1e-6, 0.0], pdl)


def e4m3(x):
    return x.clamp(-448, 448).to(torch.float8_e4m3fn).float()


def quantized(w, x):
    """x as the layer sees it, in float64 of what is computed in float32."""
    x = x.float()
    group = 128 if w.offset == GROUPED else x.shape[1]
    parts = torch.nn.functional.pad(x, (0, -x.shape[1] % group)).view(x.shape[0], -1, group)
    most = torch.full((1,), 127.0 if w.kind() == 1 else 448.0, device="cuda")   # by a number, torch multiplies by its reciprocal
    scale = parts.abs().amax(2, keepdim=True) / most
    at = torch.where(scale == 0, 0, parts / scale)
    codes = at.round().clamp(-128, 127) if w.kind() == 1 else e4m3(at)
    return (codes.double() * scale.double()).view(x.shape[0], -1)[:, :x.shape[1]], codes.view(x.shape[0], -1)[:, :x.shape[1]], scale[:, :, 0]


def check_inputs(records):
    """Norm and codes of x, in blocks and before them: the same bits, and those of torch."""
    norms = Module("rms_norm/fused.cu")
    for name, (n, k) in itertools.product(["i8 channel", "fp8 channel", "fp8 128"], [(48, 1024), (96, 3072), (4096, 1024), (6144, 1024), (24, 1056)]):
        w, weight = Coded(name, n, k), torch.randn(k, device="cuda").bfloat16()
        x = torch.randn(64, k, device="cuda").bfloat16() * torch.logspace(-20, 20, 64, device="cuda", dtype=torch.float64).unsqueeze(1).bfloat16()
        x[5] = 0
        normed = torch.empty_like(x)
        norms.launch(f"rms_norm_{1024 if k <= 1024 else 4096}", 64, 128, 0, [x, None, None, weight, normed, k, 1e-6])
        for norm in (None, weight):
            seen, codes, scales = quantized(w, x if norm is None else normed)
            found, found_scales = w.rows(x, norm)
            records.expect(torch.equal(found.float(), codes) and torch.equal(found_scales, scales), "codes", format=name, k=k, norm=norm is not None)
            want, first = seen @ w.values.t(), None
            for m in (1, 2, 3, 8, 17, 64):
                y = torch.full((m, n), float("nan"), device="cuda")
                if m == 64:
                    w.many(found, y, scale=found_scales)
                else:
                    w.launch(x[:m].contiguous(), y, norm=norm, codes=True)
                first = y if first is None else first
                lines = want[:m].norm(dim=1).clamp_min(1e-30)
                error = ((y.double() - want[:m]).norm(dim=1) / lines).max().item()
                case = dict(format=name, n=n, k=k, m=m, norm=norm is not None)
                records.expect(error < 1e-5, "quantized", error=error, **case)
                records.expect(torch.equal(y[:1], first[:1]), "quantized bits", **case)


def check(records):
    seed = int(torch.seed() % 2**31)
    torch.manual_seed(seed)
    print("seed", seed, flush=True)
    shapes = [(16, 32), (24, 160), (208, 1056), (64, 4096), (48, 12288), (1040, 2048)]
    for name, (n, k), silu, extra in itertools.product(FORMATS, shapes, [False, True], [False, True]):
        if silu and n % 16:
            continue
        w = Coded(name, n, k)
        out_n, first = n // 2 if silu else n, None
        for m, dtype in [(32, F32), (1, F32), (33, F32), (2, F32), (5, F32), (8, F32), (13, F32), (24, F32), (70, F32), (3, BF16)]:
            full = torch.randn(80, k, device="cuda").bfloat16() if first is None else full
            x, scale, sx = full[:m].contiguous(), None, full[:m].double()
            groups = cdiv(k, 128) if w.offset == GROUPED else 1
            if extra or w.offset == GROUPED:
                all_scales = torch.rand(80, groups, device="cuda") + 0.5 if first is None else all_scales
                scale = all_scales[:m].contiguous()
                sx = sx * scale.double().repeat_interleave(128, 1)[:, :k] if groups > 1 or w.offset == GROUPED else sx * scale.double()
            bias = all_bias = (torch.randn(n, device="cuda") if first is None else all_bias) if extra else None
            residual = torch.randn(m, out_n, device="cuda").bfloat16() if extra and dtype == BF16 else None
            want = sx @ w.values.t() + (bias.double() if extra else 0)
            if silu:
                want = torch.nn.functional.silu(want[:, :out_n]) * want[:, out_n:]
            if residual is not None:
                want = want + residual.double()
            y = torch.full((m, out_n), float("nan"), device="cuda", dtype=dtype)
            if m in (2, 33, 70):
                w.many(x, y, bias, residual, silu, scale)
            else:
                w.launch(x, y, bias, residual, silu, scale, r=2 if m in (8, 13) and n % 32 == 0 else None)
            torch.cuda.synchronize()
            case = dict(format=name, n=n, k=k, m=m, silu=silu, extra=extra)
            error = relative_error(y, want)
            limit = 4e-3 if dtype == BF16 else 2e-5 if silu else 3e-6 * (k / 64 + 1) ** 0.5
            records.expect(error < limit, "error", error=error, **case)
            if first is None:
                first = y
            elif dtype == F32:
                least = min(m, 32)
                records.expect(torch.equal(y[:least].view(torch.int32), first[:least].view(torch.int32)), "bits", **case)


def bf16(w, x, y, residual=None, silu=False, pdl=True, norm=None):
    """What the engine runs at few rows."""
    m, k = x.shape
    n = w.shape[0]
    way = linear.small_choice(n, k, m, silu)
    tokens = 8 if m <= 8 else 16 if m <= 16 else 32
    if linear.small_shared(16 if way == "stream" else int(way[1:]), tokens, tokens, k, silu, way == "stream") <= SHARED_LIMIT:
        linear.small(w, x, y, residual=residual, silu=silu, pdl=pdl, late=True, norm=norm)
    elif linear.WGMMA and n >= 4096:
        linear.wgmma(w, x, y, residual=residual, silu=silu, c=1, pdl=pdl)
    else:
        linear.mid(w, x, y, residual=residual, silu=silu, pdl=pdl, split=n < 4096)


SIZES = {"0.6B": ([("qkv", 4096, 1024), ("o", 1024, 2048), ("gate_up", 6144, 1024), ("down", 1024, 3072)], 28, 14),
         "8B": ([("qkv", 6144, 4096), ("o", 4096, 4096), ("gate_up", 24576, 4096), ("down", 4096, 12288)], 36, 6)}


def bench(records, bandwidth):
    """All linears of a decode step's layers in a chain, norms inside where they are, each layer with weights of its own; and each alone."""
    names = os.environ.get("FORMATS", "bf16,i8 channel,i8 channel a8,fp8 channel,fp8 128 a8,q8_0,int4 g128,gptq,q4_0,q4_1,q4_k,nf4,iq4_nl").split(",")
    late = os.environ.get("LATE", "1") == "1"
    for model, (shapes, _, layers) in SIZES.items():
        first = {}
        for name in names:
            dense, codes = name == "bf16", name.endswith(" a8")
            make = lambda n, k: torch.randn(n, k, device="cuda", dtype=BF16) / k**0.5 if dense else Coded(name.removesuffix(" a8"), n, k, False)
            weights = [[make(n, k) for _, n, k in shapes] for _ in range(layers)]
            norm = torch.ones(shapes[0][2], device="cuda", dtype=BF16)
            size = sum(w.numel() * 2 if dense else w.bytes() for l in weights for w in l)

            def run(w, x, y, norm=None, r=None, **a):
                if x.shape[0] > 2 and not codes:
                    norm = None                                # else a launch of its own, which is not timed here
                if dense:
                    bf16(w, x, y, norm=norm, **a)
                else:
                    w.launch(x, y, pdl=True, norm=norm, codes=codes, r=r, late=late, **a)

            for m in (1, 8):
                h, mid, wide = shapes[0][2], shapes[1][2], shapes[3][2]
                e = lambda n: torch.empty(m, n, device="cuda", dtype=BF16)
                x, qkv, act, attn = torch.randn(m, h, device="cuda").bfloat16(), e(shapes[0][1]), e(wide), torch.randn(m, mid, device="cuda").bfloat16()

                def step():
                    for q, o, g, d in weights:
                        run(q, x, qkv, norm=norm)
                        run(o, attn, x, residual=x)
                        run(g, x, act, silu=True, norm=norm)
                        run(d, act, x, residual=x)

                us, least = time_graph(step, layers)
                first.setdefault(m, us)
                alone, other = [], {}
                for i, (op, n, k) in enumerate(shapes):
                    silu, xi, yi = op == "gate_up", torch.randn(m, k, device="cuda").bfloat16(), e(n // 2 if op == "gate_up" else n)
                    alone.append(time_graph(lambda: [run(l[i], xi, yi, silu=silu, norm=None if i % 2 else norm) for l in weights], layers)[0])
                    for r in (1, 2) if not dense and m == 1 else ():
                        if (not silu or n % (16 * r) == 0) and weights[0][i].shared(r, 8, m) + STATIC <= SHARED_LIMIT:
                            other[f"{op} r{r}"] = time_graph(lambda: [run(l[i], xi, yi, silu=silu, norm=None if i % 2 else norm, r=r) for l in weights], layers)[0]
                share = size / layers / us * 1e6 / bandwidth
                records.add(f"{model:5} {name:15} m={m:<2} layer {us:8.2f} us {first[m] / us:5.2f}x {share:5.2f} of copy   "
                            + " ".join(f"{s[0]} {t:.2f}" for s, t in zip(shapes, alone)) + "  " + " ".join(f"{op} {t:.2f}" for op, t in other.items()),
                            op="coded_chain", model=model, format=name, m=m, late=late, other=other, us=us, least_us=least, bytes=size / layers, share_of_copy=share, alone=alone)
            del weights


def bench_many(records, rate):
    """Prefill: all linears of a layer, each alone, beside bf16."""
    for model, (shapes, _, _) in SIZES.items():
        for name, m in itertools.product(["i8 channel", "fp8 channel", "fp8 128", "int4 g128", "q8_0", "q4_k", "nf4"], [64, 512, 2048]):
            times, ours = [], []
            for op, n, k in shapes:
                w, silu = [Coded(name, n, k, False) for _ in range(4)], op == "gate_up"
                dense = [torch.randn(n, k, device="cuda", dtype=BF16) for _ in range(4)]
                x, y = torch.randn(m, k, device="cuda").bfloat16(), torch.empty(m, n // 2 if silu else n, device="cuda", dtype=BF16)
                scale = torch.ones(m, cdiv(k, 128), device="cuda") if name == "fp8 128" else None
                times.append(time_graph(lambda: [a.many(x, y, scale=scale, silu=silu, pdl=True) for a in w], len(w))[0])
                wide = 3 if k <= 1024 and m > 1024 else 2
                ours.append(time_graph(lambda: [linear.wgmma(a, x, y, silu=silu, c=1 if m <= 64 else wide, pdl=True) for a in dense], len(w))[0])
            flop = 2 * m * sum(n * k for _, n, k in shapes)
            records.add(f"{model:5} {name:12} m={m:<5} {sum(times):8.1f} us {flop / sum(times) / 1e6:6.0f} TFLOP/s, bf16 {sum(ours):.1f} us, {sum(ours) / sum(times):.2f}x",
                        op="coded_many", model=model, format=name, m=m, us=times, bf16_us=ours)


if __name__ == "__main__":
    what = sys.argv[1:] or ["check", "bench"]
    records = Records("coded_" + "_".join(what))
    bandwidth, rate = ceilings(records) if "bench" in what else (None, None)
    if "check" in what:
        check_inputs(records)
        check(records)
    if "bench" in what:
        bench(records, bandwidth)
        bench_many(records, rate)
    records.close()
