#!/usr/bin/env python3
"""Makes tests/fixtures/embed/cases.json with Hugging Face's BERT: mean of the last layer, normalised.

Needs: pip install torch transformers; the pack `tiny` under $CALLBOX_MODELS or ~/.cache/callbox/models.
"""
import json
import os
from pathlib import Path

import torch
from tokenizers import Tokenizer
from transformers import BertConfig, BertModel
from safetensors.torch import load_file

HERE = Path(__file__).parent / "fixtures/embed"
MODELS = Path(os.environ.get("CALLBOX_MODELS", Path.home() / ".cache/callbox/models")) / "minilm-l6-v2"
TEXTS = [
    "When is breakfast?",
    "What time do you serve breakfast?",
    "Are you open on Sunday?",
    "Are you open on Monday?",
    "I'd like to cancel my appointment, please.",
    "I don't want to cancel my appointment.",
    "Wie viel kostet ein Doppelzimmer im März?",
    "ok",
    "How much is a double room with a sea view for two adults and three children, half board, in the first week of "
    "August, and can we bring our dog, which is small and very quiet and sleeps most of the day?",
]

config = BertConfig(
    hidden_size=384, num_hidden_layers=6, num_attention_heads=12, intermediate_size=1536, layer_norm_eps=1e-12,
    vocab_size=30522, max_position_embeddings=512, type_vocab_size=2,
)
model = BertModel(config, add_pooling_layer=False)
weights = load_file(MODELS / "model.safetensors")
missing, _ = model.load_state_dict(weights, strict=False)
assert not missing, missing
model.eval()
tokenizer = Tokenizer.from_file(str(MODELS / "tokenizer.json"))
tokenizer.no_padding()

cases = []
for text in TEXTS:
    ids = torch.tensor([tokenizer.encode(text).ids])
    with torch.no_grad():
        rows = model(input_ids=ids).last_hidden_state[0]
    mean = torch.nn.functional.normalize(rows.mean(0), dim=0)
    cases.append({"text": text, "vector": [round(number, 5) for number in mean.tolist()]})
HERE.mkdir(parents=True, exist_ok=True)
(HERE / "cases.json").write_text(json.dumps(cases, ensure_ascii=False, separators=(",", ":")) + "\n")
