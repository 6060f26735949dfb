#!/usr/bin/env python3
"""Whole calls: voice-to-voice times and memory, measured on a daemon of this build with each model pack.

Enters: the executables, benches/questions.toml, sipp. Leaves: benches/results/calls.json. Times are those of
`callbox dial`, read off the caller's own two streams; memory is what /proc says is resident.
"""
import argparse
import contextlib
import json
import math
import os
import pathlib
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request

ROOT = pathlib.Path(__file__).resolve().parent.parent
IDLE_CALLS = 50


def free_port(kind: int) -> int:
    with socket.socket(socket.AF_INET, kind) as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def resident_kib(pid: int) -> int:
    for line in pathlib.Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1])
    raise RuntimeError(f"{pid} has no resident memory")


def children(pid: int) -> list[int]:
    return [int(child) for task in pathlib.Path(f"/proc/{pid}/task").iterdir() for child in (task / "children").read_text().split()]


@contextlib.contextmanager
def daemon(binaries: pathlib.Path, pack: str, agents: pathlib.Path = ROOT / "config/agents"):
    """A ready callboxd on loopback: its process, its SIP port and its configuration."""
    models, cache = os.environ["CALLBOX_MODELS"], os.environ["CALLBOX_CACHE"]
    with tempfile.TemporaryDirectory() as folder:
        sip, http = free_port(socket.SOCK_DGRAM), free_port(socket.SOCK_STREAM)
        config = pathlib.Path(folder) / "callbox.toml"
        config.write_text(
            f'[sip]\nudp = ["127.0.0.1:{sip}"]\ntcp = []\n'
            f"[sip.limits]\nmax_calls = 400\ninvites_per_second = 1000\nburst = 1000\nunacked = 400\n"
            f'[media]\nbind = "127.0.0.1"\n'
            f'[http]\nlisten = "127.0.0.1:{http}"\nsocket = "{folder}/control.sock"\n'
            f'[engine]\nrun = "{folder}"\n'
            f'[models]\ndir = "{models}"\npack = "{pack}"\ncache = "{cache}/weights"\n'
            f'[storage]\npath = "{folder}/callbox.db"\n'
            f'[log]\nlevel = "info"\nformat = "json"\n'
            f'[agents]\npaths = ["{agents}"]\n'
        )
        pathlib.Path(cache, "weights").mkdir(parents=True, exist_ok=True)
        with open(pathlib.Path(folder) / "log", "wb") as log:
            process = subprocess.Popen([binaries / "callboxd", "--config", config], stdout=log, stderr=log)
        try:
            for _ in range(600):
                with contextlib.suppress(urllib.error.URLError, OSError):
                    urllib.request.urlopen(f"http://127.0.0.1:{http}/health/ready", timeout=2)
                    break
                if process.poll() is not None:
                    sys.exit(f"callboxd ended: {(pathlib.Path(folder) / 'log').read_text()[-2000:]}")
                time.sleep(0.2)
            else:
                sys.exit("callboxd did not become ready in two minutes")
            yield process, sip, config
        finally:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()


def voice_to_voice(binaries: pathlib.Path, sip: int, config: pathlib.Path, calls: int) -> dict:
    """All turns of all calls but the greeting."""
    command = [binaries / "callbox", "dial", f"sip:frontdesk@127.0.0.1:{sip}", "--config", config, "--json"]
    command += ["--questions", ROOT / "benches/questions.toml", "--calls", str(calls)]
    output = subprocess.run(command, stdout=subprocess.PIPE, check=False).stdout
    seconds = sorted(milliseconds / 1000 for milliseconds in numbers(json.loads(output), "voice_to_voice_ms"))
    if len(seconds) < 20 * calls:
        sys.exit(f"{calls} calls with 20 questions each had {len(seconds)} answers")
    # The nearest rank, as `callbox dial` has it.
    quantile = lambda share: round(seconds[max(math.ceil(len(seconds) * share), 1) - 1], 3)
    return {"answers": len(seconds), "p50_s": quantile(0.5), "p95_s": quantile(0.95), "worst_s": round(seconds[-1], 3)}


def numbers(value, key: str) -> list[float]:
    if isinstance(value, dict):
        own = [value[key]] if isinstance(value.get(key), (int, float)) else []
        return own + [number for inner in value.values() for number in numbers(inner, key)]
    if isinstance(value, list):
        return [number for inner in value for number in numbers(inner, key)]
    return []


def memory(pid: int, sip: int) -> dict:
    """The daemon with no call, and with calls that only listen; its engine."""
    def sipp(calls: int, seconds: int) -> subprocess.Popen:
        arguments = f"-i 127.0.0.1 -p {free_port(socket.SOCK_DGRAM)} -s frontdesk -key caller bench -key audio_port 9 -nostdin"
        arguments += f" -m {calls} -l {calls} -r 25 -d {seconds * 1000}"
        command = ["sipp", "-sf", ROOT / "tests/peers/call.xml", f"127.0.0.1:{sip}", *arguments.split()]
        return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    idle = resident_kib(pid)
    # The first round pays for what stays; the second one shows what a call costs.
    sipp(IDLE_CALLS, 2).wait(60)
    time.sleep(3)
    before = resident_kib(pid)
    calls = sipp(IDLE_CALLS, 12)
    time.sleep(8)
    during = resident_kib(pid)
    calls.wait(60)
    engines = [resident_kib(child) for child in children(pid)]
    return {
        "daemon_idle_mb": round(idle * 1024 / 1e6, 1),
        "daemon_call_kb": round(max(0, during - before) * 1024 / 1e3 / IDLE_CALLS, 1),
        "engine_gb": round(max(engines) * 1024 / 1e9, 3),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bin", type=pathlib.Path, required=True, help="folder of the executables")
    parser.add_argument("--out", type=pathlib.Path, required=True)
    arguments = parser.parse_args()

    result = {}
    for pack, sizes in (("tiny", {"one": 1, "three": 3}), ("starter", {"one": 1})):
        with daemon(arguments.bin, pack) as (process, sip, config):
            time.sleep(2)
            result[pack] = memory(process.pid, sip)
            for name, calls in sizes.items():
                result[pack][name] = voice_to_voice(arguments.bin, sip, config, calls)
    text = json.dumps(result, indent=2)
    print(text)
    arguments.out.write_text(text + "\n")


if __name__ == "__main__":
    main()
