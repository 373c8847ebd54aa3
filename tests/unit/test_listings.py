"""Pages of listings, in the forms that stores write them."""

from xml.etree import ElementTree

import pytest

from process_users.listings import Listed, parse_page

HEAD = '<?xml version="1.0" encoding="UTF-8"?>\n<ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/">'
TAIL = "</ListBucketResult>"
ENCODED = "<EncodingType>url</EncodingType>"
MORE = "<NextContinuationToken>a&amp;b</NextContinuationToken><IsTruncated>true</IsTruncated>"
WANT = Listed("1.csv", "0f-2", 67, "2026-11-25")


def to_xml(
    key: str = "1.csv", *, etag: str = "&#34;0f-2&#34;", more: str = "<StorageClass>STANDARD</StorageClass>"
) -> str:
    return (
        f"<Contents><Key>{key}</Key><LastModified>2026-11-25T01:03:47.000Z</LastModified>"
        f"<ETag>{etag}</ETag><Size>67</Size>{more}</Contents>"
    )


def parse(*contents: str, head: str = HEAD + ENCODED) -> tuple[list[Listed], str | None]:
    return parse_page((head + "".join(contents) + TAIL).encode())


@pytest.mark.parametrize(
    "xml",
    [
        to_xml(),
        to_xml(more=""),
        to_xml(etag='"0f-2"'),
        to_xml(etag="&quot;0f-2&quot;"),
        to_xml(etag="0f-2"),
        to_xml(more="<Owner><ID>someone</ID></Owner>"),
        to_xml(more="\n  "),
        to_xml("1&#46;csv"),
        to_xml("<![CDATA[1.csv]]>"),
        to_xml().replace("<Size>67</Size>", "").replace("<Key>", "<Size>67</Size><Key>"),
    ],
)
def test_an_object_is_the_same_in_every_form(xml: str):
    assert parse(xml) == ([WANT], None)
    # Beside one that is written plainly, before and after it, they stay in their order.
    others = [WANT._replace(key="0"), WANT, WANT._replace(key="2")]
    assert parse(to_xml("0"), xml, to_xml("2")) == (others, None)


@pytest.mark.parametrize(
    ("written", "want"),
    [
        ("a+b%2Bc%25.csv", "a b+c%.csv"),
        ("%E6%97%A5.csv", "日.csv"),
        ("%FF.csv", "\udcff.csv"),
        ("%01.csv", "\x01.csv"),
        ("Contents.csv", "Contents.csv"),
        ("", ""),
    ],
)
def test_keys_are_decoded(written: str, want: str):
    assert parse(to_xml(written)) == ([WANT._replace(key=want)], None)


@pytest.mark.parametrize("key", ["a+b%2B.csv", "日.csv"])
def test_keys_of_a_store_that_does_not_encode_them_are_as_they_are(key: str):
    assert parse(to_xml(key), head=HEAD) == ([WANT._replace(key=key)], None)


def test_the_token_of_the_next_page_is_told_where_there_is_one():
    assert parse(MORE, to_xml()) == ([WANT], "a&b")
    assert parse(to_xml(), MORE) == ([WANT], "a&b")
    assert parse(MORE.replace("true", "false")) == ([], None)


@pytest.mark.parametrize(
    "body", [b"", b"<html>", b"\xff", f"{HEAD}{to_xml()}".encode(), f"{HEAD}{to_xml()[:-3]}{TAIL}".encode()]
)
def test_what_is_no_page_is_refused(body: bytes):
    with pytest.raises(ElementTree.ParseError):
        parse_page(body)
