#!/usr/bin/env python3
"""Ends a worker behind vllm-router and behind sglang-router, and checks that no client notices.

    routers.py path/to/nvllm [--venvs DIR] [--router NAME] [--flags="FLAGS OF THE ROUTER"]

Two workers with the demo model stand behind each router. Some streams run, and short requests come
all the time, when one of the workers that stream gets SIGTERM. Its streams must end normally, short
requests must go to the other worker. It is started again, and the other one is ended. Nobody may
see an error, and each worker must end with exit code 0. --flags replaces those of `FLAGS` below. Needs PyPI, unless DIR has the virtual environments of an
earlier run. Prints a line for each case, and exits with an error if one
failed.
"""

import argparse
import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
import venv
from collections import Counter
from itertools import count
from pathlib import Path

PACKAGES = {"vllm-router": "vllm-router==0.1.17", "sglang-router": "sglang-router==0.3.2", "openai": "openai==3.54.0"}
MODULES = {"vllm-router": "vllm_router.launch_router", "sglang-router": "sglang_router.launch_router"}
# A worker that drains says 503 to a health check at /health/ready, and 200 at /health: without the
# first flag a router sends to it until it is gone. docs/clients.md says what the others are for.
HEALTH = ["--health-check-endpoint", "/health/ready", "--health-check-interval-secs", "1",
          "--health-failure-threshold", "1", "--health-success-threshold", "1"]
FLAGS = {"vllm-router": ["--policy", "round_robin", *HEALTH], "sglang-router": ["--policy", "round_robin", *HEALTH]}
STREAMS, TOKENS = 6, 1500


def interpreter(venvs, name):
    """The Python of the virtual environment that has the package, which is made if it is not there."""
    python = venvs / name / "bin" / "python"
    if not python.exists():
        venv.create(venvs / name, with_pip=True)
        subprocess.run([python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", PACKAGES[name]],
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
    """A process with its output in a file, ended with the block."""

    def __init__(self, command, log):
        self.log = log
        self.process = subprocess.Popen(command, stdout=log.open("wb"), stderr=subprocess.STDOUT)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(10)
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


def chat(content, **fields):
    return {"model": "nvllm-tiny", "messages": [{"role": "user", "content": content}], "temperature": 0, **fields}


def raw_stream(base, number, said):
    """One long stream, read as it comes; what is wrong with it, or None."""
    body = chat(f"Tell me story {number}.", stream=True, max_tokens=TOKENS, ignore_eos=True,
                stream_options={"include_usage": True})
    request = urllib.request.Request(f"{base}/v1/chat/completions", json.dumps(body).encode(),
                                     {"Content-Type": "application/json"})
    finished, tokens, lines = None, None, []
    try:
        with urllib.request.urlopen(request, timeout=120) as answer:
            for line in answer:
                line = line.decode().strip()
                if not line:
                    continue
                lines.append(line)
                if line.startswith("data: {"):
                    chunk = json.loads(line[6:])
                    for choice in chunk["choices"]:
                        finished = choice["finish_reason"] or finished
                    tokens = (chunk.get("usage") or {}).get("completion_tokens", tokens)
        right = (finished, tokens, lines[-1]) == ("length", TOKENS, "data: [DONE]")
        said[number] = None if right else f"{finished} after {tokens} tokens, the end is {lines[-1][:200]}"
    except Exception as error:  # Whatever it is, it is what the client sees.
        said[number] = f"{len(lines)} lines, then {error!r}"


class ShortRequests(threading.Thread):
    """Short requests one after the other, whole and streamed in turn, by OpenAI's SDK."""

    def __init__(self, base):
        import openai
        super().__init__(daemon=True)
        self.client = openai.OpenAI(base_url=f"{base}/v1", api_key="none", max_retries=0, timeout=60)
        self.good, self.errors, self.ends, self.slowest = 0, Counter(), threading.Event(), 0.0

    def run(self):
        number = 0
        while not self.ends.is_set():
            number, begun = number + 1, time.monotonic()
            asked = chat(f"What is {number}?", max_tokens=4)
            try:
                if number % 2:
                    assert self.client.chat.completions.create(**asked).choices[0].finish_reason
                else:
                    chunks = list(self.client.chat.completions.create(**asked, stream=True))
                    assert chunks[-1].choices[0].finish_reason
                self.good += 1
            except Exception as error:
                self.errors[f"{type(error).__name__}: {error}"[:300]] += 1
            self.slowest = max(self.slowest, time.monotonic() - begun)
            time.sleep(0.02)


def served_by(base, workers):
    """Waits until each of the workers has answered a request through the router."""
    numbers = count(1)

    def all_answered():
        body = json.dumps(chat(f"Hello, I am {next(numbers)}.", max_tokens=1)).encode()
        request = urllib.request.Request(f"{base}/v1/chat/completions", body, {"Content-Type": "application/json"})
        urllib.request.urlopen(request, timeout=10).close()
        return all(worker.completed() for worker in workers)
    wait_for(all_answered, 90, "the router sends to each worker")


def end(worker, staying, short):
    """Sends SIGTERM to a worker while short requests come, and yields the cases of that."""
    running, log = worker.metric("num_requests_running"), worker.log.read_text()
    before, good_before = staying.completed(), short.good
    worker.process.send_signal(signal.SIGTERM)
    told = time.monotonic()
    worker.process.wait(120)
    took, good_then = time.monotonic() - told, short.good
    yield "the_worker_exits_with_0", worker.process.returncode or None
    wait_for(lambda: short.good >= good_then + 40, 60, f"short requests are answered; errors: {short.errors}")
    good = short.good - good_before
    # One may have been under way on the worker that ended.
    few = staying.completed() - before < good - 1
    yield "new_requests_go_to_the_other", "it answered too few" if few else None
    refused = worker.log.read_text()[len(log):].count("status=503")
    print(f"   {running:.0f} ran at SIGTERM, it ended after {took:.1f} s and refused {refused}; {good} short ones went well")


def rolling_restart(binary, python, name, flags, logs):
    """The cases of one router: yields (case, what is wrong or None)."""
    with contextlib.ExitStack() as stack:
        workers = [stack.enter_context(Worker(binary, logs / f"{name}-worker{i}")) for i in range(2)]
        for worker in workers:
            worker.ready()
        base = f"http://127.0.0.1:{(port := free_port())}"
        command = [python, "-m", MODULES[name], "--host", "127.0.0.1", "--port", str(port),
                   "--prometheus-port", str(free_port()),
                   "--worker-urls", *(worker.url for worker in workers), *flags]
        stack.enter_context(Child(command, logs / name))
        served_by(base, workers)
        yield "both_workers_serve", None

        said = {}
        streams = [threading.Thread(target=raw_stream, args=(base, number, said), daemon=True)
                   for number in range(STREAMS)]
        for stream in streams:
            stream.start()
        wait_for(lambda: all(worker.metric("num_requests_running") >= 2 for worker in workers), 20,
                 "both workers stream")
        short = ShortRequests(base)
        short.start()
        wait_for(lambda: short.good >= 10, 60, f"short requests are answered; errors: {short.errors}")
        first, second = workers
        yield from end(first, second, short)
        for stream in streams:
            stream.join(120)
        wrong = [text for text in said.values() if text]
        yield "its_streams_end_normally", wrong or (None if len(said) == STREAMS else "some never end")

        again = stack.enter_context(Worker(binary, logs / f"{name}-worker2", first.url.rsplit(":")[-1]))
        again.ready()
        served_by(base, [again])
        yield "a_restarted_worker_serves", None
        # This one has short requests at most, so it is gone before the router can ask for its health.
        yield from end(second, again, short)
        short.ends.set()
        short.join(60)
        print(f"   the slowest short request took {short.slowest:.2f} s")
        yield "no_client_sees_an_error", dict(short.errors) or None
        again.process.send_signal(signal.SIGTERM)
        yield "the_last_exits_with_0", again.process.wait(60) or None


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("binary", type=os.path.abspath)
    parser.add_argument("--venvs", type=Path)
    parser.add_argument("--router", choices=sorted(MODULES), action="append")
    parser.add_argument("--flags", type=str.split)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        scratch = Path(scratch)
        venvs = (options.venvs or scratch / "venvs").absolute()
        client = interpreter(venvs, "openai")
        if Path(sys.prefix) != venvs / "openai":
            again = [client, __file__, *sys.argv[1:]]
            if not options.venvs:
                again += ["--venvs", str(venvs)]
            sys.exit(subprocess.run(again).returncode)
        failed = 0
        for name in options.router or MODULES:
            python = interpreter(venvs, name)
            flags = options.flags or FLAGS[name]
            print(f"{PACKAGES[name]} {' '.join(flags)}", flush=True)
            for case, wrong in rolling_restart(options.binary, python, name, flags, scratch):
                failed += wrong is not None
                print(f"ok {case}" if wrong is None else f"FAILED {case}: {wrong}", flush=True)
    sys.exit(failed > 0)


if __name__ == "__main__":
    main()
