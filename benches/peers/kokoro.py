#!/usr/bin/env python3
"""Kokoro as we compute it against onnxruntime with the same file, the same tokens and style and as many threads, alternately in
one run.

usage: kokoro.py BENCH_TTS SPEAKER.bin [--threads N] [--rounds N] [--out FILE]
Needs: pip install onnxruntime onnx numpy. BENCH_TTS is the built example of callbox-engine; the network lies beside the speaker.
The published graph rounds activations to bytes as it runs, which we do not: so the graph with its weights brought back to
f32 and activations that stay so, the same computation as ours, is a peer as well.
"""
import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import onnxruntime

from tts import SENTENCES

sys.path.insert(0, str(Path(__file__).parents[2] / "daemon/engine/tests"))


def f32_graph(folder):
    os.environ["CALLBOX_MODELS"] = str(folder.parent)
    import make_fixtures_kokoro

    model, _ = make_fixtures_kokoro.dequantised()
    # What rounded activations is left over.
    needed, kept = {out.name for out in model.graph.output}, []
    for node in reversed(model.graph.node):
        if needed & set(node.output):
            kept.append(node)
            needed |= set(node.input)
    del model.graph.node[:]
    model.graph.node.extend(reversed(kept))
    return model.SerializeToString()


def main():
    args = argparse.ArgumentParser()
    args.add_argument("bench"), args.add_argument("speaker", type=Path)
    args.add_argument("--threads", type=int, default=2), args.add_argument("--rounds", type=int, default=3)
    args.add_argument("--out", default="benches/results/kokoro.json")
    args = args.parse_args()
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads, options.log_severity_level = args.threads, 1, 3
    folder = args.speaker.resolve().parent
    graphs = {"int8": str(folder / "kokoro-v1.0.int8.onnx"), "f32": f32_graph(folder)}
    peers = {
        name: onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
        for name, graph in graphs.items()
    }
    styles = np.fromfile(args.speaker, np.float32).reshape(510, 1, 256)
    command = [args.bench, str(args.speaker), str(args.threads)]
    ours = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    rows = {text: [] for text in SENTENCES}
    for turn in range(args.rounds + 1):
        for text in SENTENCES:
            ours.stdin.write(text + "\n")
            ours.stdin.flush()
            row = json.loads(ours.stdout.readline())
            ids = row["ids"]
            style, speed = styles[max(len(ids), 1) - 1], np.array([1.0], np.float32)
            feed = {"tokens": np.array([[0, *ids, 0]]), "style": style, "speed": speed}
            for name, peer in peers.items():
                started = time.perf_counter()
                audio = peer.run(None, feed)[0]
                row[name] = (time.perf_counter() - started) / (audio.size / 24000)
            if turn:  # the first round warms up all of them
                rows[text].append(row)
    ours.stdin.close()
    ours.wait()

    median = statistics.median
    sentences = []
    for text, runs in rows.items():
        rtf = median(r["total_s"] / r["audio_s"] for r in runs)
        sentences.append({
            "text": text, "words": len(text.split()), "audio_s": round(median(r["audio_s"] for r in runs), 3),
            "rtf": round(rtf, 4),
            **{f"{name}_rtf": round(median(r[name] for r in runs), 4) for name in peers},
            **{f"{name}_ratio": round(rtf / median(r[name] for r in runs), 3) for name in peers},
            "first_s": round(median(r["first_s"] for r in runs), 4),
        })
    result = {
        "measure": "Kokoro against onnxruntime, same weights, tokens, style and threads, medians",
        "threads": args.threads, "rounds": args.rounds, "onnxruntime": onnxruntime.__version__,
        "rtf": round(median(s["rtf"] for s in sentences), 3),
        **{f"{name}_ratio": round(median(s[f"{name}_ratio"] for s in sentences), 3) for name in peers},
        "sentences": sentences,
    }
    Path(args.out).write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
