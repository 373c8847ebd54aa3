"""The files that the page needs, each under a name that changes with its content."""

import hashlib
from dataclasses import dataclass
from pathlib import Path

_MEDIA_TYPES = {".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}


@dataclass(frozen=True, slots=True)
class Asset:
    """A file to be served as it is."""

    body: bytes
    media_type: str


def read_assets(folder: Path) -> tuple[dict[str, Asset], dict[str, str]]:
    """Return the assets by their served names, and the path of each by its file's name."""
    assets, paths = {}, {}
    for file in sorted(folder.iterdir()):
        body = file.read_bytes()
        name = f"{file.stem}.{hashlib.sha256(body).hexdigest()[:12]}{file.suffix}"
        assets[name] = Asset(body, _MEDIA_TYPES[file.suffix])
        paths[file.name] = f"/assets/{name}"
    return assets, paths


ASSETS, PATHS = read_assets(Path(__file__).parent / "static")
