#!/usr/bin/env python3
"""Makes tests/fixtures/voice from Piper's own code and onnxruntime.

Needs: pip install onnxruntime onnx numpy piper-tts; the voice under $CALLBOX_MODELS or ~/.cache/callbox/models.
Writes: phonemes.json (text -> ids, as piper-tts makes them), cases.json + NAME.wav (what onnxruntime synthesises from
ids and injected noise; 16 bit, not normalised).
"""
import json
import os
import wave
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from piper.phoneme_ids import phonemes_to_ids
from piper.phonemize_espeak import EspeakPhonemizer

HERE = Path(__file__).parent / "fixtures/voice"
MODELS = Path(os.environ.get("CALLBOX_MODELS", Path.home() / ".cache/callbox/models"))
VOICE = MODELS / "piper-joe/en_US-joe-medium.onnx"
CONFIG = json.loads(Path(f"{VOICE}.json").read_text())
SENTENCES = (HERE / "sentences.txt").read_text().splitlines()

# name, sentence, noise_scale, length_scale, noise_w
CASES = [
    ("plain", "Hello, thank you for calling.", 0.0, 1.0, 0.0),
    ("noisy", "Sure, one moment.", 0.667, 1.0, 0.8),
    ("slow", "Yes!", 0.333, 1.3, 0.5),
]


def deviates(first, count):
    """The test's noise: the same integers as in voice_vits.rs, uniform in +-1.7."""
    index = np.arange(first, first + count, dtype=np.uint64)
    mixed = (index * np.uint64(2654435761) + np.uint64(12345)) & np.uint64(0xFFFFFFFF)
    mixed = ((mixed ^ (mixed >> np.uint64(15))) * np.uint64(2246822519)) & np.uint64(0xFFFFFFFF)
    return ((mixed >> np.uint64(8)).astype(np.float32) / np.float32(2**24) * np.float32(3.4) - np.float32(1.7))


def injectable():
    """The voice with its two random nodes turned into inputs, and its durations into an output."""
    model = onnx.load(VOICE)
    graph = model.graph
    for node in [node for node in graph.node if node.op_type == "RandomNormalLike"]:
        rank3 = ["b", "c", "t"]
        graph.input.append(onnx.helper.make_tensor_value_info(node.output[0], onnx.TensorProto.FLOAT, rank3))
        graph.node.remove(node)
    graph.output.append(onnx.helper.make_tensor_value_info("/Ceil_output_0", onnx.TensorProto.FLOAT, None))
    return onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])


def main():
    espeak = EspeakPhonemizer()

    def ids_of(text):
        return [phonemes_to_ids(p, CONFIG["phoneme_id_map"]) for p in espeak.phonemize(CONFIG["espeak"]["voice"], text)]

    (HERE / "phonemes.json").write_text(
        json.dumps([{"text": text, "ids": ids_of(text)} for text in SENTENCES], indent=None, separators=(",", ":"))
        .replace("},{", "},\n{") + "\n")

    session = injectable()
    cases = []
    for name, text, noise_scale, length_scale, noise_w in CASES:
        [ids] = ids_of(text)
        scales = np.array([noise_scale, length_scale, noise_w], np.float32)
        feed = {"input": np.array([ids]), "input_lengths": np.array([len(ids)]), "scales": scales}
        feed["/dp/RandomNormalLike_output_0"] = deviates(0, 2 * len(ids)).reshape(1, 2, -1)
        # The number of frames is known only after a run; a wrong guess fails at the addition, so probe the durations.
        [durations] = session.run(["/Ceil_output_0"], {**feed, "/RandomNormalLike_output_0": np.zeros((1, 192, 1), np.float32)})
        frames = int(durations.sum())
        noise = deviates(2 * len(ids), frames * 192).reshape(frames, 192).T[None]
        [audio] = session.run(["output"], {**feed, "/RandomNormalLike_output_0": np.ascontiguousarray(noise)})
        with wave.open(str(HERE / f"{name}.wav"), "wb") as out:
            out.setnchannels(1), out.setsampwidth(2), out.setframerate(CONFIG["audio"]["sample_rate"])
            out.writeframes(np.clip(np.rint(audio.flatten() * 32767), -32768, 32767).astype("<i2").tobytes())
        cases.append({"name": name, "ids": ids, "scales": [noise_scale, length_scale, noise_w],
                      "durations": durations.flatten().astype(int).tolist()})
    (HERE / "cases.json").write_text(json.dumps(cases, separators=(",", ":")).replace("},{", "},\n{") + "\n")


if __name__ == "__main__":
    main()
