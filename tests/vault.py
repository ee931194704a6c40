"""A small transit engine with the contract of OpenBao's and Vault's, over real HTTP; for tests alone.

After their API documentation and sources: POST encrypt, decrypt, rewrap (`batch_input`, results in order, 400 when one
of them failed), keys/:name (GET, POST), keys/:name/rotate, keys/:name/config with min_decryption_version; ciphertext is
`vault:v<version>:<base64>`; the header X-Vault-Token; errors as {"errors": [...]}.
"""

from __future__ import annotations

import base64
import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

TOKEN = "s.synthetic-token"


@dataclass
class Transit:
    """The keys of the engine, what was asked of it (method and path), and how it fails."""

    keys: dict[str, list[bytes]] = field(default_factory=dict)
    least: dict[str, int] = field(default_factory=dict)
    calls: list[str] = field(default_factory=list)
    sealed: bool = False
    answer: bytes | None = None  # instead of the right one
    redirects: bool = False  # as a standby node behind a wrong address does; nothing is done
    deaf: bool = False  # a change of the configuration is answered well, and not done
    url: str = ""

    def take(self, method: str, path: str, body: dict[str, Any]) -> tuple[int, Any]:
        """Answer one request: status and JSON."""
        if self.sealed:
            return 503, {"errors": ["Vault is sealed"]}
        if self.redirects:
            return 307, None
        verb, _, rest = path.removeprefix("/v1/transit/").partition("/")
        name, _, action = rest.partition("/")
        if verb == "keys":
            return self._key(method, name, action, body)
        work: Callable[[str, dict[str, str]], dict[str, Any]] | None = {
            "encrypt": self._encrypt,
            "decrypt": self._decrypt,
            "rewrap": self._rewrap,
        }.get(verb)
        if work is None or method != "POST" or name not in self.keys:
            return (404, {"errors": []}) if work is None else (400, {"errors": ["encryption key not found"]})
        results = [work(name, item) for item in body["batch_input"]]
        return (400 if any("error" in each for each in results) else 200), {"data": {"batch_results": results}}

    def _key(self, method: str, name: str, action: str, body: dict[str, Any]) -> tuple[int, Any]:
        if method == "POST" and not action:
            self.keys.setdefault(name, [os.urandom(32)])
            return 204, None
        if name not in self.keys:
            return 404, {"errors": []}
        if action == "rotate":
            self.keys[name].append(os.urandom(32))
        elif action == "config" and not self.deaf:
            self.least[name] = body["min_decryption_version"]
        versions = {"latest_version": len(self.keys[name]), "min_decryption_version": self.least.get(name, 1)}
        return 200, {"data": {"name": name, "type": "aes256-gcm96", **versions}}

    def _encrypt(self, name: str, item: dict[str, str]) -> dict[str, Any]:
        version, nonce = len(self.keys[name]), os.urandom(12)
        blob = nonce + AESGCM(self.keys[name][-1]).encrypt(nonce, base64.b64decode(item["plaintext"]), None)
        return {"ciphertext": f"vault:v{version}:{base64.b64encode(blob).decode()}", "key_version": version}

    def _decrypt(self, name: str, item: dict[str, str]) -> dict[str, Any]:
        _, version, text = item["ciphertext"].split(":")
        number, blob = int(version[1:]), base64.b64decode(text)
        if number < self.least.get(name, 1) or number > len(self.keys[name]):
            return {"error": "ciphertext or signature version is disallowed by policy (too old)"}
        try:
            plain = AESGCM(self.keys[name][number - 1]).decrypt(blob[:12], blob[12:], None)
        except InvalidTag:
            return {"error": "cipher: message authentication failed"}
        return {"plaintext": base64.b64encode(plain).decode()}

    def _rewrap(self, name: str, item: dict[str, str]) -> dict[str, Any]:
        opened = self._decrypt(name, item)
        return opened if "error" in opened else self._encrypt(name, opened)


@contextmanager
def serve() -> Iterator[Transit]:
    """A transit engine at `url`, until the end."""
    transit = Transit()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self._answer("GET", {})

        def do_POST(self) -> None:
            length = int(self.headers.get("Content-Length", 0))
            self._answer("POST", json.loads(self.rfile.read(length) or b"{}"))

        def _answer(self, method: str, body: dict[str, Any]) -> None:
            transit.calls.append(f"{method} {self.path}")
            allowed = self.headers.get("X-Vault-Token") == TOKEN
            status, document = transit.take(method, self.path, body) if allowed else (403, {"errors": ["denied"]})
            content = b"" if document is None else json.dumps(document).encode()
            content = transit.answer if transit.answer is not None else content
            self.send_response(status)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_: object) -> None:
            """Nothing: standard error is for people."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    transit.url = f"http://127.0.0.1:{server.server_address[1]}"
    try:
        yield transit
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
