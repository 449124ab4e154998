"""The page in a real Chromium, on a real server with the tiny model."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urljoin

import httpx
import numpy as np
import playwright.sync_api
import pytest
from axe_playwright_python.sync_playwright import Axe
from PIL import ExifTags, Image, ImageOps
from playwright.sync_api import Browser, BrowserContext, Page, Route, expect, sync_playwright
from service_balancer import started as balancer_started
from service_client import encode, opened, quadrants
from service_onnx import write_model
from service_process import Server, start

from service import png
from service.client import Client
from service.containers import Part, multipart

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed; the page is not tested")

FLAGS = [
    *("--no-sandbox", "--disable-background-networking"),
    *("--use-gl=angle", "--use-angle=swiftshader", "--enable-unsafe-swiftshader"),
    *("--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream"),
]
PATIENCE = 60_000
"""Milliseconds: the machine may be busy."""
ROOM = {"name": "room.png", "mimeType": "image/png", "buffer": encode(quadrants())}

expect.set_options(timeout=PATIENCE)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    model = write_model(tmp_path_factory.mktemp("model") / "tiny.onnx")
    with start("--model", str(model)) as server:
        server.wait_ready()
        yield server


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS, timeout=PATIENCE)
        yield browser
        browser.close()


@pytest.fixture
def context(browser: Browser) -> Iterator[BrowserContext]:
    context = browser.new_context(viewport={"width": 1000, "height": 700}, accept_downloads=True)
    context.set_default_timeout(PATIENCE)
    yield context
    context.close()


@pytest.fixture
def page(context: BrowserContext, server: Server) -> Iterator[Page]:
    with watched(context, server.url) as page:
        yield page


@contextmanager
def watched(context: BrowserContext, url: str) -> Iterator[Page]:
    """A tab; afterwards: nothing on the console, and no request but below `url`."""
    page = context.new_page()
    wrong: list[str] = []
    page.on("pageerror", lambda error: wrong.append(str(error)))
    # That an answer was a 4xx is on the console too, and no fault.
    page.on(
        "console",
        lambda line: wrong.append(line.text) if line.type == "error" and "status of" not in line.text else None,
    )
    elsewhere: list[str] = []
    page.on("request", lambda r: elsewhere.append(r.url) if not r.url.startswith((url, "blob:", "data:")) else None)
    yield page
    assert not wrong
    assert not elsewhere


def enter(page: Page, server: Server) -> None:
    """Open the page; the first example is shown."""
    page.goto(server.url)
    expect(page.locator("#status")).to_contain_text("living_room.jpg: ")


def upload(page: Page, server: Server, picture: Any = ROOM) -> None:
    """Open the page and choose a picture at once, before there is an example."""
    page.goto(server.url)
    page.set_input_files("#file", picture)
    expect(page.locator("#status")).to_contain_text(f"{picture['name']}: ")


def canvas_colors(page: Page, layer: str, *pixels: tuple[int, int]) -> list[list[int]]:
    """RGB of a panel's pixels (x, y)."""
    script = """([layer, pixels]) => {
        const context = document.querySelector(`[data-layer="${layer}"] canvas`).getContext("2d");
        return pixels.map(([x, y]) => [...context.getImageData(x, y, 1, 1).data.slice(0, 3)]);
    }"""
    colors: list[list[int]] = page.evaluate(script, [layer, [list(pixel) for pixel in pixels]])
    return colors


def point(page: Page, layer: str, x: int, y: int, width: int = 64, height: int = 48) -> tuple[float, float]:
    """Where the middle of a pixel is in the window, after bringing it there."""
    canvas = page.locator(f'[data-layer="{layer}"] canvas')
    canvas.scroll_into_view_if_needed()
    box = canvas.bounding_box()
    assert box
    return box["x"] + (x + 0.5) * box["width"] / width, box["y"] + (y + 0.5) * box["height"] / height


def readout(page: Page) -> str:
    return page.locator("#readout output").inner_text()


def choose_view(page: Page, view: str) -> None:
    page.locator(f"[name=view][value={view}]").check(force=True)
    expect(page.locator("#panels")).to_have_attribute("data-view", view)


def numbers(page: Page, file: bytes) -> tuple[dict[str, Any], np.ndarray]:
    """What the page's decoder makes of a PNG."""
    script = """async (text) => {
        const { decodePng } = await import("/page/png.js");
        const { data, ...about } = await decodePng(Uint8Array.from(atob(text), (c) => c.charCodeAt(0)));
        return [about, [...data]];
    }"""
    about, data = page.evaluate(script, base64.b64encode(file).decode())
    return about, np.array(data)


# --- what is shown


def test_the_first_visit_shows_an_example(page: Page, server: Server) -> None:
    enter(page, server)
    expect(page.locator("[data-example=living_room]")).to_have_attribute("aria-current", "true")
    expect(page.locator("#problem")).to_be_hidden()
    expect(page.locator("#timing dt")).to_have_text(
        ["decode", "queue", "network", "encode", "server in all", "with the way"]
    )
    page.click("[data-example=kitchen]")
    expect(page.locator("#status")).to_contain_text("kitchen.jpg: ")
    expect(page.locator("[aria-current]")).to_have_text(["Kitchen"])


def test_upload_legend_and_slider(page: Page, server: Server) -> None:
    upload(page, server)
    rows = page.locator("#legend button")
    expect(rows).to_have_count(4)
    assert {row.inner_text().split("\n")[0] for row in rows.all()} == {"red", "green", "blue", "white"}
    red = page.locator("#legend button", has_text="red")
    assert red.inner_text().split() == ["red", "25", "%", "1.02", "m"]

    corners = [(5, 5), (60, 5), (5, 40), (60, 40)]
    photo = [[255, 0, 0], [0, 255, 0], [0, 0, 255], [255, 255, 255]]
    classes = [[50, 20, 20], [20, 50, 20], [20, 20, 70], [50, 50, 70]]
    page.locator("#blend").fill("0")
    assert canvas_colors(page, "classes", *corners) == photo
    page.locator("#blend").fill("100")
    assert canvas_colors(page, "classes", *corners) == classes
    page.locator("#blend").fill("50")
    for seen, (a, b) in zip(canvas_colors(page, "classes", *corners), zip(photo, classes, strict=True), strict=True):
        assert np.abs(np.array(seen) - (np.array(a) + b) / 2).max() <= 1.5


def test_a_class_of_the_legend_is_highlighted(page: Page, server: Server) -> None:
    upload(page, server)
    page.locator("#blend").fill("0")
    red = page.locator("#legend button", has_text="red")
    red.hover()
    (inside, outside) = canvas_colors(page, "classes", (5, 5), (60, 5))
    assert inside == [255, 0, 0]
    assert max(outside) < 60
    page.mouse.move(1, 1)
    assert canvas_colors(page, "classes", (60, 5)) == [[0, 255, 0]]

    red.press("Enter")
    expect(red).to_have_attribute("aria-pressed", "true")
    page.mouse.move(1, 1)
    assert max(canvas_colors(page, "classes", (60, 5))[0]) < 60
    red.press("Enter")
    expect(red).to_have_attribute("aria-pressed", "false")


def test_pointing_tells_what_the_maps_say(page: Page, server: Server) -> None:
    """Class, confidence and metres are those of the service's own PNGs."""
    values = np.random.default_rng(3).integers(0, 8, (48, 64, 1)) >> np.arange(3) & 1
    picture = encode((values * 120 + np.array([100, 90, 80])).astype(np.uint8))
    upload(page, server, {"name": "many.png", "mimeType": "image/png", "buffer": picture})
    maps = {
        name: np.array(opened(httpx.post(f"{server.url}/predict?output={name}", content=picture, timeout=60).content))
        for name in ("mask", "depth", "confidence")
    }
    names = ["black", "red", "green", "yellow", "blue", "magenta", "cyan", "white"]
    for x, y in [(0, 0), (63, 47), (10, 30), (33, 2), (50, 21)]:
        page.mouse.move(*point(page, "classes", x, y))
        name, sure, depth = readout(page).split(" · ")
        assert name == names[maps["mask"][y, x]]
        assert sure == f"{maps['confidence'][y, x] / 255:.0%} sure".replace("%", " %")
        assert depth == f"{maps['depth'][y, x] / 1000:.2f} m away"


def test_the_decoder_gives_every_value(page: Page, server: Server) -> None:
    """Of what the service writes: 16 bits exactly, 8 bits, indices."""
    enter(page, server)
    rng = np.random.default_rng(0)
    for shape in [(37, 53), (1, 1), (1, 300), (300, 1)]:
        deep = rng.integers(0, 65536, shape).astype(np.uint16)
        flat = (deep >> 8).astype(np.uint8)
        palette = rng.integers(0, 256, (256, 3)).astype(np.uint8)
        for pixels, file in [
            (deep, png.encode(deep, text={"unit": "mm"})),
            (flat, png.encode(flat)),
            (flat, png.encode(flat, palette=palette)),
        ]:
            about, data = numbers(page, file)
            assert about == {"width": shape[1], "height": shape[0]}
            assert np.array_equal(data.reshape(shape), pixels)


def test_the_decoder_refuses_what_the_service_does_not_write(page: Page, server: Server) -> None:
    enter(page, server)
    ramp = np.add.outer(np.arange(37) ** 2, 300 * np.arange(53)).astype(np.uint16)
    file = png.encode(ramp)
    few = Image.fromarray((ramp & 15).astype(np.uint8))
    few.putpalette(bytes(range(48)))
    for other, reason in [
        (b"GIF89a" + bytes(50), "not a PNG"),
        (file[:40], "a PNG without pixels"),
        (png.encode(np.zeros((3, 4, 3), np.uint8)), "a PNG that no map is"),
        (encode(few, bits=4), "a PNG that no map is"),
        (encode(ramp), "another filter than Up"),  # Pillow chooses one for each row.
        (file.replace(b"\0\0\0\x25\x10", b"\0\0\0\x26\x10"), "too few or too many pixels"),  # IHDR's height
    ]:
        with pytest.raises(playwright.sync_api.Error, match=reason):
            numbers(page, other)


def test_depth_has_colours_and_a_scale(page: Page, server: Server) -> None:
    upload(page, server)
    choose_view(page, "depth")
    near, far = canvas_colors(page, "depth", (5, 5), (60, 40))
    assert sum(near) > 2 * sum(far)
    expect(page.locator(".ticks span").first).to_have_text("1.5 m")
    page.select_option("#range", "model")
    expect(page.locator(".ticks span")).to_have_text(["0 m", "1 m", "2 m", "3 m", "4 m"])
    page.select_option("#colormap", "grey")
    red, green, blue = canvas_colors(page, "depth", (5, 5))[0]
    # 1.02 m of 0 to 4 m, from 0x11 to 0xee.
    assert red == green == blue == round(0x11 + (0xEE - 0x11) * (1 - 1.02 / 4))


def test_colour_maps_get_lighter_evenly(page: Page, server: Server) -> None:
    enter(page, server)
    script = """async () => {
        const { COLORMAPS, colorAt } = await import("/page/colormaps.js");
        return COLORMAPS.map((name) => Array.from({ length: 21 }, (_, i) => colorAt(name, i / 20)));
    }"""
    for colors in page.evaluate(script):
        linear = (np.array(colors) / 255) ** 2.2
        lightness = 116 * np.cbrt(linear @ [0.2126, 0.7152, 0.0722]) - 16
        steps = np.diff(lightness)
        assert steps.min() > 0.4 * steps.mean()
        assert steps.max() < 2.2 * steps.mean()


# --- other ways in


def test_paste_and_drop(page: Page, server: Server) -> None:
    enter(page, server)
    script = """([kind, text, name]) => {
        const data = new DataTransfer();
        data.items.add(new File([Uint8Array.from(atob(text), (c) => c.charCodeAt(0))], name, { type: "image/png" }));
        const init = { bubbles: true, cancelable: true };
        document.body.dispatchEvent(kind === "paste"
            ? new ClipboardEvent("paste", { ...init, clipboardData: data })
            : new DragEvent("drop", { ...init, dataTransfer: data }));
    }"""
    for kind in ("paste", "drop"):
        page.evaluate(script, [kind, base64.b64encode(ROOM["buffer"]).decode(), f"{kind}ed.png"])
        expect(page.locator("#status")).to_contain_text(f"{kind}ed.png: 4 classes")


def test_the_camera_live(page: Page, server: Server) -> None:
    enter(page, server)
    page.click("#camera")
    expect(page.locator("#rate")).to_have_text(re.compile(r"[1-9]\d*\.\d|0\.[1-9]"), timeout=PATIENCE)
    assert "frames per second" in page.locator("#rate").inner_text()
    expect(page.locator("#video")).to_be_visible()
    page.click("#keep")
    expect(page.locator("#live")).to_be_hidden()
    expect(page.locator("#status")).to_contain_text("camera.jpg: ")
    assert page.evaluate("document.querySelector('#video').srcObject") is None
    expect(page.locator("#curl")).to_contain_text("camera.jpg")


STREAMS = """() => {
    const media = navigator.mediaDevices, real = media.getUserMedia.bind(media);
    window.streams = [];
    window.allowed = new Promise((done) => (window.allow = done));
    media.getUserMedia = async (what) => {
        if (window.asks) await window.allowed;
        const stream = await real(what);
        window.streams.push(stream);
        return stream;
    };
}"""
"""Remembers the camera's streams; with `asks`, they are given when they are allowed."""
TRACKS = "() => window.streams.flatMap((stream) => stream.getTracks().map((track) => track.readyState))"


def test_a_camera_that_is_asked_for_twice_is_stopped_once(page: Page, server: Server) -> None:
    enter(page, server)
    page.evaluate(STREAMS)
    page.evaluate("() => { const camera = document.querySelector('#camera'); camera.click(); camera.click(); }")
    expect(page.locator("#rate")).to_contain_text("frames per second")
    expect(page.locator("#problem")).to_be_hidden()
    assert sorted(page.evaluate(TRACKS)) == ["ended", "live"]
    page.click("#keep")
    assert page.evaluate(TRACKS) == ["ended", "ended"]


def test_a_camera_that_goes_away_is_said(page: Page, server: Server) -> None:
    enter(page, server)
    page.evaluate(STREAMS)
    page.click("#camera")
    expect(page.locator("#rate")).to_contain_text("frames per second")
    page.evaluate(
        """() => {
            const [track] = window.streams[0].getVideoTracks();
            track.stop();
            track.dispatchEvent(new Event("ended"));  // As the browser does when it is unplugged.
        }"""
    )
    expect(page.locator("#problem")).to_contain_text("The camera is gone.")
    expect(page.locator("#camera")).to_have_attribute("aria-pressed", "false")
    expect(page.locator("#live")).to_be_hidden()
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.wait_for_timeout(500)
    assert not asked


@pytest.mark.parametrize("orientation", range(1, 9))
def test_photos_are_as_upright_as_their_maps(page: Page, server: Server, orientation: int) -> None:
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    out = io.BytesIO()
    Image.fromarray(quadrants()).save(out, "WEBP", lossless=True, exif=exif)
    upload(page, server, {"name": "turned.webp", "mimeType": "image/webp", "buffer": out.getvalue()})
    seen = np.asarray(ImageOps.exif_transpose(opened(out.getvalue())).convert("RGB"))
    height, width = seen.shape[:2]
    choose_view(page, "side")
    corners = [(8, 8), (width - 8, 8), (8, height - 8), (width - 8, height - 8)]
    photo = canvas_colors(page, "", *corners)
    assert [color[:3] for color in photo] == [seen[y, x].tolist() for x, y in corners]


def test_a_photo_that_is_chosen_before_the_camera_is_allowed(page: Page, server: Server) -> None:
    enter(page, server)
    page.evaluate(STREAMS)
    page.evaluate("() => (window.asks = true)")
    page.click("#camera")
    page.set_input_files("#file", ROOM)
    page.evaluate("() => window.allow()")
    expect(page.locator("#status")).to_contain_text("room.png: 4 classes")
    page.wait_for_function("() => window.streams.length === 1")
    page.wait_for_function(f"() => ({TRACKS})().join() === 'ended'")
    expect(page.locator("#live")).to_be_hidden()
    expect(page.locator("#problem")).to_be_hidden()


def test_the_lens_is_chosen_while_the_camera_runs(page: Page, server: Server) -> None:
    upload(page, server)
    for x in (5, 21):
        page.mouse.click(*point(page, "classes", x, 5))
    expect(page.locator("#distance")).to_contain_text("apart")
    page.click("#camera")
    expect(page.locator("#rate")).to_contain_text("frames per second")
    # Between places in the photo, which the camera does not see.
    expect(page.locator("#distance")).to_have_text("Click two points in the picture.")
    slider = page.locator("#hfov")
    slider.scroll_into_view_if_needed()
    box = slider.bounding_box()
    assert box
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] * 0.8, box["y"] + box["height"] / 2)
    held = slider.input_value()
    for _ in range(3):
        with page.expect_response("**/predict?*"):
            pass
    assert slider.input_value() == held
    with page.expect_request(f"**/predict?output=multipart&hfov={held}"):
        page.mouse.up()
    expect(page.locator("#hfov-hint")).to_have_text("As you set it.")
    assert slider.input_value() == held
    page.click("#keep")


# --- 3-D and measuring


def test_points_are_drawn_and_turn(page: Page, server: Server) -> None:
    upload(page, server)
    choose_view(page, "cloud")
    cloud = page.locator("#cloud")
    cloud.scroll_into_view_if_needed()

    def look() -> np.ndarray:
        page.evaluate("() => new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")
        url = page.evaluate("document.querySelector('#cloud').toDataURL()")
        return np.array(opened(base64.b64decode(url.partition(",")[2])).convert("RGBA"))

    first = look()
    drawn = np.unique(first[first[..., 3] == 255][:, :3] @ [1 << 16, 1 << 8, 1])
    assert list(drawn) == [0x0000FF, 0x00FF00, 0xFF0000, 0xFFFFFF]
    box = cloud.bounding_box()
    assert box
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] / 2 + 90, box["y"] + box["height"] / 2, steps=3)
    page.mouse.up()
    turned = look()
    assert (turned != first).any()
    for key in ("ArrowUp", "+", "Shift+ArrowLeft"):
        before = look()
        cloud.press(key)
        assert (look() != before).any(), key
    cloud.press("0")
    assert np.array_equal(look(), first)
    page.select_option("#points", "class")
    expect(page.locator("#curl")).to_contain_text("output=ply&color=class")
    before = look()
    assert (before == [50, 20, 20, 255]).all(axis=2).any()
    # As when a phone takes the memory of a page in the background.
    page.evaluate(
        """() => new Promise((done) => {
            const canvas = document.querySelector("#cloud");
            const loss = canvas.getContext("webgl2").getExtension("WEBGL_lose_context");
            canvas.addEventListener("webglcontextlost", () => setTimeout(() => loss.restoreContext(), 50));
            canvas.addEventListener("webglcontextrestored", () => done());
            loss.loseContext();
        })"""
    )
    assert np.array_equal(look(), before)


def synthetic(valid: bool = True) -> tuple[bytes, str]:
    """An answer of 40 x 30 pixels: 2 m away, but 3 m in the right half; one pixel without depth, or all of them."""
    depth = np.full((30, 40), 2000, np.uint16)
    depth[:, 20:] = 3000
    depth[0, 0] = 0
    if not valid:
        depth[:] = 0
    mask = png.encode(np.zeros((30, 40), np.uint8), palette=np.full((1, 3), 9, np.uint8))
    info = {"id": 0, "name": "<b>wall</b>", "color": [9, 9, 9], "fraction": 1.0, "median_depth_m": 2.0}
    timing = dict.fromkeys(("decode", "queue", "infer", "encode", "total"), 1.0)
    metadata = {
        **{"width": 40, "height": 30, "timing_ms": timing, "segmentation": {"classes": [info]}},
        "depth": {"min_m": 2.0, "max_m": 3.0} if valid else {"min_m": None, "max_m": None},
        "camera": {"fx": 20.0, "fy": 25.0, "cx": 19.5, "cy": 14.5, "hfov_deg": 90.0, "source": "exif"},
        "model": {"name": "m", "version": "1", "network": "n", "backbone": "b", "provider": "p"},
    }
    body = multipart(
        [
            Part("metadata.json", "application/json", httpx.Request("POST", "http://x", json=metadata).read()),
            Part("mask.png", "image/png", mask),
            Part("depth.png", "image/png", png.encode(depth)),
            Part("depth_color.png", "image/png", b""),
            Part("confidence.png", "image/png", png.encode(np.full((30, 40), 255, np.uint8))),
        ]
    )
    return body


def test_distances_are_right(page: Page, server: Server) -> None:
    body, media_type = synthetic()
    page.route("**/predict?*", lambda route: route.fulfill(body=body, content_type=media_type))
    enter(page, server)
    # A name from a model is text, whatever it looks like.
    expect(page.locator("#legend button")).to_contain_text("<b>wall</b>")
    output = page.locator("#distance")
    page.mouse.click(*point(page, "classes", 5, 10, 40, 30))
    expect(output).to_have_text("Now the second point.")
    page.mouse.click(*point(page, "classes", 30, 20, 40, 30))
    one = np.array([(5 - 19.5) * 2 / 20, (10 - 14.5) * 2 / 25, 2])
    other = np.array([(30 - 19.5) * 3 / 20, (20 - 14.5) * 3 / 25, 3])
    expect(output).to_have_text(f"{np.linalg.norm(one - other):.2f} m apart")
    page.click("#clear")
    expect(output).to_have_text("Click two points in the picture.")
    for x in (0, 5):
        page.mouse.click(*point(page, "classes", x, 0, 40, 30))
    expect(output).to_have_text("No depth at one of the points.")
    expect(page.locator("#hfov-hint")).to_have_text("From the photo's EXIF.")


def test_the_field_of_view_is_asked_for(page: Page, server: Server) -> None:
    upload(page, server)
    with page.expect_request("**/predict?output=multipart&hfov=90"):
        page.locator("#hfov").fill("90")
    expect(page.locator("#hfov-hint")).to_have_text("As you set it.")
    expect(page.locator("#hfov-value")).to_have_text("90° wide")
    # Of two points that are 1.02 m away, a quarter of the picture apart: 2 tan 45° / 4 of their distance.
    for x in (5, 21):
        page.mouse.click(*point(page, "classes", x, 5))
    expect(page.locator("#distance")).to_have_text("0.51 m apart")
    expect(page.locator("#curl")).to_contain_text("output=overlay&hfov=90")


def test_a_field_of_view_that_was_not_answered_is_not_shown(page: Page, server: Server) -> None:
    upload(page, server)
    before = page.locator("#hfov-value").inner_text()
    page.route("**/predict?*hfov=110", lambda route: route.fulfill(status=500))
    page.locator("#hfov").fill("110")
    expect(page.locator("#problem")).to_contain_text("Error 500")
    expect(page.locator("#hfov-value")).to_have_text(before)
    expect(page.locator("#status")).to_contain_text("room.png: 4 classes")
    assert f"{float(page.locator('#hfov').input_value()):.0f}° wide" == before


def test_an_example_that_cannot_be_loaded_is_said(page: Page, server: Server) -> None:
    page.route("**/page/examples/*.jpg", lambda route: route.fulfill(status=404))
    page.goto(server.url)
    expect(page.locator("#problem")).to_contain_text("The example cannot be loaded.")
    expect(page.locator("#status")).to_have_text("")


def test_a_picture_without_depth_has_no_points(page: Page, server: Server) -> None:
    answers = [synthetic(), synthetic(valid=False)]

    def answer(route: Route) -> None:
        body, media_type = answers.pop(0)
        route.fulfill(body=body, content_type=media_type)

    page.route("**/predict?*", answer)
    enter(page, server)
    choose_view(page, "cloud")

    def coloured() -> int:
        page.evaluate("() => new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")
        url = page.evaluate("document.querySelector('#cloud').toDataURL()")
        return int((np.array(opened(base64.b64decode(url.partition(",")[2])).convert("RGBA"))[..., 3] > 0).sum())

    page.locator("#cloud").scroll_into_view_if_needed()
    assert coloured() > 1000
    page.set_input_files("#file", ROOM)
    expect(page.locator("#status")).to_contain_text("room.png: 1 class (<b>wall</b> 100 %), no depth")
    assert coloured() == 0


def test_the_field_of_view_is_that_of_the_photo_under_way(page: Page, server: Server, tmp_path: Path) -> None:
    enter(page, server)
    held: list[Any] = []
    page.route("**/predict?output=multipart", lambda route: held.append(route))
    photo = tmp_path / "mine.png"
    photo.write_bytes(ROOM["buffer"])
    page.set_input_files("#file", photo)
    expect(page.locator("#status")).to_contain_text("mine.png is on its way")
    page.locator("#hfov").fill("90")
    expect(page.locator("#status")).to_contain_text("mine.png: 4 classes")
    expect(page.locator("#hfov-hint")).to_have_text("As you set it.")
    photo.unlink()  # It was read once.
    page.locator("#hfov").fill("80")
    expect(page.locator("#hfov-value")).to_have_text("80° wide")
    expect(page.locator("#curl")).to_contain_text("hfov=80")
    expect(page.locator("#problem")).to_be_hidden()


def test_what_was_said_of_one_photo_is_not_said_of_the_next(page: Page, server: Server) -> None:
    upload(page, server)
    page.mouse.move(*point(page, "classes", 5, 5))
    expect(page.locator("#readout output")).to_contain_text("away")
    page.mouse.move(1, 1)
    page.click("[data-example=kitchen]")
    expect(page.locator("#status")).to_contain_text("kitchen.jpg: ")
    expect(page.locator("#readout output")).to_contain_text("Point at the picture")


# --- taking it away, and errors


def test_every_format_is_downloaded_as_the_service_makes_it(page: Page, server: Server) -> None:
    upload(page, server)
    formats = page.locator("#format option").evaluate_all("(options) => options.map((option) => option.value)")
    assert set(formats) == {
        *("overlay", "mask", "depth", "depth_color", "confidence", "unreliable"),
        *("json", "coco", "npz", "zip", "multipart", "ply", "glb"),
    }
    for output in formats:
        page.select_option("#format", output)
        with page.expect_download() as download:
            page.click("#download")
        name = download.value.suggested_filename
        found = Path(download.value.path()).read_bytes()
        command = page.locator("#curl").inner_text()
        assert command.startswith("curl -F file=@room.png ") and command.endswith(f" -o {name}")
        url = re.findall(r"http[^' ]+", command)[0]
        same = httpx.post(url, files={"file": ("room.png", ROOM["buffer"])}, timeout=60)
        if output in ("json", "multipart", "zip"):  # They have timings in them.
            assert len(found) > 200
        else:
            assert found == same.content, output
        expect(page.locator("#download")).to_be_enabled()


@pytest.mark.skipif(shutil.which("haproxy") is None, reason="needs haproxy")
def test_a_proxy_may_put_it_under_a_path(context: BrowserContext, server: Server, tmp_path: Path) -> None:
    with balancer_started(tmp_path, server.port, under="/rooms") as proxy:
        base = f"{proxy.url}/rooms"
        with watched(context, f"{base}/") as page:
            page.goto(f"{base}/")
            expect(page.locator("#status")).to_contain_text("living_room.jpg: ")
            page.set_input_files("#file", ROOM)
            expect(page.locator("#status")).to_contain_text("room.png: ")
            with page.expect_download() as download:
                page.click("#download")
            assert opened(Path(download.value.path()).read_bytes()).size == (64, 48)
            assert f"{base}/predict?output=overlay" in page.locator("#curl").inner_text()
            for link in page.locator("nav a").all():
                assert httpx.get(urljoin(f"{base}/", link.get_attribute("href"))).status_code == 200
        described = re.findall(r"url: '(.*)'", httpx.get(f"{base}/docs").text)
        (description,) = [urljoin(f"{base}/docs", url) for url in described]
        (place,) = httpx.get(description).json()["servers"]
        assert urljoin(description, place["url"]) == f"{base}/"
        with Client(base) as client:
            assert client.predict(ROOM["buffer"]).labels.shape == (48, 64)
        assert httpx.get(f"{proxy.url}/").status_code == 404


def test_the_command_is_safe_to_paste(page: Page, server: Server) -> None:
    upload(page, server, {**ROOM, "name": "my room's; `x`.png"})
    command = page.locator("#curl").inner_text()
    assert command.startswith("""curl -F 'file=@"my room'\\''s; `x`.png"' """)


def test_the_command_is_copied_or_selected(page: Page, server: Server) -> None:
    upload(page, server)
    page.evaluate("() => Object.defineProperty(navigator, 'clipboard', { value: undefined, configurable: true })")
    page.click("#copy")
    assert page.evaluate("() => getSelection().toString()") == page.locator("#curl").inner_text()
    page.evaluate("() => Object.defineProperty(navigator, 'clipboard', { value: { writeText: async () => {} } })")
    page.click("#copy")
    expect(page.locator("#copy")).to_have_text("Copied")
    page.locator("#hfov").fill("90")
    expect(page.locator("#copy")).to_have_text("Copy")


def test_errors_are_told_in_the_services_words(page: Page, server: Server) -> None:
    enter(page, server)
    page.set_input_files("#file", {"name": "notes.txt", "mimeType": "text/plain", "buffer": b"no picture"})
    problem = httpx.post(f"{server.url}/predict", content=b"no picture").json()
    expect(page.locator("#problem")).to_be_visible()
    assert page.locator("#problem").inner_text() == f"{problem['title']}. {problem['detail']}"
    assert page.locator("#problem").get_attribute("role") == "alert"
    page.set_input_files("#file", ROOM)
    expect(page.locator("#problem")).to_be_hidden()


def test_a_server_that_is_gone_is_said(page: Page, server: Server) -> None:
    enter(page, server)
    page.route("**/predict?*", lambda route: route.fulfill(status=500, body="<html>"))
    page.click("[data-example=kitchen]")
    expect(page.locator("#problem")).to_have_text("Error 500. The server gave no reason.")


def test_a_busy_server_is_asked_again(page: Page, server: Server) -> None:
    enter(page, server)
    answers = iter([503, 503])

    def busy(route: Any) -> None:
        if status := next(answers, None):
            body = '{"title": "Too many requests at once", "detail": "Later."}'
            route.fulfill(status=status, body=body, headers={"Retry-After": "1"})
        else:
            route.continue_()

    page.route("**/predict?*", busy)
    page.click("[data-example=kitchen]")
    expect(page.locator("#status")).to_contain_text("Trying again in 1 s")
    expect(page.locator("#status")).to_contain_text("kitchen.jpg: ")


def test_the_policy_holds(context: BrowserContext, server: Server) -> None:
    page = context.new_page()
    enter(page, server)
    script = """() => new Promise((done) => {
        document.addEventListener("securitypolicyviolation", (event) => done(event.effectiveDirective));
        const script = document.createElement("script");
        script.textContent = "document.title = 'broken'";
        document.head.append(script);
    })"""
    assert page.evaluate(script) == "script-src-elem"
    assert page.title() != "broken"
    assert page.evaluate("fetch('http://127.0.0.2:9/').then(() => 'sent', () => 'refused')") == "refused"


# --- where a key is asked for

KEY = "a-long-and-random-key"


@pytest.fixture(scope="module")
def locked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server that wants KEY."""
    folder = tmp_path_factory.mktemp("locked")
    model = write_model(folder / "tiny.onnx")
    (folder / "keys").write_text(f"{hashlib.sha256(KEY.encode()).hexdigest()} someone\n")
    with start("--model", str(model), SEGDEPTH_API_KEYS_FILE=str(folder / "keys")) as server:
        server.wait_ready()
        yield server


def test_a_key_is_asked_for_and_kept_by_the_page_alone(context: BrowserContext, locked: Server) -> None:
    page = context.new_page()
    page.goto(locked.url)
    key = page.get_by_label("API key")
    expect(key).to_be_focused()
    expect(page.locator("#problem")).to_have_text("This server asks for an API key. Give it below.")
    key.fill("a wrong one")  # No header can have it: the browser says so, nothing is sent.
    page.keyboard.press("Enter")
    assert page.evaluate("document.querySelector('#key').validity.patternMismatch")
    key.fill("wrong")
    page.keyboard.press("Enter")
    expect(page.locator("#problem")).to_have_text("This server asks for an API key. It does not know the one you gave.")
    key.fill(f"  {KEY} ")
    page.keyboard.press("Enter")
    # What was refused is done now, and so is everything that follows, with the key.
    expect(page.locator("#status")).to_contain_text("living_room.jpg: ")
    expect(key).to_be_hidden()
    expect(page.locator("#problem")).to_be_hidden()
    page.set_input_files("#file", ROOM)
    expect(page.locator("#status")).to_contain_text("room.png: ")
    choose_view(page, "depth")
    page.select_option("#range", "model")  # It is on the model card, which needs the key too.
    expect(page.locator(".ticks")).to_have_attribute("aria-label", re.compile("0.00 m to 4.00 m"))
    with page.expect_download() as download:
        page.click("#download")
    assert opened(Path(download.value.path()).read_bytes()).size == (64, 48)
    with page.expect_download() as download:
        page.get_by_role("link", name="Model card").click()
    assert json.loads(Path(download.value.path()).read_bytes())["name"] == "tiny"
    command = page.locator("#curl").inner_text()
    assert command.startswith('curl -H "X-API-Key: $KEY" -F file=@room.png ')
    assert KEY not in page.content()
    assert page.evaluate("[document.cookie, localStorage.length, sessionStorage.length]") == ["", 0, 0]
    page.reload()
    expect(key).to_be_focused()


def test_the_cameras_answers_have_the_models_range(context: BrowserContext, locked: Server) -> None:
    page = context.new_page()
    page.goto(locked.url)
    expect(page.get_by_label("API key")).to_be_focused()
    page.click("#camera")
    expect(page.locator("#problem")).to_contain_text("API key")
    page.get_by_label("API key").fill(KEY)
    page.keyboard.press("Enter")
    expect(page.locator("#rate")).to_contain_text("frames per second")
    choose_view(page, "depth")
    page.select_option("#range", "model")
    expect(page.locator(".ticks")).to_have_attribute("aria-label", re.compile("0.00 m to 4.00 m"))
    page.click("#keep")


def test_the_card_is_that_of_the_model_that_answers(page: Page, server: Server) -> None:
    upload(page, server)
    with page.expect_request("**/model"):
        page.route("**/predict?*", lambda route: route.fulfill(body=body, content_type=media_type))
        body, media_type = synthetic()  # By another one.
        page.set_input_files("#file", {**ROOM, "name": "other.png"})
        expect(page.locator("#status")).to_contain_text("other.png: ")


def test_a_key_that_is_no_longer_good_is_asked_for_again(context: BrowserContext, locked: Server) -> None:
    page = context.new_page()
    page.goto(locked.url)
    page.get_by_label("API key").fill(KEY)
    page.keyboard.press("Enter")
    expect(page.locator("#status")).to_contain_text("living_room.jpg: ")
    page.route("**/predict?output=overlay", lambda route: route.fulfill(status=401), times=1)
    page.click("#download")
    page.get_by_label("API key").fill(KEY)
    with page.expect_download() as download:
        page.keyboard.press("Enter")
    assert download.value.suggested_filename == "living_room-overlay.png"


# --- for everyone


def test_the_pointer_does_not_make_it_talk(page: Page, server: Server) -> None:
    upload(page, server)
    output = page.locator("#readout output")
    session = page.context.new_cdp_session(page)

    def live() -> str:
        node = session.send("DOM.getDocument")["root"]["nodeId"]
        node = session.send("DOM.querySelector", {"nodeId": node, "selector": "#readout output"})["nodeId"]
        found = session.send("Accessibility.getPartialAXTree", {"nodeId": node, "fetchRelatives": False})["nodes"][0]
        return next((p["value"]["value"] for p in found["properties"] if p["name"] == "live"), "off")

    page.mouse.move(*point(page, "classes", 5, 5))
    expect(output).to_contain_text("m away")
    assert live() == "off"
    page.locator("[name=view]:checked").focus()
    for _ in range(2):
        page.keyboard.press("Tab")
    page.keyboard.press("ArrowLeft")
    assert live() == "polite"


def test_the_keyboard_is_enough(page: Page, server: Server) -> None:
    upload(page, server)
    page.locator("[name=view]:checked").focus()
    page.keyboard.press("ArrowRight")
    expect(page.locator("#panels")).to_have_attribute("data-view", "depth")
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.id") == "blend"
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.parentElement.dataset.layer") == "depth"
    page.keyboard.press("ArrowLeft")
    assert readout(page).startswith("blue")
    page.keyboard.press("ArrowUp")
    assert readout(page).startswith("red · 100 % sure · 1.02 m")
    page.keyboard.press("Enter")
    for _ in range(6):
        page.keyboard.press("ArrowUp")
    page.keyboard.press("Enter")
    # Six rows at 1.02 m through a lens of 0.85 longer sides.
    expect(page.locator("#distance")).to_have_text(f"{1.02 * 6 / (0.85 * 64):.2f} m apart")
    page.keyboard.press("Escape")
    expect(page.locator("#distance")).to_have_text("Click two points in the picture.")


@pytest.mark.parametrize("view", ["classes", "depth", "side", "cloud"])
def test_a_phone_needs_no_sideways_scrolling(browser: Browser, server: Server, view: str) -> None:
    context = browser.new_context(viewport={"width": 360, "height": 740}, has_touch=True, is_mobile=True)
    context.set_default_timeout(PATIENCE)
    page = context.new_page()
    enter(page, server)
    choose_view(page, view)
    assert page.evaluate("document.documentElement.scrollWidth") == 360
    small = page.evaluate("""() => [...document.querySelectorAll("button, select, .button")]
        .filter((one) => one.offsetParent && one.getBoundingClientRect().height < 24).map((one) => one.id)""")
    assert small == []
    context.close()


def complaints(page: Page) -> list[str]:
    """What axe-core finds wrong, in a line each: how bad it is, the rule, and where."""
    found = Axe().run(page).response["violations"]
    return [f"{one['impact']}: {one['id']}: {node['target']}" for one in found for node in one["nodes"]]


@pytest.mark.parametrize("width", [1000, 360])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing(browser: Browser, server: Server, locked: Server, scheme: Any, width: int) -> None:
    context = browser.new_context(
        color_scheme=scheme, reduced_motion="reduce", viewport={"width": width, "height": 740}
    )
    context.set_default_timeout(PATIENCE)
    page = context.new_page()
    enter(page, server)
    for view in ("classes", "depth", "side", "cloud"):
        choose_view(page, view)
        assert complaints(page) == [], view
    page.set_input_files("#file", {"name": "notes.txt", "mimeType": "text/plain", "buffer": b"no picture"})
    expect(page.locator("#problem")).to_be_visible()
    assert complaints(page) == []
    background = [int(v) for v in re.findall(r"\d+", page.evaluate("getComputedStyle(document.body).backgroundColor"))]
    assert (sum(background) < 150) == (scheme == "dark")
    page.goto(locked.url)
    expect(page.get_by_label("API key")).to_be_visible()
    assert complaints(page) == []
    context.close()


def test_axe_would_find_something(page: Page, server: Server) -> None:
    enter(page, server)
    page.evaluate("""() => {
        document.querySelector("#hfov").labels[0].remove();
        document.querySelector("#status").className = "faint";
        const sheet = new CSSStyleSheet();
        sheet.replaceSync(".faint { color: #bbb; background: #ccc }");
        document.adoptedStyleSheets = [sheet];
    }""")
    assert {line.split(": [")[0] for line in complaints(page)} == {
        "critical: label",
        "serious: label-title-only",
        "serious: color-contrast",
    }
