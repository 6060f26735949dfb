#!/usr/bin/env python3
"""What a call does to a voice: signal to noise through each codec, and what losses cost ears and people.

Enters: `audio` and `callbox` of this build, human telephone prompts, ffmpeg as the other half of G.722. Leaves: JSON with
signal-to-noise ratios (telephone band, aligned), PESQ (ITU-T P.862.1, narrowband, MOS-LQO) with 5 % of all packets lost at
random, and the word error rates of our ears with and without these losses.
"""
import argparse
import json
import pathlib
import subprocess
import sys
import tempfile

sys.path.insert(0, str(pathlib.Path(__file__).parent / "peers"))
import numpy
import scipy.signal
import soundfile
from imageio_ffmpeg import get_ffmpeg_exe
from pesq import pesq

import stt

RATE = 16_000
LOSS = 5
CODECS = ("pcmu", "pcma", "g722", "opus")


def band(samples):
    """The telephone band: what lies outside is nobody's fault."""
    return scipy.signal.sosfiltfilt(scipy.signal.butter(8, (200, 3300), "bandpass", fs=RATE, output="sos"), samples)


def read(path) -> numpy.ndarray:
    samples, rate = soundfile.read(path, dtype="float64")
    return band(scipy.signal.resample_poly(samples, RATE // rate, 1)) * 32767


def octets(samples) -> bytes:
    return numpy.clip(numpy.round(samples), -32768, 32767).astype("<i2").tobytes()


def samples(data: bytes) -> numpy.ndarray:
    return numpy.frombuffer(data, "<i2").astype("float64")


def run(command, data: bytes) -> bytes:
    return subprocess.run([str(part) for part in command], input=data, check=True, stdout=subprocess.PIPE).stdout


def aligned(sent, heard):
    """Both, without the delay of the way."""
    correlation = scipy.signal.correlate(heard, sent, "full", "fft")
    delay = int(numpy.argmax(correlation)) - len(sent) + 1
    heard = heard[max(0, delay):]
    length = min(len(sent), len(heard))
    return sent[:length], heard[:length]


def ratio(sent, heard) -> float:
    """Decibels, over what is said; a delay by parts of a sample is made up for."""
    sent, heard = aligned(sent, heard)
    sent, heard = sent[RATE // 10:-RATE // 10], heard[RATE // 10:-RATE // 10]
    spectrum, other = numpy.fft.rfft(sent), numpy.fft.rfft(heard)
    turns = numpy.exp(2j * numpy.pi * numpy.fft.rfftfreq(len(sent)))
    best = max((numpy.sum((spectrum * turns ** -shift) * other.conj()).real, shift)
               for shift in numpy.arange(-1, 1.01, 0.05))[1]
    sent, heard = band(numpy.fft.irfft(spectrum * turns ** -best, len(sent))), band(heard)
    gain = numpy.dot(sent, heard) / numpy.dot(heard, heard)
    inner = slice(RATE // 20, -RATE // 20)
    return 10 * numpy.log10(numpy.sum(sent[inner] ** 2) / numpy.sum((sent - gain * heard)[inner] ** 2))


def ffmpeg(kind: str, data: bytes) -> bytes:
    raw, coded = ["-f", "s16le", "-ar", RATE, "-ac", 1], ["-f", "g722"]
    first, last = (raw, coded) if kind == "encode" else (coded, raw)
    codec = ["-c:a", "g722"] if kind == "encode" else []
    quiet = [get_ffmpeg_exe(), "-hide_banner", "-loglevel", "error"]
    return run(quiet + first + ["-i", "-"] + codec + last + ["-"], data)


def opinion(sent, heard) -> float:
    sent, heard = aligned(sent, heard)
    narrow = [scipy.signal.resample_poly(part, 1, 2) / 32768 for part in (sent, heard)]
    return pesq(8000, *narrow, "nb")


def word_error(callbox, rows, through, folder) -> float:
    paths = []
    for number, (row, heard) in enumerate(zip(rows, through)):
        path = folder / f"{number}.wav"
        soundfile.write(path, heard / 32768, RATE, subtype="PCM_16")
        paths.append(path)
    texts = []
    for begin in range(0, len(paths), 50):
        output = run([callbox, "transcribe", "--json", *paths[begin:begin + 50]], b"").decode()
        decoder, at = json.JSONDecoder(), 0
        while at < len(output.rstrip()):
            value, at = decoder.raw_decode(output, at)
            while at < len(output) and output[at].isspace():
                at += 1
            texts += [part["text"] for part in (value if isinstance(value, list) else [value])]
    return stt.score(rows, {row["path"]: text for row, text in zip(rows, texts, strict=True)})[0]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bin", type=pathlib.Path, required=True)
    parser.add_argument("--out", type=pathlib.Path)
    parser.add_argument("--limit", type=int, default=60, help="prompts")
    parser.add_argument("--no-words", action="store_true", help="without the word error rates, which take minutes")
    arguments = parser.parse_args()
    audio = arguments.bin / "audio"
    rows = stt.prompts()[:: max(1, 242 // arguments.limit)]
    # A second of silence before, in which nothing is lost, and half of one behind, for the delay.
    pad = lambda sent: numpy.concatenate([numpy.zeros(RATE), sent, numpy.zeros(RATE // 2)])
    voices = [pad(read(row["path"])) for row in rows]

    result = {"prompts": len(rows), "loss_percent": LOSS, "snr_db": {}, "mos": {}, "mos_without_loss": {}}
    long = numpy.concatenate(voices)[: 120 * RATE]
    for codec in ("pcmu", "pcma", "g722"):
        result["snr_db"][codec] = round(ratio(long, samples(run([audio, codec], octets(long)))), 2)
    ours = run([audio, "g722-encode"], octets(long))
    result["snr_db"]["g722_ours_to_ffmpeg"] = round(ratio(long, samples(ffmpeg("decode", ours))), 2)
    theirs = ffmpeg("encode", octets(long))
    result["snr_db"]["g722_ffmpeg_to_ours"] = round(ratio(long, samples(run([audio, "g722-decode"], theirs))), 2)
    result["snr_db"]["g722_ffmpeg_alone"] = round(ratio(long, samples(ffmpeg("decode", theirs))), 2)

    lossy = {}
    for codec in CODECS:
        through = lambda seed, loss: samples(run([audio, codec, loss, seed], octets(voices[seed])))
        lossy[codec] = [through(seed, LOSS) for seed in range(len(rows))]
        clean = [through(seed, 0) for seed in range(len(rows))]
        mean = lambda heard: round(float(numpy.mean([opinion(a, b) for a, b in zip(voices, heard)])), 3)
        result["mos"][codec], result["mos_without_loss"][codec] = mean(lossy[codec]), mean(clean)
        if codec == "g722":
            told = [samples(run([audio, "g722-told", LOSS, seed], octets(voice))) for seed, voice in enumerate(voices)]
            result["mos_g722_told"] = mean(told)
        if not arguments.no_words:
            with tempfile.TemporaryDirectory() as folder:
                wer = lambda heard: round(word_error(arguments.bin / "callbox", rows, heard, pathlib.Path(folder)), 4)
                result.setdefault("wer", {})[codec] = wer(clean)
                result.setdefault("wer_with_loss", {})[codec] = wer(lossy[codec])
        print(codec, {key: value[codec] for key, value in result.items() if isinstance(value, dict) and codec in value},
              file=sys.stderr)
    result["snr_g711_db"] = min(result["snr_db"]["pcmu"], result["snr_db"]["pcma"])
    result["snr_g722_db"] = min(value for name, value in result["snr_db"].items() if "g722" in name and "alone" not in name)
    result["mos_g711"] = min(result["mos"]["pcmu"], result["mos"]["pcma"])
    if "wer" in result:
        result["wer_more_points"] = round(100 * max(result["wer_with_loss"][c] - result["wer"][c] for c in CODECS), 2)
    text = json.dumps(result, indent=1)
    if arguments.out:
        arguments.out.write_text(text + "\n")
    print(text)


if __name__ == "__main__":
    main()
