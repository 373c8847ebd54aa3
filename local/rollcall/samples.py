"""Sample data: about a hundred invented users with drawn pictures, and one file for each kind of dirt.

Always the same bytes, so that putting them again changes nothing.
"""

import colorsys
import io
import random
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta

from PIL import Image, ImageDraw

HEADER = "first_name, last_name, birthts"
FIRST_ID, ORDINARY_USERS = 1000, 84
PICTURE_SHARE = 0.8
PICTURE_SIZE = 128  # pixels a side
OVERSAMPLING = 2  # drawn larger and scaled down, which smooths the edges
CONTENT_TYPES = {"png": "image/png", "jpg": "image/jpeg", "jpeg": "image/jpeg"}

# First and last names of one row go together; they are names of nobody in particular.
NAMES = (
    (("Ada", "Bram", "Clara", "Dunja", "Edda", "Finn"), ("Achterberg", "Brandal", "Corvin", "Dahlke")),
    (("Amélie", "Benoît", "Chloé", "Éloi", "Zoë"), ("Lefèvre", "Montclair", "Béranger", "D'Aubray")),
    (("Søren", "Åse", "Björk", "Øyvind", "Þóra"), ("Ångström", "Sørli", "Hálfdans", "Kjær")),
    (("Łucja", "Zdeněk", "Šimon", "Žofie"), ("Wiśniak", "Dvořáček", "Křížek", "Żuraw")),
    (("Иван", "Оксана", "Людмила", "Юрий"), ("Лесной", "Морозко", "Щукина", "Ежевика")),
    (("Ελένη", "Νίκος", "Σοφία"), ("Θαλασσινός", "Ηλιάδη", "Μελάς")),
    (("مريم", "يوسف", "ليلى"), ("البحري", "الزيتوني", "نجم")),
    (("שירה", "נועם"), ("כרמלי", "אלון")),
    (("आरव", "मीरा", "काव्या"), ("वनमाली", "सागरे")),
    (("小春", "陽向", "さくら"), ("青木原", "星野川", "月島")),
    (("明月", "思远"), ("云山", "竹林")),
    (("하늘", "보라"), ("은하", "바다")),
    (("Thandiwe", "Kwabena", "Ngozi", "Sefu"), ("Mbiraji", "Okonta", "Dlomo")),
    (("Nguyệt", "Lan Anh", "Đức"), ("Trần Mây", "Phạm Suối")),
)


@dataclass(frozen=True, slots=True)
class Sample:
    """One object for the source bucket."""

    key: str
    body: bytes
    content_type: str


@dataclass(frozen=True, slots=True)
class User:
    """One invented person."""

    user_id: str
    first_name: str
    last_name: str
    birthdate: date

    @property
    def birthts(self) -> int:
        """Milliseconds since 1970-01-01 UTC, negative before."""
        born = datetime(self.birthdate.year, self.birthdate.month, self.birthdate.day, tzinfo=UTC)
        return (born - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(milliseconds=1)


# What is unusual about a user and yet right: ids that are no numbers, names that look like no name.
SPECIAL_USERS = (
    User("0001", "Nora", "Nullfünf", date(1989, 5, 28)),
    User("007", "Jamila", "Bondar", date(1968, 2, 29)),
    User("anna.maria", "Anna Maria", "Da Ponte", date(1996, 2, 29)),
    User("two words", "Ines", "Leer", date(1977, 12, 31)),
    User("50%+1", "Max", "Mehrheit", date(2001, 1, 1)),
    User("josé", "José", "Núñez", date(1934, 7, 14)),
    User("日本", "晴", "日野原", date(2012, 6, 10)),
    User("ольга", "Ольга", "Снегова", date(1959, 3, 8)),
    User("سلمى", "سلمى", "القمري", date(1992, 10, 3)),
    User("missing-1", "NA", "null", date(1985, 4, 1)),
    User("missing-2", "None", "NaN", date(1953, 4, 1)),
    User("eldest", "Augusta", "Ehrwürden", date(1900, 1, 1)),
    User("epoch", "Uri", "Nullzeit", date(1970, 1, 1)),
)


def samples() -> Iterator[Sample]:
    """Every object of the sample data, users first."""
    for user in users():
        yield Sample(f"{user.user_id}.csv", record(user), "text/csv")
        yield from _pictures_of(user)
    yield from _unusual_records()
    yield from _dirt()


def users() -> Iterator[User]:
    """The users whose record has the usual form and is valid."""
    for number in range(FIRST_ID, FIRST_ID + ORDINARY_USERS):
        choice = random.Random(number)  # noqa: S311 (variety, not secrecy)
        first_names, last_names = NAMES[number % len(NAMES)]
        born = date(1936, 1, 1) + timedelta(days=choice.randrange(80 * 365))
        yield User(str(number), choice.choice(first_names), choice.choice(last_names), born)
    yield from SPECIAL_USERS


def record(user: User) -> bytes:
    """The usual form of a record file."""
    return f"{HEADER}\n{user.first_name}, {user.last_name}, {user.birthts}\n".encode()


def _pictures_of(user: User) -> Iterator[Sample]:
    choice = random.Random(f"picture of {user.user_id}")  # noqa: S311
    if choice.random() > PICTURE_SHARE:
        return
    extension = choice.choice(("png", "png", "jpg", "jpeg"))
    yield picture(f"{user.user_id}.{extension}", seed=user.user_id)


def picture(key: str, *, seed: str) -> Sample:
    """A portrait of shapes in colours of its own, in the format that the key's extension says."""
    choice = random.Random(seed)  # noqa: S311
    side = PICTURE_SIZE * OVERSAMPLING
    hue = choice.random()
    image = Image.new("RGB", (side, side), _colour(hue, 0.28, 0.95))
    draw = ImageDraw.Draw(image)
    _draw_background(draw, side, choice=choice, hue=hue)
    _draw_person(draw, side, choice=choice, hue=hue)
    extension = key.rpartition(".")[2].lower()
    written = io.BytesIO()
    image.resize((PICTURE_SIZE, PICTURE_SIZE), Image.Resampling.LANCZOS).save(
        written, format="PNG" if extension == "png" else "JPEG"
    )
    return Sample(key, written.getvalue(), CONTENT_TYPES[extension])


def _draw_background(draw: ImageDraw.ImageDraw, side: int, *, choice: random.Random, hue: float) -> None:
    for shade in (0.34, 0.42, 0.5):
        radius = side * choice.uniform(0.15, 0.4)
        centre = (side * choice.random(), side * choice.uniform(0, 0.7))
        draw.circle(centre, radius, fill=_colour(hue + choice.uniform(-0.06, 0.06), shade, 0.9))


def _draw_person(draw: ImageDraw.ImageDraw, side: int, *, choice: random.Random, hue: float) -> None:
    skin = _colour(choice.uniform(0.05, 0.09), choice.uniform(0.25, 0.55), choice.uniform(0.45, 0.98))
    hair = _colour(choice.uniform(0.03, 0.12), choice.uniform(0.1, 0.7), choice.uniform(0.12, 0.8))
    clothes = _colour(hue + 0.5 + choice.uniform(-0.12, 0.12), 0.55, choice.uniform(0.5, 0.85))
    middle, head = side / 2, side * choice.uniform(0.19, 0.22)
    draw.ellipse((side * 0.14, side * 0.72, side * 0.86, side * 1.4), fill=clothes)
    if choice.random() < 0.5:  # long hair
        draw.rounded_rectangle(
            (middle - head * 1.15, side * 0.4, middle + head * 1.15, side * 0.8), head * 0.7, fill=hair
        )
    draw.rectangle((middle - head * 0.35, side * 0.5, middle + head * 0.35, side * 0.78), fill=skin)
    draw.circle((middle, side * 0.39), head * 1.15, fill=hair)
    draw.circle((middle, side * 0.46), head, fill=skin)


def _colour(hue: float, saturation: float, value: float) -> tuple[int, int, int]:
    red, green, blue = colorsys.hsv_to_rgb(hue % 1, saturation, value)
    return round(red * 255), round(green * 255), round(blue * 255)


def _unusual_records() -> Iterator[Sample]:
    """Valid records of an unusual form, and pictures that compete."""
    forms = {
        "bom.csv": "\ufefffirst_name, last_name, birthts\nBodo, Marke, 612302400000\n",
        "crlf.csv": "first_name,last_name,birthts\r\nCarla,Zeile,-86400000\r\n",
        "order.csv": "birthts, LAST_NAME, first_name, shoe_size\n1136073600000, Ordnung, Olli, 43\n",
        "quoted.csv": 'first_name, last_name, birthts\n"Doris ""Dodo""", "King, PhD", 315532800000\n',
    }
    for key, text in forms.items():
        yield Sample(key, text.encode(), "text/csv")
    yield picture("quoted.JPG", seed="quoted")
    yield picture("bom.jpg", seed="bom, second choice")
    yield picture("bom.png", seed="bom")


def _dirt() -> Iterator[Sample]:
    """One file for each reason to reject a record, named after it, and what is not looked at."""
    text = {
        "x" * 129: f"{HEADER}\nLang, Schlüssel, 0\n",
        "dirt-too_large": f"{HEADER}, notes\nViel, Text, 0, {'x' * 65_536}\n",
        "dirt-csv_malformed": f'{HEADER}\n"Offen, Ende, 0\n',
        "dirt-row_count": f"{HEADER}\nEins, Zeile, 0\nZwei, Zeile, 0\n",
        "dirt-cell_count": f"{HEADER}\nOhne, Datum\n",
        "dirt-column_missing": "first_name, last_name\nOhne, Spalte\n",
        "dirt-column_repeated": "first_name, last_name, birthts, birthts\nDoppelt, Spalte, 0, 1\n",
        "dirt-name_empty": f"{HEADER}\nNiemand,   , 0\n",
        "dirt-name_too_long": f"{HEADER}\nLang, {'a' * 201}, 0\n",
        "dirt-name_control": f"{HEADER}\nGlocke\x07, Ton, 0\n",
        "dirt-birthts_malformed": f"{HEADER}\nKeine, Zahl, 6.1e11\n",
        "dirt-birthts_out_of_range": f"{HEADER}\nAus, Zukunft, 32503680000000\n",
    }
    for user_id, content in text.items():
        yield Sample(f"{user_id}.csv", content.encode(), "text/csv")
    yield Sample("dirt-not_utf8.csv", f"{HEADER}\nJürgen, Größe, 0\n".encode("latin-1"), "text/csv")
    # the same twice, as a file system that ignores case keeps only one of them
    for key in ("duplicate.CSV", "duplicate.csv"):
        yield Sample(key, f"{HEADER}\nDuo, Doppel, 946684800000\n".encode(), "text/csv")
    yield Sample("readme.txt", b"Neither a record nor a picture: ignored.\n", "text/plain")
    yield Sample("archive/1000.csv", f"{HEADER}\nTief, Unten, 0\n".encode(), "text/csv")
    yield picture("nobody.png", seed="a picture without a record")
