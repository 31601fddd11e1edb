"""Two builds of nvllm as whole processes, in turn: how soon a short answer is there, what it takes, and how fast a long one comes.

    python3 side_by_side.py --old PATH --new PATH --out FILE [--rounds N] [--model MODEL]

- short: `generate -n 2` on the demo model: seconds of the process, and the most memory that was resident.
- idle: tokens a second of 256 greedy tokens with the default threads, by the program's own closing line.
- busy: the same while a process of another session spins on every processor, as another user's would.
- shared: the same with the spinning processes in our own session; where the kernel schedules by session (autogroup) they then take turns
  with our threads one by one.

With --model, `short` alone, on that model: what opening and loading it take.

Rounds alternate the two builds. Each run is one line of FILE; medians and ratios are printed.
"""

import argparse
import json
import os
import re
import signal
import statistics
import subprocess
import sys
import tempfile
import time

SHORT = ["generate", "--seed", "1", "-n", "2", "Once upon a time"]
LONG = ["generate", "-n", "256", "--ignore-eos", "-t", "0", "Once upon a time"]


def run(binary, args):
    """Seconds, peak resident bytes, and what the process wrote to standard error."""
    with tempfile.TemporaryFile() as err:
        start = time.perf_counter()
        process = subprocess.Popen([binary, *args], stdout=subprocess.DEVNULL, stderr=err)
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - start
        err.seek(0)
        text = err.read().decode()
    if status != 0:
        sys.exit(f"{binary} {args}: status {status}: {text}")
    return seconds, usage.ru_maxrss * 1024, text


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--old", required=True)
    parser.add_argument("--new", required=True)
    parser.add_argument("--out", required=True)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--model")
    args = parser.parse_args()
    short = SHORT + (["-m", args.model] if args.model else [])
    builds = {"old": args.old, "new": args.new}
    figures = {}
    with open(args.out, "a") as out:
        def record(case, build, **values):
            line = {"case": case, "build": build, "processors": os.cpu_count(), "load": os.getloadavg()[0], **values}
            out.write(json.dumps(line) + "\n")
            for name, value in values.items():
                figures.setdefault((case, name), {}).setdefault(build, []).append(value)

        def rates(case):
            for _ in range(args.rounds):
                for build, binary in builds.items():
                    rate = re.search(r"([\d.]+) tok/s", run(binary, LONG)[2])
                    record(case, build, tokens_per_second=float(rate.group(1)))

        for binary in builds.values():
            run(binary, short)
        for _ in range(args.rounds):
            for build, binary in builds.items():
                seconds, resident, _ = run(binary, short)
                record("short", build, seconds=seconds, resident_bytes=resident)
        if not args.model:
            rates("idle")
        for case, session in () if args.model else (("busy", True), ("shared", False)):
            spin = "while :; do :; done & " * os.cpu_count() + "wait"
            spinning = subprocess.Popen(["sh", "-c", spin], start_new_session=session, process_group=None if session else 0)
            try:
                time.sleep(1)
                rates(case)
            finally:
                os.killpg(spinning.pid, signal.SIGKILL)
                spinning.wait()
    for (case, name), by_build in figures.items():
        old, new = (statistics.median(by_build[build]) for build in ("old", "new"))
        print(f"{case} {name}: old {old:.6g}, new {new:.6g}, new over old {new / old:.3f}")


if __name__ == "__main__":
    main()
