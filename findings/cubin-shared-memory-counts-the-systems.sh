#!/usr/bin/env bash
# NVRTC 13.0.88: in a cubin for sm_90 and later the section .nv.shared.KERNEL is 1,024 bytes larger than the kernel's
# static shared memory, the part that the system keeps of every block on those devices. For sm_80 and sm_89 it is the
# kernel's alone, and `ptxas -v` says the kernel's alone for all. Who reads a kernel's static shared memory from the
# file, to count how many blocks a multiprocessor holds, takes the difference off, or counts it twice.
#
# Needs Python and pip, no GPU. Ends well if the sizes are those that were seen.
set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
python3 -m venv "$dir/venv"
"$dir/venv/bin/pip" install --quiet nvidia-cuda-nvrtc==13.0.88
cat >"$dir/sizes.py" <<'PY'
import ctypes, glob, re, struct, sys

root = glob.glob(sys.prefix + "/lib/python*/site-packages/nvidia/*/lib/")[0]
for builtins in glob.glob(root + "libnvrtc-builtins.so.*"):
    ctypes.CDLL(builtins, mode=ctypes.RTLD_GLOBAL)
nvrtc = ctypes.CDLL(root + "libnvrtc.so.13")
KERNEL = b"""extern "C" __global__ void kernel(float* x) {
  __shared__ float values[100];
  values[threadIdx.x % 100] = x[threadIdx.x];
  __syncthreads();
  x[threadIdx.x] = values[(threadIdx.x + 1) % 100];
}"""


def text(size_of, get, program):
    size = ctypes.c_size_t()
    size_of(program, ctypes.byref(size))
    out = ctypes.create_string_buffer(size.value)
    get(program, out)
    return out.raw


def sections(elf):
    at, = struct.unpack_from("<Q", elf, 40)
    each, num, names = struct.unpack_from("<HHH", elf, 58)
    headers = [struct.unpack_from("<IIQQQQ", elf, at + i * each) for i in range(num)]
    name = lambda h: elf[headers[names][4] + h[0]:].split(b"\0", 1)[0].decode()
    return {name(h): h[5] for h in headers}


for arch in ("sm_80", "sm_89", "sm_90", "sm_100", "sm_120"):
    program = ctypes.c_void_p()
    nvrtc.nvrtcCreateProgram(ctypes.byref(program), KERNEL, b"kernel.cu", 0, None, None)
    options = (ctypes.c_char_p * 2)(f"--gpu-architecture={arch}".encode(), b"--ptxas-options=-v")
    assert nvrtc.nvrtcCompileProgram(program, 2, options) == 0
    log = text(nvrtc.nvrtcGetProgramLogSize, nvrtc.nvrtcGetProgramLog, program).decode()
    size = sections(text(nvrtc.nvrtcGetCUBINSize, nvrtc.nvrtcGetCUBIN, program))[".nv.shared.kernel"]
    said = re.search(r"(\d+) bytes smem", log)[1]
    print(f"{arch}: the section has {size} bytes, ptxas says {said}")
PY
seen=$("$dir/venv/bin/python" "$dir/sizes.py")
echo "$seen"
[ "$seen" = "sm_80: the section has 400 bytes, ptxas says 400
sm_89: the section has 400 bytes, ptxas says 400
sm_90: the section has 1424 bytes, ptxas says 400
sm_100: the section has 1424 bytes, ptxas says 400
sm_120: the section has 1424 bytes, ptxas says 400" ]
