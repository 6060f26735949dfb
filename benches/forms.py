#!/usr/bin/env python3
"""How many words come otherwise with Whisper's weights in whisper.cpp's forms than with the original.

Enters: the prompts of peers/stt.py, a checkpoint; the example `bench_stt`, built, which makes the forms. Leaves: a JSON with
the words of the original, and of each form how many of them differ (the fewest changes, insertions and deletions).
"""
import argparse
import datetime
import json
import os
import pathlib
import re
import subprocess
import sys
import tempfile

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent / "peers"))
import stt

FORMS = ["q8_0", "q5_1", "q5_0"]


def heard(arguments: argparse.Namespace, prompts: str, form: str | None) -> list[list[str]]:
    """The words of each prompt, without case and punctuation."""
    command = [arguments.ours, prompts, "--model", str(arguments.model), "--threads", str(arguments.threads)]
    command += ["--form", form] if form else []
    environment = {**os.environ, "RAYON_NUM_THREADS": str(arguments.threads)}
    told = subprocess.run(command, check=True, stdout=subprocess.PIPE, env=environment).stdout
    return [re.findall(r"[\w']+", prompt["text"].lower()) for prompt in json.loads(told)["prompts"]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ours", required=True, help="the example bench_stt")
    parser.add_argument("--model", default=stt.CACHE / "models/whisper-tiny.en/tiny.en.pt")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--limit", type=int)
    parser.add_argument("--out", type=pathlib.Path)
    arguments = parser.parse_args()

    rows = stt.prompts()[: arguments.limit]
    with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
        json.dump(rows, file)
        file.flush()
        original = heard(arguments, file.name, None)
        forms = {form: heard(arguments, file.name, form) for form in FORMS}
    words = sum(map(len, original))
    result = {"date": datetime.date.today().isoformat(), "prompts": len(rows), "words": words, "forms": {}}
    for form, said in forms.items():
        each = [stt.word_errors(one, other) for one, other in zip(original, said, strict=True)]
        result["forms"][form] = {
            "words_changed": sum(each),
            "share": round(sum(each) / words, 5),
            "prompts_changed": sum(changes > 0 for changes in each),
        }
    print(json.dumps(result, indent=2))
    if arguments.out:
        arguments.out.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
