"""What this code is known by: another state of it may write the same users differently."""

import hashlib
import zlib
from pathlib import Path


def read_release() -> str:
    """Return a digest of this package and of the library that compresses."""
    digest = hashlib.sha256(zlib.ZLIB_RUNTIME_VERSION.encode())
    for path in sorted(Path(__file__).parent.glob("*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()
