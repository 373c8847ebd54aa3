import pytest
from hypothesis import given
from hypothesis import strategies as st

from process_users.keys import SourceKey, parse_key

LONGEST = "x" * 128

FILES = [
    # key, user id, picture (None: a record)
    ("1000.csv", "1000", None),
    ("0001.csv", "0001", None),
    ("1000.png", "1000", 0),
    ("1000.jpg", "1000", 1),
    ("1000.jpeg", "1000", 2),
    ("1000.CSV", "1000", None),
    ("1000.Png", "1000", 0),
    ("1000.JPEG", "1000", 2),
    ("1000.d.csv", "1000.d", None),
    ("1000.csv.csv", "1000.csv", None),
    ("1000.png.csv", "1000.png", None),
    (".hidden.csv", ".hidden", None),
    (" .csv", " ", None),
    ("....csv", "...", None),
    (". .csv", ". ", None),
    ("%2e.csv", "%2e", None),
    ("image.csv", "image", None),
    ("a b+c%20.csv", "a b+c%20", None),
    ("é.csv", "é", None),
    ("日本.png", "日本", 0),
    (
        "\N{WOMAN}\N{ZERO WIDTH JOINER}\N{PERSONAL COMPUTER}.csv",
        "\N{WOMAN}\N{ZERO WIDTH JOINER}\N{PERSONAL COMPUTER}",
        None,
    ),
    ("=1+1.csv", "=1+1", None),
    ('"quoted".csv', '"quoted"', None),
    ("'.csv", "'", None),
    ("\\.csv", "\\", None),
    (f"{LONGEST}.csv", LONGEST, None),
    ("日" * 128 + ".csv", "日" * 128, None),
]

REJECTED = [
    (".csv", None, "the key has no user id before its extension"),
    (".PNG", 0, "the key has no user id before its extension"),
    (f"{LONGEST}x.csv", None, "the user id has 129 characters, at most 128 are accepted"),
    ("a\tb.csv", None, "the user id has control characters"),
    ("a\nb.jpg", 1, "the user id has control characters"),
    ("\x01.csv", None, "the user id has control characters"),
    ("a\x7f.csv", None, "the user id has control characters"),
    ("a\x85.csv", None, "the user id has control characters"),
    ("..csv", None, "the user id is ., which no web address can hold"),
    ("...csv", None, "the user id is .., which no web address can hold"),
    ("..PNG", 0, "the user id is ., which no web address can hold"),
    ("...jpeg", 2, "the user id is .., which no web address can hold"),
]

IGNORED = [
    "",
    "1000",
    "1000.",
    "csv",
    "1000.txt",
    "1000.gif",
    "1000.csv.gz",
    "1000.csv ",
    "1000.csv/",
    "folder/1000.csv",
    "/1000.csv",
    "1000.ｃｓｖ",  # noqa: RUF001
    "1000.csv\x00",
    "1000\x00.csv",  # Postgres cannot hold a zero byte
    "\udcff.csv",  # the listing's way to show bytes that are no UTF-8
]


@pytest.mark.parametrize(("key", "user_id", "picture"), FILES)
def test_a_key_names_a_user_and_what_of_the_user_it_is(key: str, user_id: str, picture: int | None):
    assert parse_key(key, "") == SourceKey(key, user_id, picture)


@pytest.mark.parametrize(("key", "picture", "detail"), REJECTED)
def test_a_key_without_an_acceptable_user_id_is_rejected(key: str, picture: int | None, detail: str):
    assert parse_key(key, "") == SourceKey(key, None, picture, detail)


@pytest.mark.parametrize("key", IGNORED)
def test_any_other_key_is_ignored(key: str):
    assert parse_key(key, "") is None


@pytest.mark.parametrize(
    ("key", "user_id"),
    [
        ("in/1000.csv", "1000"),
        ("in/in.csv", "in"),
        ("1000.csv", None),
        ("other/1000.csv", None),
        ("in/deeper/1000.csv", None),
        ("inn/1000.csv", None),
    ],
)
def test_only_keys_directly_under_the_prefix_count(key: str, user_id: str | None):
    got = parse_key(key, "in/")
    assert (got and got.user_id) == user_id


@given(st.text(), st.sampled_from(["", "in/", "a/b/"]))
def test_no_key_is_too_odd_to_be_judged(key: str, prefix: str):
    parse_key(key, prefix)
    parse_key(prefix + key + ".csv", prefix)


@given(
    st.text(st.characters(exclude_categories=["Cc", "Cs"], exclude_characters="/"), min_size=1, max_size=128)
)
def test_every_text_without_control_characters_is_a_user_id_as_it_is(user_id: str):
    assert parse_key(f"{user_id}.csv", "") == SourceKey(f"{user_id}.csv", user_id, None)
