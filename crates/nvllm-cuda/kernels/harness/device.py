"""The driver by ctypes: loads cubins, launches on torch's current stream (so that torch's graph capture sees it), times graphs."""
import ctypes, json, os, statistics, sys, time
import torch
import nvrtc

cu = ctypes.CDLL("libcuda.so.1")
torch.cuda.init()
torch.zeros(1, device="cuda")
PROPERTIES = torch.cuda.get_device_properties(0)
SMS = PROPERTIES.multi_processor_count
ARCH = "sm_90a" if torch.cuda.get_device_capability() == (9, 0) else "sm_%d%d" % torch.cuda.get_device_capability()
SHARED_LIMIT = 232448 if ARCH == "sm_90a" else PROPERTIES.shared_memory_per_block_optin
TIGHT = SHARED_LIMIT < 110_000  # as in prelude.cuh
OUT = os.environ.get("OUT", "out")


def check(code, what):
    if code:
        name = ctypes.c_char_p()
        cu.cuGetErrorName(code, ctypes.byref(name))
        raise RuntimeError(f"{what}: {name.value}")


class Attribute(ctypes.Structure):
    _fields_ = [("id", ctypes.c_int), ("pad", ctypes.c_char * 4), ("value", ctypes.c_int * 16)]


class Config(ctypes.Structure):
    _fields_ = [("grid", ctypes.c_uint * 3), ("block", ctypes.c_uint * 3), ("shared", ctypes.c_uint), ("stream", ctypes.c_void_p),
                ("attributes", ctypes.POINTER(Attribute)), ("num_attributes", ctypes.c_uint)]


class TensorMap(ctypes.Structure):
    _fields_ = [("opaque", ctypes.c_uint64 * 16)]


def encode(at, dims, pitches, box):
    """A tensor map of 16-bit elements with 128-byte swizzle: extents, bytes from one to the next of all but the first, extents of a box."""
    rank = len(dims)
    buffer = ctypes.create_string_buffer(128 + 64)
    place = (ctypes.addressof(buffer) + 63) // 64 * 64
    check(cu.cuTensorMapEncodeTiled(ctypes.c_void_p(place), 9, rank, ctypes.c_void_p(at), (ctypes.c_uint64 * rank)(*dims),
                                    (ctypes.c_uint64 * (rank - 1))(*pitches), (ctypes.c_uint32 * rank)(*box), (ctypes.c_uint32 * rank)(*[1] * rank), 0, 3, 3, 0),
          "cuTensorMapEncodeTiled")
    return ctypes.string_at(place, 128)


def tensor_map(t, box_rows, box_steps, halves=1):
    """As src/tensor_map.rs: boxes of a matrix as [steps of 64 columns][halves][rows][64 columns]."""
    rows, cols = t.shape[0] // halves, t.shape[1]
    return TensorMap.from_buffer_copy(encode(t.data_ptr(), [64, rows, halves, cols // 64], [2 * cols, 2 * cols * rows, 128], [64, box_rows, halves, box_steps]))


def range_map(t, box_rows, box_steps, halves, length, ranges):
    """Likewise: [steps of a range][ranges of `length` columns][halves][rows][64 columns], all of up to 8 ranges in a box."""
    rows, cols = t.shape[0] // halves, t.shape[1]
    return encode(t.data_ptr(), [64, rows, halves, ranges, length // 64], [2 * cols, 2 * cols * rows, 2 * length, 128], [64, box_rows, halves, 8, box_steps])


class Module:
    def __init__(self, name, defines=()):
        begin = time.time()
        cubin, log = nvrtc.compile_kernel(name, ARCH, defines)
        self.seconds = time.time() - begin
        self.spilled = sum(r[2] for r in nvrtc.resources(log))
        self.handle, self.cubin, self.functions, self.shared = ctypes.c_void_p(), cubin, {}, {}
        check(cu.cuModuleLoadData(ctypes.byref(self.handle), cubin), "cuModuleLoadData " + name)

    def function(self, name, shared):
        if name not in self.functions:
            f = ctypes.c_void_p()
            check(cu.cuModuleGetFunction(ctypes.byref(f), self.handle, name.encode()), "no kernel " + name)
            self.functions[name] = f
        if shared > self.shared.get(name, 48 * 1024):
            check(cu.cuFuncSetAttribute(self.functions[name], 8, shared), f"{name}: {shared} bytes of shared memory")
            self.shared[name] = shared
        return self.functions[name]

    def blocks_per_sm(self, name, block, shared):
        n = ctypes.c_int()
        check(cu.cuOccupancyMaxActiveBlocksPerMultiprocessor(ctypes.byref(n), self.function(name, shared), block,
                                                             ctypes.c_size_t(shared)), "occupancy")
        return n.value

    def launch(self, name, grid, block, shared, args, pdl=False):
        values = []
        for a in args:
            if isinstance(a, torch.Tensor):
                values.append(ctypes.c_void_p(a.data_ptr()))
            elif a is None:
                values.append(ctypes.c_void_p(0))
            elif isinstance(a, float):
                values.append(ctypes.c_float(a))
            elif isinstance(a, int):
                values.append(ctypes.c_int(a))
            else:
                values.append(a)
        pointers = (ctypes.c_void_p * len(values))(*[ctypes.addressof(v) for v in values])
        grid = (tuple(grid) if isinstance(grid, (tuple, list)) else (grid,)) + (1, 1)
        attributes = (Attribute * 1)(Attribute(6, b"", (ctypes.c_int * 16)(1)))
        config = Config((ctypes.c_uint * 3)(*grid[:3]), (ctypes.c_uint * 3)(block, 1, 1), shared,
                        torch.cuda.current_stream().cuda_stream, attributes, 1 if pdl else 0)
        check(cu.cuLaunchKernelEx(ctypes.byref(config), self.function(name, shared), pointers, None), "launch " + name)


def time_graph(run, count, repeats=15):
    """Median and least microseconds of one of the `count` calls that `run()` makes, by replays of a captured graph."""
    run()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        run()
    for _ in range(2):
        graph.replay()
    times = []
    for _ in range(repeats):
        a, b = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        a.record()
        graph.replay()
        b.record()
        b.synchronize()
        times.append(a.elapsed_time(b) * 1e3 / count)
    return statistics.median(times), min(times)


class Records:
    """Raw JSON lines to $OUT, a short table to stdout at the end."""

    def __init__(self, name):
        os.makedirs(OUT, exist_ok=True)
        self.file, self.table, self.failures = open(os.path.join(OUT, name + ".jsonl"), "w"), [], 0

    def add(self, row=None, **record):
        self.file.write(json.dumps(record) + "\n")
        self.file.flush()
        if row:
            self.table.append(row)

    def expect(self, ok, what, **record):
        self.add(check=what, ok=bool(ok), **record)
        if not ok:
            self.failures += 1
            if self.failures <= 25:
                print("FAILED", what, record, flush=True)

    def close(self):
        print("\n".join(self.table))
        print("checks failed:", self.failures, flush=True)


def ceilings(records):
    """Measured: bytes a second of a large copy (read and written), FLOP/s of an 8192^3 matrix product."""
    a = torch.randn(1 << 29, device="cuda").bfloat16()
    b = torch.empty_like(a)
    us = time_graph(lambda: torch.neg(a, out=b), 1)[0]   # a kernel: in a graph, a plain copy goes to the copy engine
    bandwidth = 2 * a.numel() * 2 / us * 1e6
    x, w = (torch.randn(8192, 8192, device="cuda", dtype=torch.bfloat16) for _ in range(2))
    us = time_graph(lambda: torch.matmul(x, w.t()), 1)[0]
    rate = 2 * 8192**3 / us * 1e6
    records.add(f"copy {bandwidth/1e9:.0f} GB/s, torch matmul {rate/1e12:.0f} TFLOP/s", device=PROPERTIES.name, sms=SMS,
                copy_bytes_per_s=bandwidth, matmul_flop_per_s=rate)
    return bandwidth, rate


def relative_error(out, reference):
    out, reference = out.double(), reference.double()
    return ((out - reference).norm() / reference.norm().clamp_min(1e-30)).item()
