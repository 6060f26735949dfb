#!/usr/bin/env bash
# The peers that we measure ourselves against, each in a virtual environment of its own below $CALLBOX_CACHE/peers.
# Nothing of them enters the product. A peer that is there already is left as it is. Prints nothing when all are there.
set -euo pipefail
peers=${CALLBOX_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/callbox}/peers

environment() {
    local name=$1 probe=$2
    shift 2
    if "$peers/$name/bin/python" -c "$probe" 2>/dev/null; then return; fi
    echo "bench: installing the peers of $name into $peers/$name" >&2
    python3 -m venv "$peers/$name"
    "$peers/$name/bin/python" -m pip install --quiet --disable-pip-version-check "$@"
}

environment stt 'import whisper, scipy, soundfile' openai-whisper==20250625 scipy soundfile
environment audio 'import imageio_ffmpeg, pesq, scipy, soundfile, whisper' \
    imageio-ffmpeg==0.8.1 pesq==0.0.4 openai-whisper==20250625 scipy soundfile
environment tts 'import onnxruntime, piper' onnxruntime==1.31.1 piper-tts==1.8.0 onnx==1.23.2
# A build for the very processor (GGML_NATIVE) crashes on some machines; these are what every AVX2 machine has.
export CMAKE_ARGS="-DGGML_NATIVE=OFF -DGGML_AVX2=ON -DGGML_FMA=ON -DGGML_F16C=ON -DGGML_BMI2=ON"
environment llm 'import llama_cpp' llama-cpp-python==0.3.36
