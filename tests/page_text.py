"""What somebody reads on a page: its text without tags, as a browser shows it."""

from html.parser import HTMLParser

_UNSEEN = ("script", "style")


class _Reader(HTMLParser):
    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.parts: list[str] = []
        self._unseen = 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._unseen += tag in _UNSEEN

    def handle_endtag(self, tag: str) -> None:
        self._unseen -= tag in _UNSEEN

    def handle_data(self, data: str) -> None:
        if not self._unseen:
            self.parts.append(data)


def read_text(html: str) -> str:
    """Return the text of a page; blanks in a row count as one."""
    reader = _Reader()
    reader.feed(html)
    reader.close()
    return " ".join("".join(reader.parts).split())


def find_markup(html: str) -> list[str]:
    """Return what looks like markup in a page's text: it was escaped twice, or never made into HTML."""
    text = read_text(html)
    return [sign for sign in ("</", "&lt;", "&gt;", "&amp;", "&#", "<code", "`") if sign in text]
