#!/usr/bin/env python3
"""Our ears against openai-whisper: the same weights, the same 242 human telephone prompts, both greedy.

Enters: Debian's asterisk-core-sounds-en-wav (installed) and the texts of asterisk-core-sounds-en (fetched with apt).
Leaves: benches/results/stt.json with both word error rates and both times. Needs the example `bench_stt`, built.

    python3 -m venv ~/.cache/callbox/peers/stt
    ~/.cache/callbox/peers/stt/bin/pip install openai-whisper==20250625 scipy soundfile
    cargo build --release -p callbox-engine --example bench_stt
    ~/.cache/callbox/peers/stt/bin/python benches/peers/stt.py --ours target/release/examples/bench_stt
"""
import argparse
import datetime
import gzip
import json
import os
import pathlib
import platform
import resource
import subprocess
import tempfile
import time
import wave

CACHE = pathlib.Path.home() / ".cache/callbox"
SOUNDS = pathlib.Path("/usr/share/asterisk/sounds/en_US_f_Allison")


def texts() -> str:
    """The transcripts: a file of a package that need not be installed."""
    kept = CACHE / "peers/core-sounds-en.txt.gz"
    if not kept.exists():
        with tempfile.TemporaryDirectory() as folder:
            subprocess.run(["apt-get", "download", "asterisk-core-sounds-en"], cwd=folder, check=True)
            package = next(pathlib.Path(folder).glob("*.deb"))
            subprocess.run(["dpkg", "-x", package, folder], check=True)
            kept.parent.mkdir(parents=True, exist_ok=True)
            kept.write_bytes(next(pathlib.Path(folder).rglob("core-sounds-en.txt.gz")).read_bytes())
    return gzip.decompress(kept.read_bytes()).decode()


def prompts() -> list[dict]:
    """1.5 to 20 seconds, at least three words, nothing that is not said."""
    def seconds(path: pathlib.Path) -> float:
        with wave.open(str(path)) as sound:
            return sound.getnframes() / sound.getframerate()

    rows = []
    for line in texts().splitlines():
        name, _, text = line.partition(":")
        path, text = SOUNDS / f"{name.strip()}.wav", text.strip()
        if line.startswith(";") or not path.exists() or len(text.split()) < 3 or "[" in text or "(" in text:
            continue
        if 1.5 <= seconds(path) <= 20:
            rows.append({"path": str(path), "text": text})
    return rows


def word_errors(reference: list[str], heard: list[str]) -> int:
    row = list(range(len(heard) + 1))
    for i, word in enumerate(reference, 1):
        before, row[0] = row[0], i
        for j, other in enumerate(heard, 1):
            before, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, before + (word != other))
    return row[-1]


def score(rows: list[dict], heard: dict[str, str]) -> tuple[float, list]:
    from whisper.normalizers import EnglishTextNormalizer

    normal, errors, words, wrong = EnglishTextNormalizer(), 0, 0, []
    for row in rows:
        # The normaliser leaves one full stop of three, which nobody can say.
        reference, said = (normal(text.replace("...", " ")).split() for text in (row["text"], heard[row["path"]]))
        e = word_errors(reference, said)
        errors, words = errors + e, words + len(reference)
        if e:
            wrong.append({"file": pathlib.Path(row["path"]).name, "errors": e, "said": row["text"], "heard": heard[row["path"]]})
    return errors / words, wrong


def peer(rows: list[dict], model: str, threads: int) -> tuple[dict[str, str], list[float], float]:
    import scipy.signal
    import soundfile
    import torch
    import whisper

    torch.set_num_threads(threads)
    net = whisper.load_model(model, device="cpu")
    heard, seconds, cpu = {}, [], 0.0
    for row in rows[:1] + rows:
        samples, rate = soundfile.read(row["path"], dtype="float32")
        samples = scipy.signal.resample_poly(samples, 16_000 // rate, 1).astype("float32")
        start, cpu_start = time.perf_counter(), time.process_time()
        result = net.transcribe(samples, fp16=False, temperature=0.0, beam_size=None, language="en",
                                condition_on_previous_text=False, without_timestamps=True)
        seconds.append(time.perf_counter() - start)
        cpu += time.process_time() - cpu_start
        heard[row["path"]] = result["text"]
    return heard, seconds[1:], cpu / len(seconds)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ours", required=True, help="the example bench_stt")
    parser.add_argument("--model", default=CACHE / "models/whisper-tiny.en/tiny.en.pt")
    parser.add_argument("--vad", default=CACHE / "models/silero-vad/silero_vad_16k.safetensors")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--pad-ms", type=int, help="silence after each prompt, instead of the product's")
    parser.add_argument("--no-peer", action="store_true")
    parser.add_argument("--limit", type=int)
    parser.add_argument("--out", type=pathlib.Path)
    parser.add_argument("--verbose", action="store_true")
    arguments = parser.parse_args()

    rows = prompts()[: arguments.limit]
    with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
        json.dump(rows, file)
        file.flush()
        command = [arguments.ours, file.name, "--model", str(arguments.model), "--threads", str(arguments.threads)]
        command += ["--vad", str(arguments.vad)]
        if arguments.pad_ms is not None:
            command += ["--pad-ms", str(arguments.pad_ms)]
        environment = {**os.environ, "RAYON_NUM_THREADS": str(arguments.threads)}
        output = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, env=environment).stdout)
    ours = output["prompts"]
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    wer, wrong = score(rows, {row["path"]: row["text"] for row in ours})
    times = sorted(row["seconds"] for row in ours)
    result = {
        "date": datetime.date.today().isoformat(),
        "processor": platform.processor() or platform.machine(),
        "threads": arguments.threads,
        "prompts": len(rows),
        "audio_seconds": round(sum(row["audio_seconds"] for row in ours), 1),
        "ours": {
            "wer": round(wer, 5),
            "mean_seconds": round(sum(times) / len(times), 4),
            # Of the whole process, loading included; unlike the others no other work on the machine changes it much.
            "mean_cpu_seconds": round((usage.ru_utime + usage.ru_stime) / len(times), 4),
            "p50_seconds": round(times[len(times) // 2], 4),
            "p95_seconds": round(times[len(times) * 95 // 100], 4),
            "vad_us_per_window": round(output["vad_us_per_window"], 1),
            "declined": sum(row["declined"] is not None for row in ours),
            "highest_no_speech": round(max(row["no_speech"] for row in ours), 4),
            "lowest_mean_logprob": round(min(row["mean_logprob"] for row in ours), 4),
        },
    }
    if not arguments.no_peer:
        heard, seconds, cpu = peer(rows, str(arguments.model), arguments.threads)
        peer_wer, _ = score(rows, heard)
        mean = sum(seconds) / len(seconds)
        result["openai_whisper"] = {"wer": round(peer_wer, 5), "mean_seconds": round(mean, 4), "mean_cpu_seconds": round(cpu, 4)}
        result["openai_whisper"]["p50_seconds"] = round(sorted(seconds)[len(seconds) // 2], 4)
        result["time_ratio"] = round(result["ours"]["mean_seconds"] / mean, 3)
    print(json.dumps(result, indent=2))
    if arguments.verbose:
        for row in wrong:
            print(json.dumps(row))
    if arguments.out:
        arguments.out.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
