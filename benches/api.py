#!/usr/bin/env python3
"""How long the control API takes for a page of 50 calls among a million, by what is looked for.

Enters: the executables of this build. Leaves: milliseconds as JSON. The database is made by
daemon/src/storage/schema.sql with seeded calls of a year: a few agents and reasons that are common and some that are
rare, so that a filter finds many, few or none. Pages begin anywhere in the list. The figure is the 95th percentile of the
slowest filter, as a client on the same machine sees it, over one connection per request.
"""
import argparse
import http.client
import json
import pathlib
import random
import socket
import sqlite3
import subprocess
import sys
import tempfile
import time
import urllib.parse

ROOT = pathlib.Path(__file__).resolve().parent.parent
YEAR_US = 365 * 86_400 * 1_000_000
BEGIN_US = 1_767_225_600_000_000
AGENTS = [("frontdesk", 700), ("sales", 200), ("support", 80), ("night", 19), ("trial", 1)]
REASONS = [("caller_hangup", 690), ("farewell", 250), ("transferred", 40), ("silence", 15), ("media_timeout", 4), ("no_ack", 1)]
SCRIPT = '[[answer]]\nheard = "is there a garden"\nsay = "There is."\n'
AGENT = 'name = "test"\nnumbers = ["*"]\npersona = "Kind."\ngreeting = "Hello."\ngoodbye = "Bye."\n'


def generate(path: pathlib.Path, calls: int) -> list[str]:
    """So many calls; some of their callers."""
    rng = random.Random(4711)
    callers = [f"+1{rng.randint(2_000_000_000, 9_999_999_999)}" for _ in range(calls // 20)]
    db = sqlite3.connect(path)
    db.execute("PRAGMA auto_vacuum = incremental")
    db.executescript((ROOT / "daemon/src/storage/schema.sql").read_text())
    db.execute(f"PRAGMA application_id = {0x43424F58}")
    db.execute(f"PRAGMA user_version = {len(list((ROOT / 'daemon/src/storage/upgrade').glob('v*.sql')))}")
    db.execute("PRAGMA journal_mode = wal")
    db.execute("PRAGMA synchronous = off")
    columns = [row[1] for row in db.execute("PRAGMA table_info(calls)")]
    [agents, agent_weights], [reasons, reason_weights] = zip(*AGENTS), zip(*REASONS)
    step = YEAR_US // calls
    for first in range(0, calls, 10_000):
        rows = []
        for number in range(first, min(first + 10_000, calls)):
            agent, = rng.choices(agents, agent_weights)
            reason, = rng.choices(reasons, reason_weights)
            # The agent on trial has never called anybody, and nobody was ever lost with it.
            outbound = agent != "trial" and rng.random() < 0.03
            started = BEGIN_US + number * step
            party = rng.choice(callers)
            caller, callee = ("100", party) if outbound else (party, "100")
            known = dict(id=f"{rng.getrandbits(64):016x}", agent=agent, direction="outbound" if outbound else "inbound",
                         caller=caller, callee=callee, party=party, codec="PCMU", started_us=started,
                         answered_us=started + 20_000, ended_us=started + 90_000_000, turns=8,
                         end_reason="farewell" if agent == "trial" else reason, packets_in=6000, packets_lost=0,
                         packets_late=1, packets_out=6000, jitter_us=900)
            rows.append(tuple(known.get(column) for column in columns))
        db.executemany(f"INSERT INTO calls VALUES ({','.join('?' * len(columns))})", rows)
        db.commit()
    db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    db.close()
    return callers


class OverSocket(http.client.HTTPConnection):
    """HTTP on the control socket."""

    def __init__(self, path: pathlib.Path):
        super().__init__("callbox")
        self.path = path

    def connect(self):
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.connect(str(self.path))


def page(control: pathlib.Path, query: dict) -> tuple[float, int]:
    """Milliseconds that it took, and how many calls were on it."""
    path = "/api/v1/calls?" + urllib.parse.urlencode({"limit": 50, **query})
    begun = time.perf_counter()
    connection = OverSocket(control)
    connection.request("GET", path)
    answer = connection.getresponse()
    body = answer.read()
    took = (time.perf_counter() - begun) * 1000
    connection.close()
    if answer.status != 200:
        raise SystemExit(f"{path}: {answer.status} {body!r}")
    return took, len(json.loads(body)["calls"])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--bin", type=pathlib.Path, required=True, help="folder of the executables")
    parser.add_argument("--out", type=pathlib.Path, required=True)
    parser.add_argument("--calls", type=int, default=1_000_000)
    parser.add_argument("--pages", type=int, default=200, help="of each filter")
    args = parser.parse_args()
    rng = random.Random(42)
    with tempfile.TemporaryDirectory(prefix="callbox-api-") as name:
        folder = pathlib.Path(name)
        callers = generate(folder / "callbox.db", args.calls)
        size = (folder / "callbox.db").stat().st_size
        (folder / "agents").mkdir()
        (folder / "agents/test.toml").write_text(AGENT)
        (folder / "script.toml").write_text(SCRIPT)
        control = folder / "control.sock"
        (folder / "callbox.toml").write_text(
            '[sip]\nudp = ["127.0.0.1:0"]\ntcp = []\n[media]\nbind = "127.0.0.1"\n[http]\nlisten = "127.0.0.1:0"\n'
            'socket = "control.sock"\n[engine]\nkind = "scripted"\nscript = "script.toml"\nrun = "."\n[models]\ncache = "."\n'
            '[storage]\npath = "callbox.db"\nbackups = "."\n[agents]\npaths = ["agents"]\n[log]\nlevel = "warn"\n')
        daemon = subprocess.Popen([args.bin / "callboxd", "--config", folder / "callbox.toml"])
        try:
            until = time.monotonic() + 60
            while True:
                try:
                    page(control, {})
                    break
                except (OSError, SystemExit):
                    if time.monotonic() > until or daemon.poll() is not None:
                        raise
                    time.sleep(0.2)

            def moment() -> str:
                at = BEGIN_US // 1_000_000 + rng.randrange(YEAR_US // 1_000_000)
                return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(at))

            filters = {
                "none": lambda: {},
                "since": lambda: {"since": moment()},
                "until": lambda: {"until": moment()},
                "agent, common": lambda: {"agent": "frontdesk"},
                "agent, rare": lambda: {"agent": "trial"},
                "agent, unknown": lambda: {"agent": "nobody"},
                "direction": lambda: {"direction": "outbound"},
                "reason, common": lambda: {"reason": "caller_hangup"},
                "reason, rare": lambda: {"reason": "no_ack"},
                "caller": lambda: {"caller": rng.choice(callers)},
                "agent and direction": lambda: {"agent": "sales", "direction": "outbound"},
                "agent and reason": lambda: {"agent": "night", "reason": "media_timeout"},
                "agent, reason, direction, week": lambda: {
                    "agent": "support", "reason": "transferred", "direction": "inbound", "since": moment()},
                "agent and reason that never met": lambda: {"agent": "trial", "reason": "farewell", "direction": "outbound"},
            }
            figures = {}
            for label, wanted in filters.items():
                times, found = [], 0
                for number in range(args.pages):
                    query = wanted()
                    if number % 2 and "until" not in query:
                        # Somewhere in the middle of the list.
                        started = BEGIN_US + rng.randrange(YEAR_US)
                        query["before"] = f"{started}-ffffffffffffffff"
                    took, calls = page(control, query)
                    times.append(took)
                    found += calls
                times.sort()
                figures[label] = {"p50_ms": round(times[len(times) // 2], 2), "p95_ms": round(times[len(times) * 95 // 100], 2),
                                  "calls_per_page": round(found / args.pages, 1)}
                print(f"{label:34} p50 {figures[label]['p50_ms']:7.2f} ms  p95 {figures[label]['p95_ms']:7.2f} ms  "
                      f"{figures[label]['calls_per_page']:5.1f} calls")
        finally:
            daemon.terminate()
            daemon.wait(30)
    worst = max(figure["p95_ms"] for figure in figures.values())
    result = {"calls": args.calls, "database_bytes": size, "pages": args.pages, "p95_ms": worst, "filters": figures}
    args.out.write_text(json.dumps(result, indent=1) + "\n")
    print(f"a page of 50 among {args.calls} calls: p95 {worst} ms with the slowest filter")
    return 0 if worst <= 50 else 1


if __name__ == "__main__":
    sys.exit(main())
