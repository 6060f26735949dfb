"""The language model against llama.cpp: the same GGUF file, the same threads, in turns, in one run.

    python llm.py BENCH_LLM MODELS_FOLDER PACKED_FOLDER RESULT.json [--rounds 3] [--threads 2]

BENCH_LLM is the built example `bench_llm` of callbox-engine; run this with a Python that has llama-cpp-python 0.3.36
(built with CMAKE_ARGS="-DGGML_NATIVE=OFF -DGGML_AVX2=ON -DGGML_FMA=ON -DGGML_F16C=ON -DGGML_BMI2=ON").
Each figure is the best of the rounds: other work on the machine only ever makes a round slower.
"""

import argparse
import json
import pathlib
import subprocess
import sys
import time

MODELS = {
    "tiny": "smollm2-135m/SmolLM2-135M-Instruct.Q4_1.gguf",
    "starter": "qwen2.5-coder-1.5b/qwen2.5-coder-1.5b-instruct-q4_k_m.gguf",
}
MEASURES = ["prefill_128_tokens_per_second", "prefill_512_tokens_per_second", "decode_128_tokens_per_second"]
BARS = {"prefill_128_tokens_per_second": 1.0, "prefill_512_tokens_per_second": 1.0, "decode_128_tokens_per_second": 0.9}


def peer(path, threads):
    """What `bench_llm` measures, by llama.cpp; runs in a process of its own, so that its memory is its own."""
    import resource

    from llama_cpp import Llama

    model = Llama(path, n_ctx=1024, n_batch=512, n_threads=threads, n_threads_batch=threads, verbose=False)
    prompt = [(i * 7919 + 13) % min(model.n_vocab(), 40000) for i in range(512)]

    def prefill(length):
        model.reset()
        start = time.perf_counter()
        model.eval(prompt[:length])
        return length / (time.perf_counter() - start)

    prefill(128)
    figures = {
        "prefill_128_tokens_per_second": max(prefill(128), prefill(128)),
        "prefill_512_tokens_per_second": prefill(512),
    }
    best = 0
    for _ in range(2):
        prefill(128)
        start = time.perf_counter()
        for i in range(48):
            model.eval([prompt[i]])
        best = max(best, 48 / (time.perf_counter() - start))
    figures["decode_128_tokens_per_second"] = best
    figures["peak_rss_mib"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps(figures))


def main():
    if sys.argv[1] == "--peer":
        return peer(sys.argv[2], int(sys.argv[3]))
    parser = argparse.ArgumentParser()
    for name in ("bench", "models", "packed", "result"):
        parser.add_argument(name, type=pathlib.Path)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--packs", nargs="*", default=list(MODELS))
    args = parser.parse_args()
    result = {"threads": args.threads, "rounds": args.rounds, "packs": {}}
    met = True
    for pack in args.packs:
        path = args.models / MODELS[pack]
        ours, theirs = {}, {}
        for _ in range(args.rounds):
            for best, command in (
                (ours, [args.bench, path, args.packed, str(args.threads)]),
                (theirs, [sys.executable, __file__, "--peer", path, str(args.threads)]),
            ):
                out = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
                for key, value in json.loads(out.splitlines()[-1]).items():
                    if key in MEASURES or key == "peak_rss_mib":
                        best[key] = max(best.get(key, 0), value)
                    else:
                        best[key] = value
        ratios = {key: round(ours[key] / theirs[key], 3) for key in MEASURES}
        met &= all(ratios[key] >= bar for key, bar in BARS.items())
        result["packs"][pack] = {"callbox": ours, "llama.cpp": theirs, "ratios": ratios}
        print(pack, json.dumps(ratios))
    result["bars"] = BARS
    result["met"] = met
    args.result.parent.mkdir(parents=True, exist_ok=True)
    args.result.write_text(json.dumps(result, indent=2) + "\n")
    sys.exit(0 if met else 1)


main()
