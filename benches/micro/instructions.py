#!/usr/bin/env python3
"""Counts the instructions of the steps of a request, and compares them with those in instructions.txt.

    benches/micro/instructions.py            fails (1) when a step takes over 5 % more than it did
    benches/micro/instructions.py --accept   writes what it counts into instructions.txt

callgrind counts the same whatever else the machine does, also within filters: wasmtime runs under it. What comes by the clock and not with a
step, as the allocator's handing memory back, is left out by counting three times and taking the least. The counts depend on the compiler, so they belong to the one of rust-toolchain.toml, and a little on which vector instructions the processor has; a new one, or a change that is worth its cost, is accepted in the same commit. Needs valgrind."""
import json, pathlib, re, shutil, subprocess, sys, tempfile

HERE = pathlib.Path(__file__).resolve().parent
BASELINE = HERE / "instructions.txt"
TIMES = 100
ROUNDS = 3
MORE = 1.05
# Counts below this move by more than 5 % for nothing.
SMALL = 400


def binary():
    """Builds the benchmark and answers its path."""
    build = ["cargo", "build", "--release", "--locked", "--bench", "instructions", "--message-format", "json-render-diagnostics"]
    out = subprocess.run(build, cwd=HERE, stdout=subprocess.PIPE, text=True)
    if out.returncode:
        sys.exit(1)
    built = [json.loads(line) for line in out.stdout.splitlines()]
    return next(one["executable"] for one in built if one["reason"] == "compiler-artifact" and one["target"]["name"] == "instructions")


def count(program, folder):
    """The instructions of each step. Its counts are dumped at the end of the function that does it, and were set to nothing at its beginning."""
    cache = pathlib.Path(folder, "cache")
    # Compiled once without callgrind, under which compiling takes minutes.
    subprocess.run([program, "1", cache], stdout=subprocess.DEVNULL, check=True)
    step = "sluice_counted_step"
    command = ["valgrind", "--tool=callgrind", f"--callgrind-out-file={folder}/counts", f"--zero-before={step}", f"--dump-after={step}",
               "--separate-threads=yes", program, str(TIMES), cache, str(ROUNDS)]
    run = subprocess.run(command, capture_output=True, text=True)
    if run.returncode:
        sys.exit(f"the benchmark failed under callgrind:\n{run.stdout}{run.stderr[-4000:]}")
    counts = {}
    for number, name in enumerate(run.stdout.splitlines()):
        # The main thread's: what the runtime's other threads do has nothing to do with the step.
        dumps = [pathlib.Path(folder, f"counts.{number * ROUNDS + round}-01").read_text() for round in range(1, ROUNDS + 1)]
        counts[name] = min(int(re.search(r"^totals: (\d+)", dump, re.M)[1]) for dump in dumps) // TIMES
    return counts


def main():
    if not shutil.which("valgrind"):
        sys.exit("valgrind is needed: it is a package of that name")
    program = binary()
    with tempfile.TemporaryDirectory() as folder:
        counts = count(program, folder)
    if "--accept" in sys.argv[1:]:
        BASELINE.write_text("".join(f"{number:>8}  {name}\n" for name, number in counts.items()))
    before = {}
    for line in BASELINE.read_text().splitlines() if BASELINE.exists() else []:
        number, name = line.split(maxsplit=1)
        before[name] = int(number)
    worse = [name for name in before if name not in counts]
    print(f"{'instructions':>12} {'before':>8} {'change':>7}  step")
    for name, number in counts.items():
        was = before.get(name)
        change = f"{100 * (number / was - 1):+.1f}%" if was else "new"
        print(f"{number:>12} {was or '':>8} {change:>7}  {name}")
        if was is None or number > max(was, SMALL) * MORE:
            worse.append(name)
    if worse:
        print("\ncosts more than 5 % more, is new, or is gone: " + ", ".join(worse) + "\nIf it is worth that: benches/micro/instructions.py --accept")
        sys.exit(1)


main()
