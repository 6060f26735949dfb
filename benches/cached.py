#!/usr/bin/env python3
"""Voice-to-voice times of answers that are known: whole calls to a daemon of this build with the pack `tiny`.

Enters: the executables, benches/questions.toml, benches/cache/frontdesk.faq, which answers some of those questions, asked
in other words. Leaves: benches/results/cached.json. Times are those of `callbox dial`, read off the caller's own two
streams; which answers were known is what the daemon recorded.
"""
import argparse
import json
import math
import pathlib
import shutil
import subprocess
import tempfile

import calls

ROOT = pathlib.Path(__file__).resolve().parent.parent
FEWEST = 20


def callbox(binaries: pathlib.Path, config: pathlib.Path, *words: str) -> dict:
    output = subprocess.run([binaries / "callbox", *words, "--config", config, "--json"], stdout=subprocess.PIPE, check=True)
    return json.loads(output.stdout)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bin", type=pathlib.Path, required=True, help="folder of the executables")
    parser.add_argument("--out", type=pathlib.Path, required=True)
    parser.add_argument("--calls", type=int, default=3, help="one after the other, with 20 questions each")
    arguments = parser.parse_args()

    known, others, unanswered = [], [], 0
    with tempfile.TemporaryDirectory() as folder:
        agents = pathlib.Path(folder)
        agent = (ROOT / "config/agents/frontdesk.toml").read_text()
        (agents / "frontdesk.toml").write_text(agent.replace("# faq =", "faq ="))
        shutil.copy(ROOT / "benches/cache/frontdesk.faq", agents)
        with calls.daemon(arguments.bin, "tiny", agents) as (_, sip, config):
            stats = callbox(arguments.bin, config, "cache", "warm")["agents"][0]
            for _ in range(arguments.calls):
                command = [arguments.bin / "callbox", "dial", f"sip:frontdesk@127.0.0.1:{sip}", "--config", config, "--json"]
                command += ["--questions", ROOT / "benches/questions.toml"]
                told = json.loads(subprocess.run(command, stdout=subprocess.PIPE, check=False).stdout)
                newest = callbox(arguments.bin, config, "call", "list")["calls"][0]["id"]
                turns = callbox(arguments.bin, config, "call", "show", newest)["exchanges"]
                turns = [turn for turn in turns if turn["caller_text"]]
                answers = told["answers"]
                if len(turns) < len(answers):
                    raise SystemExit(f"{len(answers)} questions had {len(turns)} turns")
                for answer, turn in zip(answers, turns):
                    took = answer["voice_to_voice_ms"]
                    if took is None:
                        unanswered += 1
                    else:
                        (others if turn["source"] == "model" else known).append(took / 1000)
    if len(known) < FEWEST:
        raise SystemExit(f"only {len(known)} answers were known")

    def told(seconds: list[float]) -> dict:
        seconds = sorted(seconds)
        # The nearest rank, as `callbox dial` has it.
        rank = lambda share: round(seconds[max(math.ceil(len(seconds) * share), 1) - 1], 3)
        return {"answers": len(seconds), "p50_s": rank(0.5), "p95_s": rank(0.95), "worst_s": round(seconds[-1], 3)}

    result = {"known": told(known), "others": told(others), "unanswered": unanswered, "ready": stats["ready"]}
    text = json.dumps(result, indent=2)
    print(text)
    arguments.out.write_text(text + "\n")


if __name__ == "__main__":
    main()
