#!/usr/bin/env python3
"""Makes tests/fixtures/ears/mel-128.f32: the spectrogram of large-v3, from openai-whisper's own filters.

    pip install numpy
    python3 make_fixtures_whisper.py MEL_FILTERS_NPZ     (whisper/assets/mel_filters.npz of openai-whisper, MIT)

What openai-whisper does with torch is done with numpy, in double precision; every fourth row is kept. As a check of itself
it compares its 80 bands with mel.f32, which openai-whisper has made (make_fixtures_ears.py).
"""
import pathlib
import sys
import wave

import numpy

HERE = pathlib.Path(__file__).parent / "fixtures/ears"
FFT, HOP, EVERY = 400, 160, 4


def log_mel(samples: numpy.ndarray, filters: numpy.ndarray, rows: int) -> numpy.ndarray:
    padded = numpy.pad(numpy.concatenate([samples, numpy.zeros(480_000)]), FFT // 2, mode="reflect")
    window = 0.5 - 0.5 * numpy.cos(2 * numpy.pi * numpy.arange(FFT) / FFT)
    frames = numpy.stack([padded[HOP * row : HOP * row + FFT] * window for row in range(rows)])
    power = numpy.abs(numpy.fft.rfft(frames)) ** 2
    log = numpy.log10(numpy.maximum(power @ filters.T, 1e-10))
    return (numpy.maximum(log, log.max() - 8) + 4) / 4


def main() -> None:
    with wave.open(str(HERE / "vm-nomore.wav")) as file:
        samples = numpy.frombuffer(file.readframes(file.getnframes()), "<i2") / 32768
    rows = -(-len(samples) // (2 * HOP)) * 2
    with numpy.load(sys.argv[1]) as filters:
        known = numpy.fromfile(HERE / "mel.f32", "<f4").reshape(rows, 80)
        assert numpy.abs(log_mel(samples, filters["mel_80"].astype(float), rows) - known).max() < 1e-4
        mel = log_mel(samples, filters["mel_128"].astype(float), rows)
    mel[::EVERY].astype("<f4").tofile(HERE / "mel-128.f32")
    print(rows, mel.min(), mel.max())


main()
