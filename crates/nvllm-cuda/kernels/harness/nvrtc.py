"""NVRTC by ctypes: compiles a kernel file with its quoted includes. Needs no GPU and no CUDA header."""
import ctypes, glob, os, re, site, sys

KERNELS = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))


def library():
    names = [os.environ.get("NVLLM_NVRTC", ""), "libnvrtc.so.13", "libnvrtc.so"]
    roots = site.getsitepackages() + [p for p in sys.path if p.endswith("site-packages")]
    for root in roots:
        names += glob.glob(root + "/nvidia/*/lib/libnvrtc.so.*[0-9]")
    names += glob.glob("/usr/local/cuda*/lib64/libnvrtc.so.1?")
    for name in filter(None, names):
        try:
            for builtins in glob.glob(os.path.dirname(name) + "/libnvrtc-builtins.so.*") if "/" in name else ():
                ctypes.CDLL(builtins, mode=ctypes.RTLD_GLOBAL)
            return ctypes.CDLL(name)
        except OSError:
            continue
    raise SystemExit("NVRTC was not found; set NVLLM_NVRTC to libnvrtc.so.13")


def flatten(path, seen=None):
    """The file with its quoted includes (names, from any folder of kernels/) pasted in, each once."""
    seen = set() if seen is None else seen
    path = os.path.realpath(path)
    if path in seen:
        return ""
    seen.add(path)
    lines = []
    for line in open(path, encoding="utf-8"):
        found = re.match(r'#include "(.+)"', line)
        lines.append(flatten(glob.glob(f"{KERNELS}/*/{found[1]}")[0], seen) if found else line)
    return "".join(line for line in lines if "#pragma once" not in line)


def compile_kernel(name, arch, defines=()):
    """(cubin, log) of kernels/<name>; raises with the log on any error or spill."""
    lib = library()
    source = flatten(os.path.join(KERNELS, name)).encode()
    program = ctypes.c_void_p()
    lib.nvrtcCreateProgram(ctypes.byref(program), source, name.encode(), 0, None, None)
    options = [f"--gpu-architecture={arch}", "--std=c++17", "-default-device", "-lineinfo", "--ptxas-options=-v"]
    options += [f"-D{d}" for d in defines]
    array = (ctypes.c_char_p * len(options))(*[o.encode() for o in options])
    failed = lib.nvrtcCompileProgram(program, len(options), array)
    size = ctypes.c_size_t()
    lib.nvrtcGetProgramLogSize(program, ctypes.byref(size))
    log = ctypes.create_string_buffer(size.value)
    lib.nvrtcGetProgramLog(program, log)
    log = log.value.decode()
    if failed:
        raise RuntimeError(f"{name} for {arch}:\n{log}")
    lib.nvrtcGetCUBINSize(program, ctypes.byref(size))
    cubin = ctypes.create_string_buffer(size.value)
    lib.nvrtcGetCUBIN(program, cubin)
    return cubin.raw, log


def resources(log):
    """[(kernel, registers, spilled bytes, static shared bytes)] from ptxas' report."""
    found, kernel, spill = [], None, 0
    for line in log.splitlines():
        if match := re.search(r"Compiling entry function '(\w+)'", line):
            kernel = match[1]
        if match := re.search(r"(\d+) bytes spill stores, (\d+) bytes spill loads", line):
            spill = int(match[1]) + int(match[2])
        if kernel and (match := re.search(r"Used (\d+) registers", line)):
            shared = re.search(r"(\d+) bytes smem", line)
            found.append((kernel, int(match[1]), spill, int(shared[1]) if shared else 0))
            kernel, spill = None, 0
    return found


ALL = ["linear/small_m.cu", "linear/mid_m.cu", "linear/tensor_core.cu", "linear/wgmma.cu", "linear/cluster_split.cu", "linear/coded_few.cu", "linear/coded_many.cu", "linear/coded_rows.cu",
       "attention/decode.cu", "attention/prefill.cu",
       "attention/work_list.cu", "qk_norm_rope_append/fused.cu", "rms_norm/fused.cu"]

HOPPER = ["wgmma.cu", "cluster_split.cu"]

if __name__ == "__main__":
    # python nvrtc.py [arch..] [file..]: compiles, prints registers; exit code 1 on a spill.
    arches = [a for a in sys.argv[1:] if a.startswith("sm_")] or ["sm_80", "sm_90a"]
    names = [a for a in sys.argv[1:] if a.endswith(".cu")] or [n for n in ALL if os.path.exists(os.path.join(KERNELS, n))]
    spilled = 0
    for name in names:
        for arch in arches:
            if name.split("/")[-1] in HOPPER and arch != "sm_90a":
                continue
            for kernel, registers, spill, shared in resources(compile_kernel(name, arch)[1]):
                print(f"{name:34} {arch:7} {kernel:36} {registers:4} registers {spill:5} spilled {shared:6} shared")
                spilled += spill
    sys.exit(spilled > 0)
