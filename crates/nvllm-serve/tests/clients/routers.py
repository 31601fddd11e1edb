#!/usr/bin/env python3
"""Ends a worker behind vllm-router and behind sglang-router, and checks that no client notices.

    routers.py path/to/nvllm [--venvs DIR] [--router NAME] [--flags="FLAGS OF THE ROUTER"]

Two workers with the demo model stand behind each router. Some streams run, and short requests come
all the time, when one of the workers that stream gets SIGTERM. Its streams must end normally, short
requests must go to the other worker. It is started again, and the other one is ended. Nobody may
see an error, and each worker must end with exit code 0. --flags replaces all those below.
Needs PyPI, unless DIR has the virtual environments of an earlier run. Prints a line for each case,
and exits with an error if one failed.
"""

import argparse
import contextlib
import os
import signal
import sys
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from itertools import count
from pathlib import Path

from processes import Child, Worker, free_port, interpreter, wait_for
from traffic import ShortRequests, begins_alone, chat, long_stream, post, whole_answer

PACKAGES = {"vllm-router": "vllm-router==0.1.17", "sglang-router": "sglang-router==0.3.2", "openai": "openai==3.54.0"}
MODULES = {"vllm-router": "vllm_router.launch_router", "sglang-router": "sglang_router.launch_router"}
# A worker that drains says 503 at /health/ready, and 200 at /health: a router that asks the latter
# sends to it until its circuit breaker opens. Until the router has asked, the worker refuses what it
# gets, and the router tries again; cache_aware may have it try the same worker. So the tries must take
# longer than the time from one health check to the next: the waits between five tries, 0.25 s and each
# 1.5 times the one before, are 2 s together. With the default, 0.05 s, they are 0.4 s.
DRAINING = ["--health-check-endpoint", "/health/ready", "--health-check-interval-secs", "1",
            "--health-failure-threshold", "1", "--health-success-threshold", "1", "--retry-initial-backoff-ms", "250"]
# Zero has cache_aware send to the less loaded worker, so that both have streams.
FLAGS = [["--policy", "round_robin", *DRAINING],
         ["--policy", "cache_aware", "--balance-abs-threshold", "0", *DRAINING]]
# Its circuit breaker counts requests that are wrong.
OWN_FLAGS = {"vllm-router": [], "sglang-router": ["--disable-circuit-breaker"]}
STREAMS, TOKENS = 6, 1500


def served_by(base, workers):
    """Waits until each of the workers has answered a request through the router."""
    numbers = count(1)

    def all_answered():
        # Four at once: cache_aware sends what comes alone to one and the same worker.
        with ThreadPoolExecutor(4) as pool:
            asked = [chat(begins_alone(next(numbers)), max_tokens=16) for _ in range(4)]
            for answer in pool.map(lambda body: post(base, body), asked):
                answer.close()
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
    lines = worker.log.read_text()[len(log):].splitlines()
    refused = sum("/chat/completions" in line and "status=503" in line for line in lines)
    print(f"   {running:.0f} ran at SIGTERM, it ended after {took:.1f} s and refused {refused}; "
          f"{good} short ones went well")


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
        streams = [threading.Thread(target=long_stream, args=(base, number, TOKENS, said), daemon=True)
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
        wrong = [text for text in said.values() if isinstance(text, list)]
        yield "its_streams_end_normally", wrong or (None if len(said) == STREAMS else "some never end")
        with ThreadPoolExecutor(STREAMS) as pool:
            alone = pool.map(lambda number: whole_answer(second.url, number, TOKENS), range(STREAMS))
        unlike = [number for number, text in enumerate(alone) if text != said.get(number)]
        yield "no_chunk_is_lost", unlike or None

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
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("ended by SIGTERM"))
    with tempfile.TemporaryDirectory() as scratch:
        scratch = Path(scratch)
        venvs = (options.venvs or scratch / "venvs").absolute()
        client = interpreter(venvs, PACKAGES["openai"])
        if Path(sys.prefix) != venvs / "openai":
            again = [client, __file__, *sys.argv[1:]]
            if not options.venvs:
                again += ["--venvs", str(venvs)]
            with Child(again) as other:
                sys.exit(other.process.wait())
        failed = 0
        for name in options.router or MODULES:
            python = interpreter(venvs, PACKAGES[name])
            default = [[*flags, *OWN_FLAGS[name]] for flags in FLAGS]
            for flags in [options.flags] if options.flags else default:
                print(f"{PACKAGES[name]} {' '.join(flags)}", flush=True)
                for case, wrong in rolling_restart(options.binary, python, name, flags, scratch):
                    failed += wrong is not None
                    print(f"ok {case}" if wrong is None else f"FAILED {case}: {wrong}", flush=True)
    sys.exit(failed > 0)


if __name__ == "__main__":
    main()
