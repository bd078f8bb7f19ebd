"""A headless Chromium that opens pages as a phone or a desktop would, and tells what went on in them."""

import asyncio
import base64
import json
import shutil
import subprocess
import time
from dataclasses import dataclass, field
from pathlib import Path

from tornado.httpclient import AsyncHTTPClient
from tornado.websocket import websocket_connect

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


@dataclass
class Visit:
    """One page at one width.

    Args:
        messages: Whatever the console shows, and exceptions.
        requests: Addresses that were asked for, the page itself left out.
        scroll_width: Of the document, in pixels.
        values: Of the expressions that were asked for.
        picture: PNG of the whole page.
    """

    messages: list = field(default_factory=list)
    requests: list = field(default_factory=list)
    scroll_width: int = 0
    values: list = field(default_factory=list)
    picture: bytes = b""


def visit(page, width, profile, expressions=(), opened=True):
    """Open the file `page` at `width` pixels, with every folded part open, in a browser with a new profile."""
    page = Path(page).absolute()
    command = [CHROMIUM, "--headless=new", "--no-sandbox", "--disable-gpu", "--remote-debugging-port=0"]
    command += [f"--user-data-dir={profile}", "--no-first-run", "about:blank"]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            return asyncio.run(asyncio.wait_for(_visit(page, width, Path(profile), expressions, opened), 60))
        finally:
            process.kill()


async def _visit(page, width, profile, expressions, opened):
    port_file = profile / "DevToolsActivePort"
    deadline = time.monotonic() + 50
    while not (port_file.exists() and len(port_file.read_text().splitlines()) == 2):
        assert time.monotonic() < deadline, "the browser does not start"
        await asyncio.sleep(0.1)
    port = port_file.read_text().splitlines()[0]
    listed = await AsyncHTTPClient().fetch(f"http://127.0.0.1:{port}/json")
    target = next(entry for entry in json.loads(listed.body) if entry["type"] == "page")
    connection = await websocket_connect(target["webSocketDebuggerUrl"], max_message_size=1 << 28)
    seen, number = Visit(), 0

    async def call(method, **parameters):
        nonlocal number
        number += 1
        await connection.write_message(json.dumps({"id": number, "method": method, "params": parameters}))
        while True:
            message = json.loads(await connection.read_message())
            if message.get("id") == number:
                assert "error" not in message, message
                return message["result"]
            _note(message, seen, page.as_uri())

    async def value(expression):
        return (await call("Runtime.evaluate", expression=expression, returnByValue=True))["result"].get("value")

    for domain in ("Page", "Runtime", "Log", "Network"):
        await call(f"{domain}.enable")
    await call("Emulation.setDeviceMetricsOverride", width=width, height=844, deviceScaleFactor=1, mobile=width < 700)
    await call("Page.navigate", url=page.as_uri())
    while await value("document.readyState + location.href") != f"complete{page.as_uri()}":
        await asyncio.sleep(0.05)
    if opened:
        await value("document.querySelectorAll('details').forEach(part => part.open = true)")
    seen.scroll_width = await value("document.documentElement.scrollWidth")
    seen.values = [await value(expression) for expression in expressions]
    shot = await call("Page.captureScreenshot", format="png", captureBeyondViewport=True)
    seen.picture = base64.b64decode(shot["data"])
    connection.close()
    return seen


def _note(message, seen, address):
    method, parameters = message.get("method"), message.get("params", {})
    if method == "Runtime.consoleAPICalled" or method == "Runtime.exceptionThrown" or method == "Log.entryAdded":
        seen.messages.append(parameters)
    elif method == "Network.requestWillBeSent" and parameters["request"]["url"] != address:
        seen.requests.append(parameters["request"]["url"])
