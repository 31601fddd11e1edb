#!/usr/bin/env bash
# safetensors 0.8.0: `save_file` to a path that is a symbolic link replaces the link by a new file and leaves the file it
# pointed to as it was; the new file is readable by its owner alone, whatever the umask. Output that is to go through a
# link, or to be read by others, needs `save` and a write of one's own.
#
# Seen: `is_link False target b'old' mode 0o600`.
set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
python3 -m venv "$dir/venv"
"$dir/venv/bin/pip" install --quiet --disable-pip-version-check safetensors==0.8.0 numpy
seen=$(cd "$dir" && umask 022 && "$dir/venv/bin/python" - <<'PY'
import os

import numpy
from safetensors.numpy import save_file

with open("target", "wb") as file:
    file.write(b"old")
os.symlink("target", "link")
save_file({"x": numpy.zeros(2, dtype=numpy.float32)}, "link")
with open("target", "rb") as file:
    content = file.read()
print("is_link", os.path.islink("link"), "target", content, "mode", oct(os.stat("link").st_mode & 0o777))
PY
)
echo "$seen"
[ "$seen" = "is_link False target b'old' mode 0o600" ]
