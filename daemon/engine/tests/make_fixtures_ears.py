#!/usr/bin/env python3
"""Makes tests/fixtures/ears from the oracles: openai-whisper, silero-vad's own tinygrad model, torch.

Run with the environment of benches/peers/stt.py, plus `silero-vad==6.2.3 tinygrad`. The
safetensors of that package hold other weights than its ONNX and TorchScript files, so these are no oracle for it. The WAVs are prompts of Debian's
asterisk-core-sounds-en-wav, (c) 2003-2010 Allison Smith, CC-BY-SA 3.0, resampled to 16 kHz.
"""
import json
import pathlib
import sys

import numpy
import scipy.signal
import silero_vad
import soundfile
import torch
import whisper
from silero_vad.tinygrad_model import TinySileroVAD
from tinygrad import Tensor
from tinygrad.nn.state import load_state_dict, safe_load

HERE = pathlib.Path(__file__).parent / "fixtures/ears"
MODEL = pathlib.Path.home() / ".cache/callbox/models/whisper-tiny.en/tiny.en.pt"
SOUNDS = pathlib.Path("/usr/share/asterisk/sounds/en_US_f_Allison")
PROMPTS = ["vm-nomore", "conf-full", "vm-toenternumber", "pbx-invalidpark"]
EVERY = 8  # of the encoder's positions


def activity(samples: numpy.ndarray) -> list[float]:
    model, state = TinySileroVAD(), None
    load_state_dict(model, safe_load(pathlib.Path(silero_vad.__file__).parent / "data/silero_vad_16k.safetensors"), verbose=False)
    context, out = numpy.zeros(64, numpy.float32), []
    for start in range(0, len(samples) - 511, 512):
        window = numpy.concatenate([context, samples[start : start + 512]])
        speech, state = model(Tensor(window[None]), state)
        state, context = state.realize(), window[-64:]
        out.append(round(float(speech.numpy()[0, 0]), 6))
    return out


def layers(model: whisper.Whisper, mel: torch.Tensor) -> list[torch.Tensor]:
    """The encoder over the true length, every EVERY-th position of what leaves the stem, each layer and the end."""
    enc, gelu = model.encoder, torch.nn.functional.gelu
    with torch.no_grad():
        x = gelu(enc.conv2(gelu(enc.conv1(mel[None])))).permute(0, 2, 1)
        x = x + enc.positional_embedding[: x.shape[1]]
        seen = [x]
        for block in enc.blocks:
            x = block(x)
            seen.append(x)
        seen.append(enc.ln_post(x))
    return [s[0, ::EVERY] for s in seen]


def main() -> None:
    HERE.mkdir(parents=True, exist_ok=True)
    model, facts = whisper.load_model(str(MODEL), device="cpu"), []
    for name in PROMPTS:
        samples, rate = soundfile.read(SOUNDS / f"{name}.wav", dtype="float32")
        samples = scipy.signal.resample_poly(samples, 16000 // rate, 1)
        soundfile.write(HERE / f"{name}.wav", samples, 16000, subtype="PCM_16")
        samples, _ = soundfile.read(HERE / f"{name}.wav", dtype="float32")
        options = whisper.DecodingOptions(language="en", without_timestamps=True, fp16=False)
        mel = whisper.log_mel_spectrogram(whisper.pad_or_trim(samples))
        result = whisper.decode(model, mel, options)
        facts.append({"name": name, "text": result.text, "activity": activity(samples)})
        print(name, len(samples) / 16000, result.text, result.no_speech_prob, result.avg_logprob, file=sys.stderr)
    (HERE / "facts.json").write_text(json.dumps(facts, indent=1) + "\n")

    samples, _ = soundfile.read(HERE / f"{PROMPTS[0]}.wav", dtype="float32")
    positions = -(-len(samples) // 320)
    mel = whisper.log_mel_spectrogram(samples, padding=480000)[:, : 2 * positions]
    mel.T.contiguous().numpy().astype("<f4").tofile(HERE / "mel.f32")
    torch.stack(layers(model, mel)).numpy().astype("<f4").tofile(HERE / "layers.f32")

    # A checkpoint in small: a matrix that lies transposed, halves, a view into a storage.
    matrix = (torch.arange(6, dtype=torch.float32).reshape(2, 3) / 4).to(torch.float16)
    torch.save({"dims": {"n": 3}, "model_state_dict": {
        "plain": matrix, "transposed": (torch.arange(6.0).reshape(3, 2)).t(), "view": torch.arange(10.0)[4:7]}},
        HERE / "small.pt")


main()
