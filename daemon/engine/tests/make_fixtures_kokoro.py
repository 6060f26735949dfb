#!/usr/bin/env python3
"""Makes tests/fixtures/kokoro from the published int8 graph, with f32 arithmetic, under onnxruntime.

Needs: pip install onnxruntime onnx numpy; the model kokoro-82m under $CALLBOX_MODELS or ~/.cache/callbox/models.
Writes: cases.json, and for each case NAME.wav (16 bit, not normalised) and NAME.f32 (pitch in Hz, then energy; two of each
for every frame).

The graph quantises activations as it runs, which is another computation than ours: weights are brought back to f32 here,
and every activation stays f32. Three things are done outside of it, in f64, because the export is not the model:
the noise of the source, which was exported away; the phase of its spectrum, which is rounding noise where a bin is empty;
and the overlap-add at the end, whose window the export knows for a single frame only.
"""
import json
import os
import wave
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from onnx import numpy_helper

HERE = Path(__file__).parent / "fixtures/kokoro"
MODELS = Path(os.environ.get("CALLBOX_MODELS", Path.home() / ".cache/callbox/models"))
FOLDER = MODELS / "kokoro-82m"
F0, ENERGY = "/encoder/Reshape_output_0", "/encoder/Reshape_1_output_0"
DURATIONS, SPECTRUM = "/encoder/Cast_output_0", "/decoder/decoder/generator/Concat_3_output_0"
SOURCE = "/decoder/decoder/generator/Squeeze_output_0"
OVERLAPPED = "/decoder/decoder/generator/istft/stft/ConvTranspose_output_0"
RATE, HOP, FFT, STEP = 24000, 300, 20, 5

# name, voice, phonemes as token ids (Kokoro's, without the pads at both ends), speed
CASES = [
    ("plain", "af_heart", [50, 83, 54, 156, 31, 3, 16, 50, 156, 39, 16, 53, 156, 72, 56, 16, 25, 16, 50, 156, 86, 54, 58, 16,
                           52, 63, 6], 1.0),
    ("slow", "bm_george", [52, 156, 86, 61, 4], 0.8),
]


def deviates(count):
    """The test's noise: the same integers as in voice_kokoro.rs, uniform in +-1.7."""
    index = np.arange(count, dtype=np.uint64)
    mixed = (index * np.uint64(2654435761) + np.uint64(12345)) & np.uint64(0xFFFFFFFF)
    mixed = ((mixed ^ (mixed >> np.uint64(15))) * np.uint64(2246822519)) & np.uint64(0xFFFFFFFF)
    return (mixed >> np.uint64(8)).astype(np.float32) / np.float32(2**24) * np.float32(3.4) - np.float32(1.7)


def dequantised():
    """The graph in f32, and the weights by name."""
    model = onnx.load(FOLDER / "kokoro-v1.0.int8.onnx")
    graph = model.graph
    tensors = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    consumers = {}
    for node in graph.node:
        for name in node.input:
            consumers.setdefault(name, []).append(node)
    quantised = {}  # of an activation -> itself
    kept, fresh = [], {}

    def weight(name, zero):
        scale = tensors[name.removesuffix("_quantized") + "_scale"]
        value = (tensors[name].astype(np.float32) - tensors[zero].astype(np.float32)) * scale
        fresh[name + "_f32"] = value.astype(np.float32)
        return name + "_f32"

    def last(name):
        """The product of scales at the end of what follows an integer product, and the bias on the way there."""
        bias = None
        while True:
            node, = consumers[name]
            if node.op_type == "Add":
                bias, = [other for other in node.input if other != name]
            name = node.output[0]
            if node.op_type == "Mul":
                return name, bias

    dropped = set()
    for node in graph.node:
        if node.op_type == "DynamicQuantizeLinear":
            quantised[node.output[0]] = node.input[0]
        elif node.op_type in ("MatMulInteger", "ConvInteger"):
            out, bias = last(node.output[0])
            inputs = [quantised[node.input[0]], weight(node.input[1], node.input[3])]
            if bias is not None:
                inputs.append(bias.removesuffix("/Conv_output_0_reshape"))
                reshape, = [n for n in graph.node if n.output[0] == bias]
                inputs[-1] = reshape.input[0].removesuffix("_quantized")
            made = onnx.helper.make_node(node.op_type.removesuffix("Integer"), inputs, [out], node.name + "_f32")
            made.attribute.extend(node.attribute)
            kept.append(made)
            dropped.add(out)
        elif node.op_type == "DynamicQuantizeLSTM":
            names = list(node.input)
            for at, scale, zero in [(1, 8, 9), (2, 10, 11)]:
                value = tensors[names[at]].astype(np.float32) - tensors[names[zero]].astype(np.float32)[:, None, None]
                value = value * tensors[names[scale]].reshape(2, 1, -1)
                fresh[names[at] + "_f32"] = np.ascontiguousarray(value.transpose(0, 2, 1)).astype(np.float32)
                names[at] += "_f32"
            made = onnx.helper.make_node("LSTM", names[:7], list(node.output), node.name + "_f32")
            made.attribute.extend(a for a in node.attribute if a.name in ("direction", "hidden_size"))
            kept.append(made)
        elif not (node.op_type == "Mul" and node.output[0] in dropped):
            kept.append(node)
    del graph.node[:]
    graph.node.extend(kept)
    for name, value in fresh.items():
        graph.initializer.append(numpy_helper.from_array(value, name))
    return model, tensors


def session(model, inputs, outputs):
    graph = model.graph
    for name, dtype, shape in inputs:
        for node in graph.node:
            if name in node.output:
                node.output[list(node.output).index(name)] = name + "_of_the_graph"
        graph.input.append(onnx.helper.make_tensor_value_info(name, dtype, shape))
    del graph.output[:]
    for name, dtype in outputs:
        graph.output.append(onnx.helper.make_tensor_value_info(name, dtype, None))
    # What no output needs any more is left out.
    needed, kept = {name for name, _ in outputs}, []
    for node in reversed(graph.node):
        if needed & set(node.output):
            kept.append(node)
            needed |= set(node.input)
    del graph.node[:]
    graph.node.extend(reversed(kept))
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def source(f0, tensors, noise):
    """The harmonic source (Wang et al. 2019): nine sines with the pitch's phase, noise, one wave."""
    f0 = f0.astype(np.float64)
    harmonics = np.arange(1, 10)
    phase = np.cumsum((f0[:, None] * harmonics / RATE) % 1.0, axis=0) * HOP
    at = np.clip((np.arange(len(f0) * HOP) + 0.5) / HOP - 0.5, 0, len(f0) - 1)
    low = np.minimum(at.astype(int), len(f0) - 2)
    part = (at - low)[:, None]
    sines = np.sin(2 * np.pi * (phase[low] * (1 - part) + phase[low + 1] * part)) * 0.1
    voiced = np.repeat(f0 > 10, HOP)[:, None]
    sines = sines * voiced + noise.reshape(-1, 9) * np.where(voiced, 0.003, 0.1 / 3)
    linear = tensors["onnx::MatMul_6993"].astype(np.float64)[:, 0]
    return np.tanh(sines @ linear + tensors["decoder.decoder.generator.m_source.l_linear.bias"].astype(np.float64))


def spectrum(wave_):
    """Magnitudes, then phases, of each window; a bin that is real has the phase 0 or pi."""
    padded = np.pad(wave_, FFT // 2, mode="reflect")
    window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(FFT) / FFT)
    frames = np.lib.stride_tricks.sliding_window_view(padded, FFT)[::STEP] * window
    bins = np.fft.rfft(frames)
    bins.imag[:, [0, -1]] = 0.0
    return np.concatenate([np.abs(bins), np.angle(bins)], axis=1).T[None].astype(np.float32)


def main():
    f32, i64 = onnx.TensorProto.FLOAT, onnx.TensorProto.INT64
    model, tensors = dequantised()
    first = session(model, [], [(DURATIONS, i64), (F0, f32), (ENERGY, f32), (SOURCE, f32)])
    model, _ = dequantised()
    second = session(model, [(SPECTRUM, f32, [1, 22, "n"])], [(OVERLAPPED, f32)])
    cases = []
    HERE.mkdir(exist_ok=True)
    for name, voice, ids, speed in CASES:
        style = np.fromfile(FOLDER / f"{voice}.bin", np.float32).reshape(510, 1, 256)[len(ids) - 1]
        feed = {"tokens": np.array([[0, *ids, 0]]), "style": style, "speed": np.array([speed], np.float32)}
        durations, f0, energy, theirs = first.run(None, feed)
        durations, f0, energy = durations.flatten(), f0.flatten(), energy.flatten()
        ours = source(f0, tensors, np.zeros(len(f0) * HOP * 9))
        assert np.abs(ours - theirs.flatten()).max() < 0.01, "the source is not the graph's"
        wave_ = source(f0, tensors, deviates(len(f0) * HOP * 9))
        [overlapped] = second.run(None, {**feed, SPECTRUM: spectrum(wave_)})
        # torch.istft: divided by the overlapped squares of the window, without half a window at both ends.
        window = (0.5 - 0.5 * np.cos(2 * np.pi * np.arange(FFT) / FFT)) ** 2
        envelope = np.zeros(overlapped.size)
        for at in range(0, overlapped.size - FFT + 1, STEP):
            envelope[at:at + FFT] += window
        audio = (overlapped.flatten() * (FFT / STEP))[FFT // 2:-FFT // 2] / envelope[FFT // 2:-FFT // 2]
        assert len(audio) == durations.sum() * 2 * HOP
        with wave.open(str(HERE / f"{name}.wav"), "wb") as out:
            out.setnchannels(1), out.setsampwidth(2), out.setframerate(RATE)
            out.writeframes(np.clip(np.rint(audio * 32767), -32768, 32767).astype("<i2").tobytes())
        np.concatenate([f0, energy]).astype("<f4").tofile(HERE / f"{name}.f32")
        cases.append({"name": name, "voice": voice, "ids": ids, "speed": speed, "durations": durations.tolist()})
        print(name, len(audio) / RATE, "s, peak", np.abs(audio).max())
    (HERE / "cases.json").write_text(json.dumps(cases, separators=(",", ":")).replace("},{", "},\n{") + "\n")


if __name__ == "__main__":
    main()
