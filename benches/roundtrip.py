#!/usr/bin/env python3
"""Our ears on our voice over G.711: fifty sentences of a receptionist, said, sent through µ-law at 8 kHz, understood.

Enters: the executables, sox; run by the Python that has openai-whisper, for its English normaliser.
Leaves: the word error rate and every sentence that was not understood whole.
"""
import argparse
import json
import pathlib
import subprocess
import tempfile

SENTENCES = """
Good morning, how can I help you?
Our office is open from nine to five.
The doctor can see you on Tuesday afternoon.
Please bring your insurance card with you.
Could you tell me your name again, please?
I am afraid that room is already taken.
Breakfast is served on the ground floor.
The next train leaves in twenty minutes.
You can park your car behind the building.
I will send you a letter with the details.
The bridge is closed because of the storm.
Would you like to speak to my colleague?
Your package will arrive on Friday morning.
The water was turned off for repairs.
We do not accept checks, only cash or cards.
The swimming pool closes at eight in the evening.
My brother lives in a small town near the coast.
Please hold the line for one moment.
The meeting was moved to the second of March.
There is a pharmacy right across the street.
I can offer you a table by the window.
The garden is beautiful at this time of year.
Your appointment was cancelled yesterday.
How many people will be coming with you?
The bill must be paid within thirty days.
We have two rooms with a view of the lake.
A technician will come to your house tomorrow.
The heating does not work in the bathroom.
Children under six travel free of charge.
Turn left after the church and then go straight.
I did not understand your last question.
The manager is on holiday until Monday.
It takes about half an hour by bus.
You will receive a message when it is ready.
The library is closed on Sundays.
Can you spell your last name for me?
The price includes taxes and a warm meal.
Our kitchen is open until ten at night.
There was a mistake in your last order.
The elevator is next to the front desk.
I would be happy to change your booking.
Dogs are welcome, but cats are not allowed.
The weather will be sunny and warm today.
Please do not forget to lock the door.
She works at the hospital three days a week.
The key is under the mat at the back door.
We will call you back before noon.
The museum has a new exhibition this month.
Your account has been closed at your request.
Thank you for calling, and have a nice day.
""".strip().splitlines()


def word_errors(said: list[str], heard: list[str]) -> int:
    row = list(range(len(heard) + 1))
    for i, word in enumerate(said, 1):
        before, row[0] = row[0], i
        for j, other in enumerate(heard, 1):
            before, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, before + (word != other))
    return row[-1]


def texts(value) -> list[str]:
    """Every `text` in the output of `callbox transcribe --json`, in its order."""
    if isinstance(value, dict):
        own = [value["text"]] if isinstance(value.get("text"), str) else []
        return own + [text for key, inner in value.items() if key != "text" for text in texts(inner)]
    return [text for inner in value for text in texts(inner)] if isinstance(value, list) else []


def main() -> None:
    from whisper.normalizers import EnglishTextNormalizer

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bin", type=pathlib.Path, required=True, help="folder of the executables")
    parser.add_argument("--out", type=pathlib.Path, required=True)
    parser.add_argument("--voice", help="who speaks, instead of the configuration's voice")
    arguments = parser.parse_args()
    callbox, normal = arguments.bin / "callbox", EnglishTextNormalizer()
    voice = ["--voice", arguments.voice] if arguments.voice else []
    assert len(SENTENCES) == 50
    with tempfile.TemporaryDirectory() as folder:
        files = []
        for number, sentence in enumerate(SENTENCES):
            spoken, telephone = pathlib.Path(folder, "spoken.wav"), pathlib.Path(folder, f"{number:02}.wav")
            subprocess.run([callbox, "say", sentence, "--out", spoken, *voice], check=True)
            # Through µ-law and back, as a call does.
            encode = ["sox", spoken, "-t", "raw", "-e", "u-law", "-r", "8000", "-c", "1", "-"]
            coded = subprocess.run(encode, check=True, stdout=subprocess.PIPE).stdout
            decode = ["sox", "-t", "raw", "-e", "u-law", "-r", "8000", "-c", "1", "-", "-e", "signed", "-b", "16", telephone]
            subprocess.run(decode, check=True, input=coded)
            files.append(telephone)
        output = subprocess.run([callbox, "transcribe", *files, "--json"], check=True, stdout=subprocess.PIPE, text=True).stdout
    try:
        heard = texts(json.loads(output))
    except json.JSONDecodeError:
        heard = [text for line in output.splitlines() for text in texts(json.loads(line))]
    assert len(heard) == len(SENTENCES), f"{len(heard)} texts for {len(SENTENCES)} recordings"
    errors, words, wrong = 0, 0, []
    for sentence, text in zip(SENTENCES, heard):
        said = normal(sentence).split()
        missed = word_errors(said, normal(text).split())
        errors, words = errors + missed, words + len(said)
        if missed:
            wrong.append({"said": sentence, "heard": text})
    result = {"sentences": len(SENTENCES), "words": words, "wer": round(errors / words, 4), "wrong": wrong}
    print(json.dumps(result, indent=2))
    arguments.out.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
