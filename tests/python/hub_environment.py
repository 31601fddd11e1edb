"""Records what huggingface_hub makes of environment variables, in tests/golden/hub_environment.json.

    pip install huggingface_hub==2.4.0
    python tests/python/hub_environment.py

Each row is a set of variables and files in a fresh home directory (`{home}`), read by a process of its own. The test in
crates/nvllm/src/environment.rs sets the same up and must come to the same.
"""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import huggingface_hub

READ = """
import json
from huggingface_hub import constants
from huggingface_hub.utils._headers import get_token_to_send
print(json.dumps({
    "cache_dir": constants.HF_HUB_CACHE,
    "endpoint": constants.ENDPOINT,
    "offline": constants.HF_HUB_OFFLINE,
    "token": get_token_to_send(None),
    "etag_timeout": constants.HF_HUB_ETAG_TIMEOUT,
    "download_timeout": constants.HF_HUB_DOWNLOAD_TIMEOUT,
}))
"""

TOKEN_FILE = "{home}/.cache/huggingface/token"
ROWS = [
    ({}, {}),
    ({"HF_HOME": "{home}/hf"}, {}),
    ({"HF_HOME": "~/hf"}, {}),
    ({"HF_HOME": "$HOME/x/$NO_SUCH_VARIABLE"}, {}),
    ({"HF_HOME": "${HOME}/hf"}, {}),
    ({"XDG_CACHE_HOME": "{home}/xdg"}, {}),
    ({"XDG_CACHE_HOME": "{home}/xdg", "HF_HOME": "{home}/hf"}, {}),
    ({"HF_HUB_CACHE": "{home}/cache", "HF_HOME": "{home}/hf"}, {}),
    ({"HF_HUB_CACHE": "~/cache"}, {}),
    ({"HUGGINGFACE_HUB_CACHE": "{home}/old"}, {}),
    ({"HUGGINGFACE_HUB_CACHE": "~/old"}, {}),
    ({"HF_HUB_CACHE": "{home}/new", "HUGGINGFACE_HUB_CACHE": "{home}/old"}, {}),
    ({"HF_ENDPOINT": "https://hub.example/"}, {}),
    *[({"HF_HUB_OFFLINE": value}, {}) for value in ["1", "ON", "on", "Yes", "true", "TRUE", "0", "no", "off", "2", "y", ""]],
    ({"TRANSFORMERS_OFFLINE": "1"}, {}),
    ({"TRANSFORMERS_OFFLINE": "0"}, {}),
    ({"TRANSFORMERS_OFFLINE": "1", "HF_HUB_OFFLINE": "0"}, {}),
    ({"TRANSFORMERS_OFFLINE": "1", "HF_HUB_OFFLINE": ""}, {}),
    ({"HF_TOKEN": "hf_a"}, {}),
    ({"HF_TOKEN": " hf_a\n"}, {}),
    ({"HUGGING_FACE_HUB_TOKEN": "hf_b"}, {}),
    ({"HF_TOKEN": "hf_a", "HUGGING_FACE_HUB_TOKEN": "hf_b"}, {}),
    ({"HF_TOKEN": "", "HUGGING_FACE_HUB_TOKEN": "hf_b"}, {}),
    ({}, {TOKEN_FILE: "hf_file\n"}),
    ({"HF_TOKEN": "hf_a"}, {TOKEN_FILE: "hf_file"}),
    ({"HF_TOKEN": " "}, {TOKEN_FILE: "hf_file"}),
    ({}, {TOKEN_FILE: "\n"}),
    ({"HF_HOME": "{home}/hf"}, {TOKEN_FILE: "hf_other", "{home}/hf/token": "hf_file"}),
    ({"HF_TOKEN_PATH": "{home}/secret"}, {TOKEN_FILE: "hf_other", "{home}/secret": "hf_file"}),
    ({"HF_TOKEN_PATH": "~/secret"}, {"{home}/secret": "hf_file"}),
    ({"HF_HUB_CACHE": "{home}/cache"}, {TOKEN_FILE: "hf_file"}),
    ({"HF_HUB_DISABLE_IMPLICIT_TOKEN": "1"}, {TOKEN_FILE: "hf_file"}),
    ({"HF_HUB_DISABLE_IMPLICIT_TOKEN": "1", "HF_TOKEN": "hf_a"}, {}),
    ({"HF_HUB_DISABLE_IMPLICIT_TOKEN": "0", "HF_TOKEN": "hf_a"}, {}),
    ({"HF_HUB_ETAG_TIMEOUT": "3", "HF_HUB_DOWNLOAD_TIMEOUT": "120"}, {}),
    ({"HF_HUB_ETAG_TIMEOUT": "0", "HF_HUB_DOWNLOAD_TIMEOUT": " 7 "}, {}),
]


def record(env, files):
    with tempfile.TemporaryDirectory() as home:
        place = lambda text: text.replace("{home}", home)
        for name, content in files.items():
            path = Path(place(name))
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(content)
        variables = {name: place(value) for name, value in env.items()}
        variables |= {"HOME": home, "PATH": os.environ["PATH"]}
        out = subprocess.run([sys.executable, "-c", READ], env=variables, capture_output=True, text=True, check=True)
        read = json.loads(out.stdout.replace(home, "{home}"))
    return {"env": env, "files": files, "read": read}


if __name__ == "__main__":
    rows = [record(env, files) for env, files in ROWS]
    lines = ",\n".join("    " + json.dumps(row) for row in rows)
    text = f'{{\n  "huggingface_hub": "{huggingface_hub.__version__}",\n  "rows": [\n{lines}\n  ]\n}}\n'
    Path(__file__).parents[1].joinpath("golden/hub_environment.json").write_text(text)
