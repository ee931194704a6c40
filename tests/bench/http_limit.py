"""The limit of the HTTP server alone: a handler that reads the body and answers a fixed line. `… http_limit PORT`."""

from __future__ import annotations

import sys

from aiohttp import web


async def _answer(request: web.Request) -> web.Response:
    await request.read()
    return web.Response(status=201, body=b'{"outcome":"accepted"}', content_type="application/json")


async def _ready(_request: web.Request) -> web.Response:
    return web.Response()


if __name__ == "__main__":
    app = web.Application()
    app.router.add_post("/v1/stays", _answer)
    app.router.add_get("/readyz", _ready)
    web.run_app(app, host="127.0.0.1", port=int(sys.argv[1]), access_log=None, print=None)
