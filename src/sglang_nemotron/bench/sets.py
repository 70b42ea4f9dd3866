"""Tiny sets of our own in the forms of the real ones: they prove that a server is asked and scored, not how good it is.

Texts were written for this package, pictures are drawn here, and recordings are those that the package ships; spoken
numbers come beside them where espeak-ng is installed. Pillow draws, of the extra `omni`, imported inside functions.
"""

from __future__ import annotations

import io
import shutil
import subprocess

from sglang_nemotron.bench.questions import Item, Rows, Set

_SHORT = 256

# question, how it is worked out, answer
_SUMS = (
    ("Ana has 3 boxes of 12 pencils. How many pencils has she?", "3 boxes of 12 are 3*12=36.", 36),
    ("A bus with 40 seats has 27 riders. How many seats are free?", "40-27=13 seats are free.", 13),
    ("Tom walks 4 km a day. How far does he walk in a week?", "A week has 7 days, 4*7=28.", 28),
    ("A baker sells 15 loaves at 4 dollars each. What does he earn?", "15*4=60 dollars.", 60),
    ("Five friends share 45 apples evenly. How many gets each?", "45/5=9 apples.", 9),
    ("A tank of 100 litres loses 8 litres an hour. What is left after 6 hours?", "6*8=48 are lost, 100-48=52.", 52),
    ("Lea saves 25 dollars a month. How much has she after a year?", "A year has 12 months, 12*25=300.", 300),
    ("A film begins at 7 and lasts 150 minutes. How many minutes after 9 does it end?", "2 h are 120, 150-120=30.", 30),
    ("Two trains carry 650 and 850 people. How many is that?", "650+850=1,500.", "1,500"),
    ("A shelf has 6 rows of 14 books, and 20 are lent. How many are there?", "6*14=84, 84-20=64.", 64),
    ("Half of 90 children swim, a third of those dive. How many dive?", "90/2=45, 45/3=15.", 15),
    ("A rope of 72 m is cut into pieces of 8 m. How many cuts are made?", "72/8=9 pieces, which take 9-1=8 cuts.", 8),
)

_CAPITALS = (
    ("What is the capital of France?", "Lyon", "Paris", "Nice", "Lille", "B"),
    ("What is the capital of Japan?", "Tokyo", "Osaka", "Kyoto", "Nara", "A"),
    ("What is the capital of Egypt?", "Luxor", "Aswan", "Suez", "Cairo", "D"),
    ("What is the capital of Norway?", "Bergen", "Tromso", "Oslo", "Stavanger", "C"),
    ("What is the capital of Canada?", "Toronto", "Ottawa", "Montreal", "Vancouver", "B"),
    ("What is the capital of Italy?", "Rome", "Milan", "Turin", "Naples", "A"),
    ("What is the capital of Peru?", "Cusco", "Arequipa", "Trujillo", "Lima", "D"),
    ("What is the capital of Kenya?", "Mombasa", "Kisumu", "Nairobi", "Nakuru", "C"),
    ("What is the capital of Greece?", "Patras", "Athens", "Sparta", "Corinth", "B"),
    ("What is the capital of Australia?", "Sydney", "Perth", "Hobart", "Canberra", "D"),
    ("What is the capital of Spain?", "Madrid", "Seville", "Bilbao", "Valencia", "A"),
)
_MATTER = (
    ("At what temperature does water freeze at sea level, in degrees Celsius?", "-10", "0", "10", "32", "B"),
    ("Which of these is a metal?", "oxygen", "sulphur", "neon", "iron", "D"),
    ("Which planet is closest to the sun?", "Mercury", "Venus", "Earth", "Mars", "A"),
    ("What do plants take up from the air to grow?", "helium", "argon", "carbon dioxide", "ozone", "C"),
    ("How many sides has a hexagon?", "five", "six", "seven", "eight", "B"),
    ("Which gas do people need to breathe?", "oxygen", "methane", "hydrogen", "chlorine", "A"),
    ("What is the hardest of these?", "chalk", "wood", "wax", "diamond", "D"),
    ("Which travels fastest?", "sound", "a train", "light", "a bird", "C"),
    ("What is H2O?", "salt", "water", "sugar", "sand", "B"),
    ("Which of these floats on water?", "a cork", "a coin", "a brick", "a key", "A"),
    ("What does a thermometer measure?", "weight", "length", "time", "temperature", "D"),
)

_COLOURS = {"red": (200, 30, 30), "green": (30, 140, 50), "blue": (40, 70, 200), "black": (20, 20, 20)}
# shape, colour, how many
_SHAPES = (("circle", "red", 1), ("square", "blue", 2), ("triangle", "green", 3), ("circle", "black", 4))
_DIGITS = (7, 42, 305, 9)
_SIDE = 448

# what the package's recording says; src/sglang_nemotron/cli/media/README.md
SPOKEN = "The ferry leaves the harbour at seven, and the bridge is closed until noon."
_TRANSCRIBE = "Write down exactly what is said, and nothing else."
_SPOKEN_NUMBERS = ("four nine two", "seven seven one", "three zero eight", "six five four")


def sums() -> list[dict[str, str]]:
    """Twelve word problems in GSM8K's form."""
    return [{"question": asked, "answer": f"{how}\n#### {answer}"} for asked, how, answer in _SUMS]


def choices() -> dict[str, tuple[Rows, Rows]]:
    """Two subjects in MMLU's form, with five examples and six questions each: twelve questions."""
    return {name: (rows[:5], rows[5:]) for name, rows in (("capital_cities", _CAPITALS), ("plain_facts", _MATTER))}


def pictures() -> Set:
    """Twelve questions about eight drawn pictures: what shape, which colour, how many, which number. Exact matches."""
    items = []
    for shape, colour, count in _SHAPES:
        shown = (("image", _png(_shapes(shape, colour, count)), "png"),)
        asked = [
            ("How many shapes are there? Answer with a number.", (str(count),)),
            ("What colour is it? Answer with one word.", (colour,)),
        ]
        items += [
            Item(f"{count} {colour} {shape} {at}", text, right, media=shown) for at, (text, right) in enumerate(asked)
        ]
    for number in _DIGITS:
        shown = (("image", _png(_written(str(number))), "png"),)
        items.append(
            Item(f"number {number}", "Which number is written here? Answer with it.", (str(number),), media=shown)
        )
    return Set("12 questions about drawn pictures, our own", "match", tuple(items), _SHORT)


def recordings(speech: bytes) -> Set:
    """Transcripts: the package's sentence as it is, as a WAV, and at a telephone's rate; four numbers beside it where
    espeak-ng speaks. Word error rate.
    """
    made = [("mp3", speech), ("wav", _again(speech, 16_000)), ("wav", _again(speech, 8_000))]
    items = [
        Item(f"sentence {number}", _TRANSCRIBE, (SPOKEN,), media=(("audio", data, form),))
        for number, (form, data) in enumerate(made)
    ]
    if program := shutil.which("espeak-ng"):
        for text in _SPOKEN_NUMBERS:
            items.append(Item(text, _TRANSCRIBE, (text,), media=(("audio", _spoken(program, text), "wav"),)))
    spoken = " and 4 of espeak-ng's" if len(items) > 3 else ""
    return Set(f"3 recordings of the package's sentence{spoken}", "transcript", tuple(items), _SHORT)


def _again(speech: bytes, rate: int) -> bytes:
    """The recording at another rate, as a WAV of 16 bits."""
    import librosa
    import soundfile

    from sglang_nemotron.parity.media_files import RATE_HZ, samples

    heard = librosa.resample(samples(speech), orig_sr=RATE_HZ, target_sr=rate)
    file = io.BytesIO()
    soundfile.write(file, heard, rate, format="WAV")
    return file.getvalue()


def _spoken(program: str, text: str) -> bytes:
    done = subprocess.run([program, "-v", "en", "--stdout", text], capture_output=True, check=True)
    return done.stdout


def _png(image: object) -> bytes:
    from PIL import Image

    assert isinstance(image, Image.Image)
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


def _shapes(shape: str, colour: str, count: int) -> object:
    from PIL import Image, ImageDraw

    image = Image.new("RGB", (_SIDE, _SIDE), "white")
    pen, half, size = ImageDraw.Draw(image), _SIDE // 2, _SIDE // 6
    for number in range(count):
        x, y = half // 2 + half * (number % 2), half // 2 + half * (number // 2)
        box = (x - size, y - size, x + size, y + size)
        if shape == "circle":
            pen.ellipse(box, _COLOURS[colour])
        elif shape == "square":
            pen.rectangle(box, _COLOURS[colour])
        else:
            pen.polygon(((x, y - size), (x - size, y + size), (x + size, y + size)), _COLOURS[colour])
    return image


def _written(text: str) -> object:
    from PIL import Image, ImageDraw, ImageFont

    image = Image.new("RGB", (_SIDE, _SIDE), "white")
    font = ImageFont.load_default(160)
    ImageDraw.Draw(image).text((_SIDE // 2, _SIDE // 2), text, fill="black", font=font, anchor="mm")
    return image
