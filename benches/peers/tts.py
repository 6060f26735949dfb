#!/usr/bin/env python3
"""Our voice against onnxruntime with the same file, the same phoneme ids and as many threads, alternately in one run.

usage: tts.py BENCH_TTS MODEL [--threads N] [--rounds N] [--out FILE]
Needs: pip install onnxruntime numpy. BENCH_TTS is the built example of callbox-engine.
"""
import argparse
import json
import statistics
import subprocess
import time
from pathlib import Path

import numpy as np
import onnxruntime

SENTENCES = [
    "Yes.",
    "Sure, one moment.",
    "We are open from nine to five, Monday through Friday.",
    "Your appointment is on Tuesday at half past three with the doctor.",
    # Twenty words: the bar for the first audio.
    "You can park your car behind the building, and the entrance for all our guests is right beside the elevator.",
]


def main():
    args = argparse.ArgumentParser()
    args.add_argument("bench"), args.add_argument("model")
    args.add_argument("--threads", type=int, default=2), args.add_argument("--rounds", type=int, default=7)
    args.add_argument("--out", default="benches/results/tts.json")
    args = args.parse_args()
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = args.threads, 1
    peer = onnxruntime.InferenceSession(args.model, options, providers=["CPUExecutionProvider"])
    config = json.loads(Path(f"{args.model}.json").read_text())
    scales = np.array([config["inference"][k] for k in ("noise_scale", "length_scale", "noise_w")], np.float32)
    ours = subprocess.Popen([args.bench, args.model, str(args.threads)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    rows = {text: [] for text in SENTENCES}
    for turn in range(args.rounds + 1):
        for text in SENTENCES:
            ours.stdin.write(text + "\n")
            ours.stdin.flush()
            row = json.loads(ours.stdout.readline())
            feed = {"input": np.array([row["ids"]]), "input_lengths": np.array([len(row["ids"])]), "scales": scales}
            started = time.perf_counter()
            [audio] = peer.run(None, feed)
            row["peer_total_s"] = time.perf_counter() - started
            row["peer_audio_s"] = audio.size / config["audio"]["sample_rate"]
            if turn:  # the first round warms up both
                rows[text].append(row)
    ours.stdin.close()
    ours.wait()

    median = statistics.median
    sentences = []
    for text, runs in rows.items():
        rtf = median(r["total_s"] / r["audio_s"] for r in runs)
        peer_rtf = median(r["peer_total_s"] / r["peer_audio_s"] for r in runs)
        sentences.append({
            "text": text, "words": len(text.split()), "audio_s": round(median(r["audio_s"] for r in runs), 3),
            "rtf": round(rtf, 4), "peer_rtf": round(peer_rtf, 4), "ratio": round(rtf / peer_rtf, 3),
            "first_s": round(median(r["first_s"] for r in runs), 4),
            "first_of_whole": round(median(r["first_s"] / r["total_s"] for r in runs), 3),
            "begin_s": round(median(r["begin_s"] for r in runs), 4),
            "phonemes_s": round(median(r["phonemes_s"] for r in runs), 4),
        })
    result = {
        "measure": "text to speech against onnxruntime, same voice and threads, medians", "threads": args.threads,
        "rounds": args.rounds, "onnxruntime": onnxruntime.__version__,
        "ratio": round(median(s["ratio"] for s in sentences), 3),
        "ratio_20_words": sentences[-1]["ratio"], "first_of_whole_20_words": sentences[-1]["first_of_whole"],
        "bars": {"ratio": 1.5, "first_of_whole_20_words": 0.5}, "sentences": sentences,
    }
    Path(args.out).write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
