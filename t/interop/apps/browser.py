"""Drive a browser through its debugging port: steps as JSON on stdin, what was read on stdout.

    [["open", URL], ["until", EXPRESSION], ["do", EXPRESSION], ["read", EXPRESSION]]

Runs in the environment of Flower, whose web framework has a client for web sockets.
"""

import asyncio
import itertools
import json
import sys
import time
import urllib.request

from tornado.websocket import websocket_connect

PATIENCE_S = 60.0


class Page:
    def __init__(self, socket):
        self.socket = socket
        self.numbers = itertools.count(1)

    async def call(self, method, **params):
        number = next(self.numbers)
        await self.socket.write_message(
            json.dumps({"id": number, "method": method, "params": params})
        )
        while True:
            answer = json.loads(await self.socket.read_message())
            if answer.get("id") == number:
                return answer.get("result", answer)

    async def evaluate(self, expression):
        answer = await self.call(
            "Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True
        )
        return answer.get("result", {}).get("value")

    async def until(self, expression):
        end = time.monotonic() + PATIENCE_S
        while not await self.evaluate(expression):
            if time.monotonic() > end:
                text = await self.evaluate("document.body.innerText")
                raise SystemExit(f"never came true: {expression}\n{text}")
            await asyncio.sleep(0.05)

    async def open(self, url):
        # A page that is left keeps its text until the next one is there.
        await self.evaluate("window.isLeft = true")
        await self.call("Page.navigate", url=url)
        await self.until("!window.isLeft && document.readyState === 'complete'")


async def main(port):
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/json/list") as answer:
        (target,) = [page for page in json.load(answer) if page["type"] == "page"]
    page = Page(await websocket_connect(target["webSocketDebuggerUrl"], max_message_size=2**26))
    seen = []
    for step, argument in json.load(sys.stdin):
        if step == "open":
            await page.open(argument)
        elif step == "until":
            await page.until(argument)
        elif step in ("do", "read"):
            value = await page.evaluate(argument)
            if step == "read":
                seen.append(value)
    print(json.dumps(seen))


asyncio.run(main(int(sys.argv[1])))
