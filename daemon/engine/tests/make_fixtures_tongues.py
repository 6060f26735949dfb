#!/usr/bin/env python3
"""Makes tests/fixtures/voice/tongues.json: sentences, and the phonemes that Kokoro's authors make of them.

Needs: pip install misaki==0.9.4 phonemizer-fork==3.3.2 espeakng-loader==0.2.4 regex fugashi==1.5.2 unidic-lite==1.0.8
jaconv==0.5.0 mojimoji==0.0.13 cn2an==0.5.24 jieba==0.42.1 ordered-set pypinyin==0.55.0 addict Faker==40.54.0.
Reads: tests/fixtures/voice/tongues.txt, a language and a sentence on each line. To them come words that people say on a
telephone, by Faker, always the same: whom to ask for, where to, and sentences where it has words of that language.
No digits, and no abbreviations: misaki cuts at every point and colon, which is not how they are said. It knows no Hindi full
stop, so it is given a point.
"""
import json
import re
from pathlib import Path

from faker import Faker
from misaki import ja, zh
from misaki.espeak import EspeakG2P

HERE = Path(__file__).parent / "fixtures/voice"
EACH = 200
READERS = {
    "es": ("es_ES", EspeakG2P("es")),
    "fr": ("fr_FR", EspeakG2P("fr-fr")),
    "hi": ("hi_IN", EspeakG2P("hi")),
    "it": ("it_IT", EspeakG2P("it")),
    "pt": ("pt_BR", EspeakG2P("pt-br")),
    "ja": ("ja_JP", ja.JAG2P()),
    "zh": ("zh_CN", zh.ZHG2P()),
}


def said(faker, language):
    """One of what a telephone agent may have to say, without digits."""
    kinds = [faker.name, faker.city, faker.company, faker.address, faker.job, faker.sentence, faker.sentence]
    while True:
        text = faker.random_element(kinds)().replace("\n", ", ")
        text = re.sub(r"[^\w\s.,!?;:'’।。、，！？\u0900-\u097f-]|_", " ", text)
        text = re.sub(r"\s+", " ", text).strip()
        own = {"hi": r"[\u0900-\u097f]", "ja": r"[\u3040-\u9fff]", "zh": r"[\u4e00-\u9fff]"}.get(language, r"\w")
        cut = re.search(r"\w[.,:;]\w|\b\w\.| - |\.[^.]+\.", text)
        latin = language in ("hi", "ja", "zh") and re.search("[A-Za-z]", text)
        if len(text) > 2 and re.search(own, text) and not (re.search(r"\d", text) or latin or cut):
            return text


def main():
    lines = [line.split(" ", 1) for line in (HERE / "tongues.txt").read_text().splitlines()]
    rows = []
    for language, (locale, reader) in READERS.items():
        faker = Faker(locale)
        faker.seed_instance(82)
        texts = [text for of, text in lines if of == language]
        while len(texts) < EACH:
            text = said(faker, language)
            if text not in texts:
                texts.append(text)
        rows += [{"language": language, "text": text, "phonemes": reader(text.replace("।", "."))[0]} for text in texts]
    body = ",\n".join(json.dumps(row, ensure_ascii=False, separators=(",", ":")) for row in rows)
    (HERE / "tongues.json").write_text(f"[{body}]\n")


if __name__ == "__main__":
    main()
