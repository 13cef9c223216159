"""The report in a real browser: Debian's chromium, headless, from disk."""

import os
import shutil

import pytest
from selenium import webdriver
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By
from selenium.webdriver.support.select import Select

NEEDED = ("chromium", "chromedriver")


@pytest.fixture(scope="module")
def browser():
    missing = [name for name in NEEDED if shutil.which(name) is None]
    if missing:
        text = f"{' and '.join(missing)} not found: apt-get install chromium chromium-driver"
        if os.environ.get("CI"):
            pytest.fail(text)
        pytest.skip(text)
    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium")
    for flag in ("headless=new", "hide-scrollbars", "no-sandbox", "disable-gpu", "disable-dev-shm-usage"):
        options.add_argument(f"--{flag}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options, Service(shutil.which("chromedriver")))
    yield driver
    driver.quit()


@pytest.fixture(scope="module", params=[("metrics",), ("metrics/mixed", "metrics")], ids=["one", "two"])
def report(request, measured, tmp_path_factory, browser):
    """A report of one model, and one of two."""
    path = tmp_path_factory.mktemp("page") / "report.html"
    measured("report", *request.param, "--output", path)
    return path.as_uri(), len(request.param)


@pytest.fixture
def page(report, browser):
    browser.get(report[0])
    yield browser
    browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
    assert [entry for entry in browser.get_log("browser") if entry["level"] == "SEVERE"] == []


def test_all_pictures_and_charts_are_drawn(page, report):
    widths = page.execute_script("return [...document.images].map(i => i.complete && i.naturalWidth)")
    assert len(widths) == 6 * (1 + 2 * report[1])
    assert set(widths) == {64}
    sizes = page.execute_script(
        "return [...document.querySelectorAll('svg')].map(s => s.getBoundingClientRect().height)"
    )
    assert len(sizes) >= 6
    assert min(sizes) > 50


def order(page) -> list[int]:
    return [int(card.get_attribute("data-index")) for card in page.find_elements(By.CSS_SELECTOR, ".card")]


def test_sorting_changes_the_order_and_is_right(page, measured, report):
    store = measured.opened()
    metrics = [store.resolve(name) for name in ("metrics", "metrics/mixed")[: report[1]]]
    ssim = [min(values) for values in zip(*(m.read("ssim") for m in metrics), strict=True)]
    psnr = [min(values) for values in zip(*(m.read("psnr") for m in metrics), strict=True)]
    choice = Select(page.find_element(By.ID, "sort"))
    assert choice.first_selected_option.get_attribute("value") == "psnr"
    assert order(page) == sorted(range(6), key=lambda i: psnr[i])  # the identical picture last
    choice.select_by_value("ssim")
    by_ssim = order(page)
    assert by_ssim == sorted(range(6), key=lambda i: ssim[i])
    choice.select_by_value("")
    assert order(page) == list(range(6)) != by_ssim


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390])
def test_nothing_overflows_the_page(page, width, scheme):
    size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
    media = {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
    page.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    page.execute_cdp_cmd("Emulation.setEmulatedMedia", media)
    inner, outer = page.execute_script(
        "const d = document.documentElement; return [d.scrollWidth, d.clientWidth]"
    )
    assert outer == width
    assert inner <= outer
    paper, ink = page.execute_script(
        "const s = getComputedStyle(document.body); return [s.backgroundColor, s.color]"
    )
    bright = [sum(map(int, colour[4:-1].split(","))) for colour in (paper, ink)]
    assert (bright[0] > bright[1]) == (scheme == "light")


def test_a_card_grows_at_a_click_and_commands_can_be_copied(page):
    row = page.find_element(By.CSS_SELECTOR, ".card .row")
    before = row.size["width"]
    row.click()
    assert row.size["width"] > before
    button = page.find_element(By.ID, "copy")
    button.click()
    page.implicitly_wait(2)
    assert page.find_elements(By.XPATH, "//button[text()='Copied' or text()='Selected']")
