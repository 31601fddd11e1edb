"""What the scripts beside this file share: packages, processes that end with a block, workers."""

import contextlib
import re
import socket
import subprocess
import sys
import time
import urllib.request


def interpreter(venvs, package):
    """The Python of the virtual environment that has a package, given as NAME==VERSION, which is made
    if it is not there."""
    directory = venvs / package.split("==")[0]
    python = directory / "bin" / "python"
    if not python.exists():
        subprocess.run([sys.executable, "-m", "venv", directory], check=True)
        subprocess.run([python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", package],
                       check=True)
    return str(python)


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def get(url):
    with urllib.request.urlopen(url, timeout=10) as answer:
        return answer.read().decode()


def wait_for(holds, seconds, what):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        with contextlib.suppress(OSError):
            if holds():
                return
        time.sleep(0.1)
    raise TimeoutError(f"not in {seconds} seconds: {what}")


class Child:
    """A process, its output in a file if one is given, ended with the block."""

    def __init__(self, command, log=None):
        self.log = log
        output = {"stdout": log.open("wb"), "stderr": subprocess.STDOUT} if log else {}
        self.process = subprocess.Popen(command, **output)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(20)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()


class Worker(Child):
    def __init__(self, binary, log, port="0"):
        super().__init__([binary, "serve", "--port", port, "--backend", "cpu", "--threads", "1"], log)

    def ready(self):
        wait_for(lambda: "\nserving " in self.log.read_text(), 60, "a worker serves")
        self.url = re.search(r"\nserving \S+ on (\S+)", self.log.read_text())[1]

    def metric(self, name, labels=""):
        lines = [line for line in get(f"{self.url}/metrics").splitlines()
                 if line.startswith(f"nvllm:{name}{{") and labels in line]
        return sum(float(line.split()[-1]) for line in lines)

    def completed(self):
        return self.metric("http_requests_total", 'handler="/v1/chat/completions"')
