#!/usr/bin/env python3
"""How long a database of 1 GB takes to back up and to restore, with `callbox backup` and `callbox restore`.

Enters: the executables of this build. Leaves: seconds, sizes and rates as JSON. The database is made of calls and turns
of ordinary length by daemon/src/storage/schema.sql, with seeded words, so it packs as real ones do, not as zeros would.
"""
import argparse
import json
import pathlib
import random
import sqlite3
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent
STAGES = ("pause", "stt", "prefill", "first_clause", "tts_first", "hold", "playout", "endpoint", "voice_to_voice")


def generate(path: pathlib.Path, target: int) -> dict:
    """A database of at least so many bytes; its rows."""
    rng = random.Random(4711)
    letters = "etaoinshrdlucmfwypvbgk"
    words = ["".join(rng.choices(letters, k=rng.randint(2, 9))) for _ in range(8000)]
    corpus = " ".join(rng.choices(words, k=3_000_000))

    def text(letters_wanted: int) -> str:
        begin = rng.randrange(len(corpus) - letters_wanted)
        return corpus[begin:begin + letters_wanted]

    db = sqlite3.connect(path)
    db.execute("PRAGMA auto_vacuum = incremental")
    db.executescript((ROOT / "daemon/src/storage/schema.sql").read_text())
    db.execute(f"PRAGMA application_id = {0x43424F58}")
    db.execute(f"PRAGMA user_version = {len(list((ROOT / 'daemon/src/storage/upgrade').glob('v*.sql')))}")
    db.execute("PRAGMA journal_mode = wal")
    db.execute("PRAGMA synchronous = off")
    db.execute("PRAGMA cache_size = -500000")
    calls = turns = 0
    while path.stat().st_size < target:
        for _ in range(2000):
            calls += 1
            call, started = f"{rng.getrandbits(64):016x}", 1_767_225_600_000_000 + calls * 1_000_000
            number = f"+1{rng.randint(2_000_000_000, 9_999_999_999)}"
            db.execute(
                "INSERT INTO calls VALUES (?,?,'inbound',?,'100','PCMU',?,?,?,'caller_hangup',8,6000,0,1,6000,900,?)",
                (call, "frontdesk", f"sip:{number}@192.0.2.7", started, started + 20_000, started + 90_000_000, number))
            for turn in range(8):
                turns += 1
                answer = text(rng.randint(50, 200))
                db.execute("INSERT INTO turns VALUES (?,?,?,?,?,?,0,420,400,24,'answer','completed',NULL,0,90000,80000)",
                           (call, turn, started + turn * 10_000_000, text(rng.randint(20, 130)), answer, answer))
                db.executemany("INSERT INTO stages VALUES (?,?,?,?)",
                               [(call, turn, stage, rng.randint(1000, 900_000)) for stage in STAGES])
        db.commit()
        db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    db.close()
    return {"calls": calls, "turns": turns, "bytes": path.stat().st_size}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--bin", type=pathlib.Path, required=True, help="folder of the executables")
    parser.add_argument("--out", type=pathlib.Path, required=True)
    parser.add_argument("--megabytes", type=int, default=1000)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="callbox-backup-") as name:
        folder = pathlib.Path(name)
        config = folder / "callbox.toml"
        config.write_text(f'[http]\nsocket = "control.sock"\n[storage]\npath = "callbox.db"\nbackups = "backups"\n')
        database = generate(folder / "callbox.db", args.megabytes * 1_000_000)

        def timed(*words: str) -> tuple[float, dict]:
            begun = time.monotonic()
            done = subprocess.run([args.bin / "callbox", *words, "--json", "--config", config], check=True,
                                  stdout=subprocess.PIPE)
            return time.monotonic() - begun, json.loads(done.stdout)

        backup_s, made = timed("backup")
        restore_s, restored = timed("restore", made["path"])
        assert (restored["calls"], restored["turns"]) == (database["calls"], database["turns"]), restored
    result = {
        "database": database,
        "packed_bytes": made["bytes"],
        "backup_s": round(backup_s, 2),
        "restore_s": round(restore_s, 2),
        "restore_s_per_gb": round(restore_s / (database["bytes"] / 1e9), 2),
    }
    args.out.write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps(result, indent=2))
    return 0


if __name__ == "__main__":
    sys.exit(main())
