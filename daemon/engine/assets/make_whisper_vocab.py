#!/usr/bin/env python3
"""Writes whisper-english.bin and whisper-multilingual.bin beside this file.

Needs openai-whisper (MIT, (c) 2022 OpenAI), whose vocabularies these are. Each token above 255 is a pair of earlier
tokens, as byte-pair encoding made it; so a vocabulary of 50 257 texts is 200 KB. Layout, little-endian:
256 bytes (the first tokens), u32 count and u16 numbers (pairs), u32 count and u16 numbers (suppressed symbols).
"""
import base64
import pathlib
import struct

import whisper
from whisper.tokenizer import get_tokenizer

ASSETS = pathlib.Path(whisper.__file__).parent / "assets"
NOTHING = 0xFFFF


def pair(ranks: dict[bytes, int], token: bytes) -> tuple[int, int]:
    """The two tokens that were merged last into this one."""
    if not token:
        return NOTHING, NOTHING
    limit, parts = ranks[token], [bytes([b]) for b in token]
    while len(parts) > 2:
        merged = [ranks.get(a + b, limit) for a, b in zip(parts, parts[1:])]
        best = min(range(len(merged)), key=merged.__getitem__)
        assert merged[best] < limit, token
        parts[best : best + 2] = [parts[best] + parts[best + 1]]
    return ranks[parts[0]], ranks[parts[1]]


def numbers(values: list[int]) -> bytes:
    return struct.pack(f"<I{len(values)}H", len(values), *values)


for source, name, multilingual in (("gpt2", "english", False), ("multilingual", "multilingual", True)):
    lines = (ASSETS / f"{source}.tiktoken").read_text().split("\n")
    ranks = {}
    for line in filter(None, lines):
        token, rank = line.split()
        ranks[base64.b64decode(token) if token != "=" else b""] = int(rank)
    texts = sorted(ranks, key=ranks.__getitem__)
    assert [ranks[t] for t in texts] == list(range(len(texts)))
    pairs = [part for text in texts[256:] for part in pair(ranks, text)]
    symbols = get_tokenizer(multilingual).non_speech_tokens
    data = b"".join(texts[:256]) + numbers(pairs) + numbers(list(symbols))
    out = pathlib.Path(__file__).with_name(f"whisper-{name}.bin")
    out.write_bytes(data)
    print(out, len(data))
