"""`make screenshot`: the page with the sample files, as README shows it.

The machine needs fonts for the scripts that the names are in (Debian: fonts-noto-core, fonts-noto-cjk).
"""

import sys
import tempfile
from pathlib import Path

from e2e.site import CHROMIUM, open_site
from playwright.sync_api import sync_playwright

from rollcall.servers import embedded_postgres

WIDTH, HEIGHT = 1280, 880
SHARPNESS = 1.5  # pixels of the picture a pixel of the page


def main(target: Path) -> None:
    """Writes the picture."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with (
        embedded_postgres() as postgres,
        tempfile.TemporaryDirectory(prefix="rollcall-") as home,
        open_site(postgres, Path(home), more_files={}) as site,
        sync_playwright() as playwright,
    ):
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": WIDTH, "height": HEIGHT}, device_scale_factor=SHARPNESS)
        page.goto(site.url, wait_until="networkidle")
        page.screenshot(path=target)
        browser.close()
    print(f"{target}: {target.stat().st_size // 1024} KiB")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
