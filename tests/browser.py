"""A headless Chromium, the system's own, that tells what went wrong in a page and what the page asked for."""

from __future__ import annotations

import base64
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from selenium import webdriver
from selenium.webdriver.chrome.service import Service

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
DRIVER = shutil.which("chromedriver")


@contextmanager
def chromium(profile: Path, *, dark: bool = False) -> Iterator[webdriver.Chrome]:
    """A browser with a profile of its own, closed afterwards."""
    if not CHROMIUM or not DRIVER:
        needed = "chromium and chromedriver are needed: apt-get install chromium chromium-driver"
        if os.environ.get("CI"):
            raise RuntimeError(needed)
        pytest.skip(needed)
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    arguments = ["headless=new", "disable-gpu", "disable-dev-shm-usage", "no-first-run", "hide-scrollbars"]
    arguments += ["disable-background-networking", "disable-component-update", f"user-data-dir={profile}"]
    if os.geteuid() == 0:
        arguments.append("no-sandbox")
    for argument in arguments:
        options.add_argument(f"--{argument}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options=options, service=Service(DRIVER))
    try:
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [scheme]})
        driver.get("about:blank")
        requests(driver), complaints(driver)  # those of the browser's own first page
        yield driver
    finally:
        driver.quit()


def open_page(driver: webdriver.Chrome, page: Path, width: int = 1100, height: int = 900) -> None:
    """Show a file at a width in CSS pixels and wait until its charts are drawn."""
    metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600}
    driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    driver.get(page.resolve().as_uri())
    driver.execute_async_script("requestAnimationFrame(() => requestAnimationFrame(arguments[0]))")


def complaints(driver: webdriver.Chrome) -> list[str]:
    """What the console says of warnings and errors since the last time."""
    return [entry["message"] for entry in driver.get_log("browser") if entry["level"] in {"WARNING", "SEVERE"}]


def requests(driver: webdriver.Chrome) -> list[str]:
    """The addresses that pages asked for since the last time."""
    messages = (json.loads(entry["message"])["message"] for entry in driver.get_log("performance"))
    return [m["params"]["request"]["url"] for m in messages if m["method"] == "Network.requestWillBeSent"]


def screenshot(driver: webdriver.Chrome, path: Path) -> None:
    """The whole page, however long, as a PNG."""
    size: dict[str, Any] = driver.execute_cdp_cmd("Page.getLayoutMetrics", {})["cssContentSize"]
    clip = {"x": 0, "y": 0, "width": size["width"], "height": size["height"], "scale": 1}
    shot = driver.execute_cdp_cmd("Page.captureScreenshot", {"captureBeyondViewport": True, "clip": clip})
    path.write_bytes(base64.b64decode(shot["data"]))
