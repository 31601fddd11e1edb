"""Checks and times the linear kernels. python3 linear.py [check] [bench]"""
import itertools, os, sys
import torch
from device import *

SMALL, MMA = Module("linear/small_m.cu"), Module("linear/tensor_core.cu")
MID = Module("linear/mid_m.cu")
WGMMA = Module("linear/wgmma.cu") if ARCH == "sm_90a" else None
CLUSTER = Module("linear/cluster_split.cu") if ARCH == "sm_90a" else None
WGMMA_TILES = ((1, 32, 2), (1, 64, 2), (1, 128, 1), (1, 128, 2), (2, 64, 2), (2, 128, 1), (3, 128, 1))  # consumers, rows of W, steps a copy


def range_len(k):
    return (k + 511) // 512 * 64


def cdiv(a, b):
    return (a + b - 1) // b


def small_shared(rows, tokens, m, k, silu, stream):
    steps, ring = range_len(k) // 64, 4 if TIGHT else 6
    partial = 32 * (rows + 4) * tokens
    return 1024 * rows * (ring if stream else steps) + partial * (2 if stream else 1) + 16 * m * range_len(k)


PREFER = "cover"  # or "r16"; see small_choice
# After which linears the next kernel waits until their x is there.
LATE = {"none": [], "all": ["qkv", "o", "gate_up", "down"], "gate_up": ["gate_up"], "qkv and gate_up": ["qkv", "gate_up"]}


def small_choice(n, k, m, silu):
    """Resident if W fits the device's shared memory at once; otherwise streamed. "cover": the fewest rows with which one tile a
    multiprocessor covers W. "r16": 16 rows, several blocks a multiprocessor."""
    tokens = 8 if m <= 8 else 16 if m <= 16 else 32
    out = n // 2 if silu else n
    if PREFER == "r16" and cdiv(n, 16) <= 4 * SMS and small_shared(16, tokens, m, k, silu, False) <= SHARED_LIMIT:
        return "r16"
    for rows in (16, 32, 48):
        if cdiv(out, rows // 2 if silu else rows) <= SMS and small_shared(rows, tokens, m, k, silu, False) <= SHARED_LIMIT:
            return f"r{rows}"
    return "stream"


def small(w, x, y, bias=None, residual=None, silu=False, way=None, pdl=False, waves=None, norm=None, late=False):
    m, k = x.shape
    n = w.shape[0]
    tokens = 8 if m <= 8 else 16 if m <= 16 else 32
    way = way or small_choice(n, k, m, silu)
    rows = 16 if way == "stream" else int(way[1:])
    normed = "" if norm is None else "_norm1" if k <= 1024 else "_norm4"
    name = f"linear_small_m_{'silu_' if silu else ''}{way}{normed}_t{tokens}"
    shared = small_shared(rows, tokens, m, k, silu, way == "stream")
    grid = cdiv(n // 2, rows // 2) if silu else cdiv(n, rows)
    if way == "stream":
        grid = min(grid, (waves or SMALL.blocks_per_sm(name, 256, shared)) * SMS)
    SMALL.launch(name, grid, 256, shared, [w, x, bias, residual, y, m, n, k, int(y.dtype == torch.float32) + 2 * late, norm, 1e-6], pdl)


def tensor_core(w, x, y, bias=None, residual=None, silu=False, tokens=128, pdl=False):
    m, k = x.shape
    n = w.shape[0]
    tiles = cdiv(m, tokens) * (cdiv(n // 2, 64) if silu else cdiv(n, 128))
    shared = (2 if TIGHT else 4) * (128 + tokens) * 128 + 8 * 16 * 68 * 4
    name = f"linear_tensor_core_{'silu_' if silu else ''}t{tokens}"
    MMA.launch(name, min(tiles, SMS), 256, shared, [w, x, bias, residual, y, m, n, k, int(y.dtype == torch.float32)], pdl)


def wgmma(w, x, y, bias=None, residual=None, silu=False, c=2, pdl=False, cols=128, steps=1):
    (m, k), n = x.shape, w.shape[0]
    tiles, part = cdiv(m, 64 * c) * cdiv(n, cols), min(64, cols // 2 if silu else cols)
    stage, staging = steps * (64 * c + cols) * 128 + 16, 256 * c * (part + 4)
    stages = (min(SHARED_LIMIT, 150 << 10 if c == 1 and cols < 128 else SHARED_LIMIT) - staging) // stage
    maps = [tensor_map(w, cols // 2, steps, 2) if silu else tensor_map(w, cols, steps), tensor_map(x, 64 * c, steps)]
    WGMMA.launch(f"linear_wgmma_{'silu_' if silu else ''}c{c}_n{cols}_s{steps}", min(tiles, SMS), 128 * (c + 1), stages * stage + staging,
                 [*maps, bias, residual, y, m, n, k, int(y.dtype == torch.float32), stages], pdl)


def cluster_split(w, x, y, bias=None, residual=None, pdl=False):
    (m, k), n, range_steps = x.shape, w.shape[0], range_len(x.shape[1]) // 64
    steps = 1 if range_steps % 2 else 2
    CLUSTER.launch("linear_cluster_split", (8 * cdiv(n, 64), cdiv(m, 64)), 160, 16384 * (range_steps + 1) + 8 * range_steps,
                   [tensor_map(w, 64, steps), tensor_map(x, 64, steps), bias, residual, y, m, n, k, int(y.dtype == torch.float32), steps], pdl)


WORKSPACE = torch.empty(8 * 512 * 8192, device="cuda")


def mid(w, x, y, bias=None, residual=None, silu=False, pdl=False, split=None):
    m, k = x.shape
    n = w.shape[0]
    f32 = int(y.dtype == torch.float32)
    split = n < 4096 and k > 1024 if split is None else split
    if not split:
        MID.launch("linear_mid_m" + "_silu" * silu, (cdiv(n // 2, 32) if silu else cdiv(n, 64), cdiv(m, 64)), 128, 65536,
                   [w, x, bias, residual, y, m, n, k, f32], pdl)
        return
    MID.launch("linear_mid_m_split", (8 * cdiv(n, 64), cdiv(m, 64)), 128, 65536, [w, x, WORKSPACE, m, n, k], pdl)
    MID.launch("linear_merge" + "_silu" * silu, cdiv(m * y.shape[1], 1024), 256, 0, [WORKSPACE, bias, residual, y, m, n, k, f32], pdl)


KERNELS = {"mma_t64": lambda *a, **b: tensor_core(*a, tokens=64, **b), "mma_t128": lambda *a, **b: tensor_core(*a, tokens=128, **b)}
KERNELS |= {"mid_whole": lambda *a, **b: mid(*a, split=False, **b), "mid_split": lambda *a, **b: mid(*a, split=True, **b)}
if WGMMA:
    KERNELS |= {f"wgmma_c{c}_n{n}_s{s}": (lambda c, n, s: lambda *a, **b: wgmma(*a, c=c, cols=n, steps=s, **b))(c, n, s) for c, n, s in WGMMA_TILES}
    KERNELS["cluster_split"] = lambda w, x, y, bias, residual, silu=False, pdl=False: cluster_split(w, x, y, bias, residual, pdl)


def reference(w, x, bias, residual, silu):
    y = x.double() @ w.double().t()
    if bias is not None:
        y = y + bias.double()
    if silu:
        y = torch.nn.functional.silu(y[:, : y.shape[1] // 2]) * y[:, y.shape[1] // 2 :]
    return y if residual is None else y + residual.double()


def check_all(records):
    seed = int(torch.seed() % 2**31)
    torch.manual_seed(seed)
    print("seed", seed, flush=True)
    shapes = [(16, 16), (16, 8), (5, 72), (100, 64), (64, 520), (1000, 1000), (1024, 2048), (4096, 1024), (1024, 3072), (256, 4104), (200, 640), (136, 1600)]
    sizes = [1, 3, 8, 16, 21, 130, 300]
    if os.environ.get("CHECK") == "few":
        shapes, sizes = [(16, 8), (100, 72), (64, 520), (200, 192), (208, 1024), (64, 3072)], [3, 13, 70]
    for (n, k), m, dtype, extra, silu in itertools.product(shapes, sizes, [torch.float32, torch.bfloat16], [False, True], [False, True]):
        if silu and (n % 16 or extra and dtype == torch.float32):
            continue
        w, x = (torch.randn(r, k, device="cuda", dtype=torch.bfloat16) for r in (n, m))
        out_n = n // 2 if silu else n
        bias = torch.randn(n, device="cuda").bfloat16() if extra else None
        residual = torch.randn(m, out_n, device="cuda").bfloat16() if extra and not silu else None
        expected = reference(w, x, bias, residual, silu)
        first = None
        limit = 2e-6 if dtype == torch.float32 and not silu else 2e-5 if dtype == torch.float32 else 4e-3

        def judge(kind, run):
            nonlocal first
            y = torch.full((m, out_n), float("nan"), device="cuda", dtype=dtype)
            run(y)
            torch.cuda.synchronize()
            error = relative_error(y, expected)
            case = dict(kernel=kind, n=n, k=k, m=m, dtype=str(dtype), extra=extra, silu=silu)
            records.expect(error < limit * (k / 64 + 1) ** 0.5, "error", error=error, **case)
            first = y if first is None else first
            same = torch.equal(y.view(torch.int32 if dtype == torch.float32 else torch.int16),
                               first.view(torch.int32 if dtype == torch.float32 else torch.int16))
            records.expect(same, "bits", differing=0 if same else (y != first).float().mean().item(), **case)

        def by_rows(y):  # the reference for bits: every row alone
            for i in range(m):
                small(w, x[i : i + 1].contiguous(), y[i : i + 1], bias, None if residual is None else residual[i : i + 1], silu)

        judge("small_m, M = 1", by_rows)
        if m <= 32:
            tokens = 8 if m <= 8 else 16 if m <= 16 else 32
            for way in ("r16", "r32", "r48", "stream"):
                if small_shared(16 if way == "stream" else int(way[1:]), tokens, m, k, silu, way == "stream") <= SHARED_LIMIT:
                    judge("small_m " + way, lambda y: small(w, x, y, bias, residual, silu, way=way, waves=1 if m % 2 else None))
        for kind, run in KERNELS.items():
            if "mid" in kind and n % 8 or kind == "cluster_split" and (silu or n % 4) or kind[:5] in ("clust", "wgmma") and k % 64 or "_s2" in kind and range_len(k) // 64 % 2:
                continue
            judge(kind, lambda y: run(w, x, y, bias, residual, silu))
        if residual is not None:  # in place
            judge("in place", lambda y: (y.copy_(residual), small(w, x, y, bias, y, silu) if m <= 8 else tensor_core(w, x, y, bias, y))
                  if dtype == torch.bfloat16 else y.copy_(first))


def check_norm(records):
    """The norm inside the small-M kernel against the norm kernel followed by the plain one, bit for bit."""
    norms = Module("rms_norm/fused.cu")
    for k, m, silu, way in itertools.product([72, 1000, 1024, 2560, 4096], [1, 5, 8], [False, True], ["r16", "r32", "r48", "stream"]):
        if small_shared(16 if way == "stream" else int(way[1:]), 8, m, k, silu, way == "stream") > SHARED_LIMIT - 1024:
            continue
        n = 208
        w, x, g = (torch.randn(*s, device="cuda").bfloat16() for s in ((n, k), (m, k), (k,)))
        normed, a, b = torch.empty_like(x), *(torch.full((m, n // 2 if silu else n), float("nan"), device="cuda") for _ in range(2))
        norms.launch(f"rms_norm_{1024 if k <= 1024 else 4096}", m, 128, 0, [x, None, None, g, normed, k, 1e-6])
        small(w, normed, a, silu=silu)
        small(w, x, b, silu=silu, way=way, norm=g)
        torch.cuda.synchronize()
        records.expect(torch.equal(a.view(torch.int32), b.view(torch.int32)) and not a.isnan().any(), "bits", kernel="small_m norm " + way, k=k, m=m, silu=silu)


SHAPES = {"qkv": (4096, 1024, False), "o": (1024, 2048, False), "gate_up": (6144, 1024, True), "down": (1024, 3072, False),
          "head": (151936, 1024, False)}


def inputs(name, m, least_bytes=400 << 20):
    n, k, silu = SHAPES[name]
    copies = max(2, min(48, least_bytes // (n * k * 2)))
    w = [torch.randn(n, k, device="cuda", dtype=torch.bfloat16) for _ in range(copies)]
    x = torch.randn(m, k, device="cuda", dtype=torch.bfloat16)
    y = torch.empty(m, n // 2 if silu else n, device="cuda", dtype=torch.float32 if name == "head" else torch.bfloat16)
    return n, k, silu, w, x, y


def bench_small(records, bandwidth):
    for name in SHAPES:
        for m in (1, 4, 8, 16, 32):
            n, k, silu, w, x, y = inputs(name, m)
            best = None
            for way, pdl in itertools.product(["r16", "r32", "r48", "stream"], [False, True]):
                tokens = 8 if m <= 8 else 16 if m <= 16 else 32
                rows = 16 if way == "stream" else int(way[1:])
                if small_shared(rows, tokens, m, k, silu, way == "stream") > SHARED_LIMIT:
                    continue
                if way != "stream" and name == "head":
                    continue
                us, least = time_graph(lambda: [small(a, x, y, silu=silu, way=way, pdl=pdl) for a in w], len(w))
                size = n * k * 2 + m * k * 2 + y.numel() * y.element_size()
                record = dict(op="linear", kernel="small_m", shape=name, n=n, k=k, m=m, way=way, pdl=pdl, us=us, least_us=least,
                              bytes=size, share_of_copy=size / us * 1e6 / bandwidth)
                records.add(**record)
                if best is None or us < best["us"]:
                    best = record
            us = time_graph(lambda: [torch.matmul(x, a.t()) for a in w], len(w))[0]
            records.add(op="linear", kernel="torch", shape=name, m=m, us=us)
            if best:
                b = best
                records.table.append(f"{name:8} m={m:<3} {b['us']:8.2f} us {b['bytes']/b['us']/1e3:6.0f} GB/s {b['share_of_copy']:5.2f} "
                                     f"{b['way']} (choice {small_choice(n, k, m, silu)}) pdl={b['pdl']}  torch {us:.2f}")


def bench_chain(records, bandwidth):
    """All linears of a Qwen3-0.6B decode step in order, each layer with weights of its own."""
    layers = [[torch.randn(n, k, device="cuda", dtype=torch.bfloat16) / 32 for n, k, _ in list(SHAPES.values())[:4]] for _ in range(28)]
    head = torch.randn(151936, 1024, device="cuda", dtype=torch.bfloat16)
    size = sum(w.numel() * 2 for l in layers for w in l) + head.numel() * 2
    global PREFER
    default = PREFER
    for m, pdl, PREFER, late in itertools.product([1, 4, 8, 16], [False, True], ["cover", "r16"], LATE):
        if not pdl and late != "none":
            continue
        e = lambda n, t=torch.bfloat16: torch.empty(m, n, device="cuda", dtype=t)
        h, qkv, act, logits = torch.randn(m, 1024, device="cuda").bfloat16(), e(4096), e(3072), e(151936, torch.float32)
        attn = torch.randn(m, 2048, device="cuda").bfloat16()

        def step():
            for qkv_w, o, gate_up, down in layers:
                small(qkv_w, h, qkv, pdl=pdl, late="qkv" in LATE[late])
                small(o, attn, h, residual=h, pdl=pdl, late="o" in LATE[late])
                small(gate_up, h, act, silu=True, pdl=pdl, late="gate_up" in LATE[late])
                small(down, act, h, residual=h, pdl=pdl, late="down" in LATE[late])
            small(head, h, logits, pdl=pdl)

        us, least = time_graph(step, 1)
        records.add(f"chain of 113 linears m={m} pdl={int(pdl)} {PREFER} late={late}: {us:.0f} us {size/us/1e3:.0f} GB/s {size/us*1e6/bandwidth:.2f}",
                    op="linear_chain", m=m, pdl=pdl, prefer=PREFER, late=late, us=us, least_us=least, bytes=size,
                    share_of_copy=size / us * 1e6 / bandwidth)
    PREFER = default


def bench_large(records, rate, sizes=(24, 32, 64, 128, 256, 512, 2048, 8192)):
    for name, m in itertools.product(list(SHAPES)[:4] + ["head"], sizes):
        if name == "head" and m > 512:
            continue
        n, k, silu, w, x, y = inputs(name, m, 200 << 20)
        row, flops = f"{name:8} m={m:<5}", 2 * m * n * k
        times = {"torch": time_graph(lambda: [torch.matmul(x, a.t()) for a in w], len(w))[0]}
        for kind, run in KERNELS.items():
            if "mid" in kind and m > 256 or kind == "mid_split" and name == "head" or "mma_t" in kind and m not in (256, 8192):
                continue
            times[kind] = time_graph(lambda: [run(a, x, y, silu=silu, pdl=m <= 512) for a in w], len(w))[0]
        for kind, us in times.items():
            records.add(op="linear", kernel=kind, shape=name, n=n, k=k, m=m, pdl=kind != "torch" and m <= 512, us=us, flop=flops, share_of_matmul=flops / us * 1e6 / rate)
        records.table.append(row + "".join(f" {kind} {us:.1f} ({flops/us/1e6:.0f})" for kind, us in times.items()))


if __name__ == "__main__":
    what = sys.argv[1:] or ["check", "bench"]
    records = Records("linear_" + "_".join(what))
    bandwidth, rate = ceilings(records) if "bench" in what else (None, None)
    if "check" in what:
        check_all(records)
        check_norm(records)
    if "bench" in what:
        bench_chain(records, bandwidth)
        bench_small(records, bandwidth)
        bench_large(records, rate)
    records.close()
