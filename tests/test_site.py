"""The page's files over HTTP: headers, revalidation, and what belongs to the page's promises; without a browser."""

from __future__ import annotations

import re
from typing import Any

import httpx
import pytest
from service_client import ask, check_problem
from service_process import ROOT

from service.site import FOLDER
from service.version import __version__

CSP = {
    "default-src 'none'",
    "script-src 'self'",
    "style-src 'self'",
    "img-src 'self' blob: data:",
    "connect-src 'self'",
    "media-src blob:",
    "base-uri 'none'",
    "form-action 'none'",
    "frame-ancestors 'none'",
}
FILES = sorted(path.relative_to(FOLDER).as_posix() for path in FOLDER.rglob("*") if path.is_file())


def request(method: str, path: str, **headers: str) -> httpx.Response:
    async def test(client: httpx.AsyncClient) -> Any:
        return await client.request(method, path, headers=headers)

    response: httpx.Response = ask(test)
    return response


def test_every_file_has_its_headers() -> None:
    async def test(client: httpx.AsyncClient) -> None:
        types = {"html": "text/html", "css": "text/css", "js": "text/javascript", "jpg": "image/jpeg"}
        for name in FILES:
            response = await client.get(f"/page/{name}")
            assert response.content == (FOLDER / name).read_bytes()
            assert response.headers["content-type"].partition(";")[0] == types.get(
                name.rpartition(".")[2], "text/plain"
            )
            assert set(response.headers["content-security-policy"].split("; ")) == CSP
            assert response.headers["x-content-type-options"] == "nosniff"
            assert response.headers["referrer-policy"] == "no-referrer"
            assert response.headers["cache-control"] == "no-cache"
            assert response.headers["permissions-policy"] == "camera=(self), microphone=(), geolocation=()"

    ask(test)


def test_the_page_is_at_the_root_for_browsers() -> None:
    response = request("GET", "/", accept="text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8")
    assert response.content == (FOLDER / "index.html").read_bytes()
    assert response.headers["vary"] == "Accept"


def test_json_is_at_the_root_for_clients_that_prefer_it() -> None:
    response = request("GET", "/", accept="application/json, text/html;q=0.5")
    assert response.json() == {"name": "segdepth", "version": __version__, "docs": "docs"}
    assert response.headers["vary"] == "Accept"


def test_anything_will_do_gets_the_page() -> None:
    assert request("GET", "/", accept="*/*").headers["content-type"] == "text/html; charset=utf-8"


def test_head_has_no_body() -> None:
    response = request("HEAD", "/page/app.js")
    assert response.status_code == 200
    assert response.content == b""
    assert int(response.headers["content-length"]) == (FOLDER / "app.js").stat().st_size


@pytest.mark.parametrize("form", ["{}", "W/{}", '"other", {}', "*"])
def test_what_a_browser_has_is_not_sent_again(form: str) -> None:
    etag = request("GET", "/page/app.js").headers["etag"]
    response = request("GET", "/page/app.js", **{"if-none-match": form.format(etag)})
    assert response.status_code == 304
    assert response.content == b""
    assert response.headers["etag"] == etag


def test_another_etag_gets_the_file() -> None:
    response = request("GET", "/page/app.js", **{"if-none-match": request("GET", "/page/png.js").headers["etag"]})
    assert response.status_code == 200


@pytest.mark.parametrize("name", ["nothing.js", "../app.py", "%2e%2e/app.py", "examples/../../app.py", "", "examples"])
def test_what_is_not_of_the_page_is_404(name: str) -> None:
    check_problem(request("GET", f"/page/{name}"), 404)


def test_the_page_is_small_and_needs_nothing_from_elsewhere() -> None:
    own = [FOLDER / name for name in FILES if not name.startswith("examples/")]
    assert sum(path.stat().st_size for path in own) < 100_000
    assert sum((FOLDER / name).stat().st_size for name in FILES if name.startswith("examples/")) < 300_000
    for path in own:
        text = path.read_text("utf-8").replace("http://www.w3.org/2000/svg", "")
        assert not re.findall(r"https?://(?!localhost)\w+", text), path
    html = (FOLDER / "index.html").read_text("utf-8")
    # The policy would refuse them: the page would look or work otherwise than written.
    assert not re.search(r"<style|\sstyle=|\son\w+=|<script(?![^>]*\ssrc=)", html)


def test_the_examples_are_those_of_the_examples_folder() -> None:
    html = (FOLDER / "index.html").read_text("utf-8")
    pictures = {name.removeprefix("examples/") for name in FILES if name.endswith(".jpg")}
    assert pictures == {f"{name}.jpg" for name in re.findall(r'data-example="(\w+)"', html)}
    for name in pictures:
        assert (FOLDER / "examples" / name).read_bytes() == (ROOT / "examples" / "images" / name).read_bytes()
    assert (FOLDER / "examples/ATTRIBUTION.txt").read_bytes() == (ROOT / "examples/ATTRIBUTION.txt").read_bytes()
