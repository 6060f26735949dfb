#!/usr/bin/env python3
"""Compares what the benches measured with what SPECIFICATION.md promises.

Enters: benches/results/*.json and the rows of SPECIFICATION.md whose proof names a bench and a figure.
Leaves: one line per row; with --write, the column `Measured`. 1 if a bar is missed; `pending` is no miss, unless --strict.
"""
import argparse
import datetime
import functools
import json
import operator
import os
import pathlib
import platform
import re
import shlex
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent

def prefill(pack: str) -> str:
    return "&".join(f"packs.{pack}.ratios.prefill_{length}_tokens_per_second" for length in (128, 512))


# figure of SPECIFICATION.md -> file below benches/results, path inside (a+b: the sum, a&b: the least), factor from its
# unit to that of the bar
FIGURES = {
    "stt_wer": ("stt.json", "ours.wer", 100),
    "stt_time_ratio": ("stt.json", "time_ratio", 1),
    "stt_q8_0_changed": ("forms.json", "forms.q8_0.share", 100),
    "llm_tiny_prefill_ratio": ("llm.json", prefill("tiny"), 1),
    "llm_tiny_decode_ratio": ("llm.json", "packs.tiny.ratios.decode_128_tokens_per_second", 1),
    "llm_starter_prefill_ratio": ("llm.json", prefill("starter"), 1),
    "llm_starter_decode_ratio": ("llm.json", "packs.starter.ratios.decode_128_tokens_per_second", 1),
    "llm_batch_ratio": ("batch.json", "sequences.4.ratio", 1),
    "llm_adapters_share": ("batch.json", "adapters.16.decode_share", 1),
    "tts_rtf_ratio": ("tts.json", "ratio", 1),
    "tts_first_audio_ratio": ("tts.json", "first_of_whole_20_words", 1),
    "kokoro_rtf_ratio": ("kokoro.json", "int8_ratio", 1),
    "kokoro_f32_rtf_ratio": ("kokoro.json", "f32_ratio", 1),
    "kokoro_heard_wer": ("kokoro-heard.json", "wer", 100),
    "roundtrip_wer": ("roundtrip.json", "wer", 100),
    "v2v_starter_p50_s": ("calls.json", "starter.one.p50_s", 1),
    "v2v_starter_p95_s": ("calls.json", "starter.one.p95_s", 1),
    "v2v_tiny_p95_s": ("calls.json", "tiny.one.p95_s", 1),
    "v2v_tiny_three_p95_s": ("calls.json", "tiny.three.p95_s", 1),
    "snr_g711_db": ("audio.json", "snr_g711_db", 1),
    "snr_g722_db": ("audio.json", "snr_g722_db", 1),
    "mos_g711": ("audio.json", "mos_g711", 1),
    "wer_more_points": ("audio.json", "wer_more_points", 1),
    "daemon_idle_mb": ("calls.json", "tiny.daemon_idle_mb", 1),
    "daemon_call_kb": ("calls.json", "tiny.daemon_call_kb", 1),
    "engine_tiny_gb": ("calls.json", "tiny.engine_gb", 1),
    "engine_starter_gb": ("calls.json", "starter.engine_gb", 1),
    "media_p99_late_ms": ("media.json", "lateness_p99_ms", 1),
    "restore_1gb_s": ("backup.json", "restore_s_per_gb", 1),
    "api_list_p95_ms": ("api.json", "p95_ms", 1),
    "package_first_call_s": ("package.json", "install_to_answer_s", 1),
    "package_start_s": ("package.json", "start_to_ready_s", 1),
    "package_kill_gap_s": ("package.json", "kill_gap_p95_s", 1),
    "flood_setup_p95_ms": ("flood.json", "setup_p95_ms", 1),
    "flood_memory_mb": ("flood.json", "memory_more_mb", 1),
    "flood_good_lost": ("flood.json", "good_calls_failed", 1),
    "kills_calls_lost": ("kills.json", "calls_lost", 1),
    "kills_records_wrong": ("kills.json", "records_wrong+database_faults", 1),
    "kills_left": ("kills.json", "left", 1),
    "kills_memory_grown_mb": ("kills.json", "memory_grown_mb", 1),
    "records_enqueue_p99_us": ("records.json", "enqueue_p99_us", 1),
    "records_lost": ("records.json", "calls_wrong+database_faults", 1),
    "records_dropped": ("records.json", "records_dropped", 1),
    "load_failed": ("load.json", "failed", 1),
    "load_idle_call_kb": ("load.json", "idle_call_kb", 1),
    "load_setup_p95_ms": ("load.json", "setup_ms.p95", 1),
    "cache_lookup_p95_ms": ("cache.json", "lookup.p95_ms", 1),
    "cache_precision": ("cache.json", "labelled.all.precision&labelled.held_out.precision", 1),
    "cache_recall": ("cache.json", "labelled.all.recall&labelled.held_out.recall", 1),
    "cache_wrong_strict": ("cache.json", "labelled.all.wrong_strict", 1),
    "v2v_cached_tiny_p95_s": ("cached.json", "known.p95_s", 1),
    "h200_decode_1": ("h200-bench.json", "rows.decode_1.figure", 1),
    "h200_decode_16": ("h200-bench.json", "rows.decode_16.figure", 1),
    "h200_decode_64": ("h200-bench.json", "rows.decode_64.figure", 1),
    "h200_adapters": ("h200-bench.json", "rows.adapters.figure", 1),
    "h200_talking_p95_ms": ("h200-bench.json", "rows.talking.figure", 1),
    "h200_whisper_tiny": ("h200-bench.json", "rows.whisper_tiny.figure", 1),
    "h200_whisper_turbo": ("h200-bench.json", "rows.whisper_turbo.figure", 1),
    "h200_kokoro_1_ms": ("h200-bench.json", "rows.kokoro_1.figure", 1),
    "h200_kokoro_32_p95_ms": ("h200-bench.json", "rows.kokoro_32.figure", 1),
    "h200_wrong": ("h200-test.json", "failed", 1),
    "media_lost": ("media.json", "far_end.lost+packets_lost_on_the_way_to_us", 1),
}
BAR = re.compile(r"(≤|≥|<) ([0-9.]+) ?(.*)")
HOLDS = {"≤": lambda value, bar: value <= bar, "≥": lambda value, bar: value >= bar, "<": lambda value, bar: value < bar}


def measured(figure: str):
    """The figure in the unit of its bar, or None."""
    file, path, factor = FIGURES[figure]
    try:
        result = json.loads((ROOT / "benches/results" / file).read_text())
        value = lambda path: float(functools.reduce(operator.getitem, path.split("."), result))
        return factor * min(sum(value(part) for part in least.split("+")) for least in path.split("&"))
    except (FileNotFoundError, KeyError, TypeError):
        return None


def stamp(path: pathlib.Path, command: list[str]) -> None:
    """Notes in a result where, when, of what and how it was measured."""
    def say(*words: str) -> str:
        return subprocess.run(words, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True).stdout.strip()

    cpu = next((line.split(":")[1].strip() for line in open("/proc/cpuinfo") if line.startswith("model name")), "unknown")
    result = json.loads(path.read_text())
    result["run"] = {
        "machine": f"{os.cpu_count()} cores of {cpu}, Linux {platform.release()}",
        "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "commit": say("git", "describe", "--always", "--dirty"),
        "rustc": say("rustc", "--version"),
        "load_average": os.getloadavg()[0],
        "command": shlex.join(command).replace(str(ROOT) + "/", "").replace(str(pathlib.Path.home()), "~"),
    }
    path.write_text(json.dumps(result, indent=2, ensure_ascii=False) + "\n")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true", help="put the figures into SPECIFICATION.md")
    parser.add_argument("--strict", action="store_true", help="a figure that was not measured fails too")
    parser.add_argument("--stamp", type=pathlib.Path, help="only note in this result how it came about")
    parser.add_argument("command", nargs="*", help="with --stamp")
    arguments = parser.parse_args()
    if arguments.stamp:
        stamp(arguments.stamp, arguments.command)
        return 0

    page = ROOT / "SPECIFICATION.md"
    lines, missed, pending = page.read_text().splitlines(), [], []
    for number, line in enumerate(lines):
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        named = [name for name in re.findall(r"`([a-z0-9_]+)`", cells[-1]) if name in FIGURES]
        if not line.startswith("| ") or not named:
            continue
        promise, bar, before, proof = cells
        sign, limit, unit = BAR.fullmatch(bar).groups()
        value = measured(named[0])
        if value is None:
            text, verdict = "pending", "pending"
            pending.append(promise)
        else:
            text = f"{value:.3g} {unit}".strip()
            verdict = "met" if HOLDS[sign](value, float(limit)) else "MISSED"
            if verdict == "MISSED":
                missed.append(promise)
                text += " (missed)"
        print(f"{verdict:8} {promise}: {text} (bar {bar})")
        lines[number] = f"| {promise} | {bar} | {text} | {proof} |"
    if arguments.write:
        page.write_text("\n".join(lines) + "\n")
    print(f"{len(missed)} missed, {len(pending)} pending")
    return 1 if missed or (arguments.strict and pending) else 0


if __name__ == "__main__":
    sys.exit(main())
