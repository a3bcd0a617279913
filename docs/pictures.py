"""The pictures of docs/, from a server that runs, and whose store has a day's page, a trained model and evidence.

python docs/pictures.py http://127.0.0.1:8000
"""

import io
import shutil
import sys
from pathlib import Path

from PIL import Image
from playwright.sync_api import sync_playwright

from tradebot.dashboard import PAGES

HERE = Path(__file__).resolve().parent / "pictures"
READY = {"live": ".state.live", "chart": ".chart[data-ready]", "performance": ".heat"}
VIEWS = {
    "light": {"viewport": {"width": 1280, "height": 800}, "color_scheme": "light"},
    "dark": {"viewport": {"width": 1280, "height": 800}, "color_scheme": "dark"},
    "phone": {
        "viewport": {"width": 390, "height": 800},
        "color_scheme": "dark",
        "is_mobile": True,
        "has_touch": True,
    },
}


def save(page, name: str) -> None:
    Image.open(io.BytesIO(page.screenshot())).save(HERE / f"{name}.webp", quality=82)


def main(address: str) -> None:
    HERE.mkdir(exist_ok=True)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        for view, options in VIEWS.items():
            context = browser.new_context(**options)
            for name in PAGES:
                page = context.new_page()
                page.goto(f"{address}/dashboard?page={name}")
                page.locator(READY.get(name, "table")).first.wait_for()
                page.wait_for_timeout(1500)
                save(page, f"{name}-{view}")
                page.close()
        page = browser.new_page(**VIEWS["phone"])
        page.goto(f"{address}/dashboard?page=live")
        day = page.get_by_role("link", name="Was all well?").get_attribute("href")
        page.goto(f"{address}{day}")
        save(page, "day-phone")


if __name__ == "__main__":
    main(sys.argv[1])
