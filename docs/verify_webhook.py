"""Verify a webhook of the ASM daemon (Standard Webhooks 1.0.0). Needs nothing but Python; adapt it to your server.

The body is the bytes as they came: verify first, then parse. Header names are in lower case here.
"""

import base64
import hashlib
import hmac
import time

TOLERANCE_SECONDS = 300


def verify(secret, headers, body, now=None):
    """Return the id of the event, by which one that comes again is known. Raises ValueError for a forged one."""
    if not {"webhook-id", "webhook-timestamp", "webhook-signature"} <= set(headers):
        raise ValueError("a header is missing")
    sent_at = int(headers["webhook-timestamp"])
    if abs((time.time() if now is None else now) - sent_at) > TOLERANCE_SECONDS:
        raise ValueError("too old, or from the future")
    key = base64.b64decode(secret.removeprefix("whsec_"))
    signed = f"{headers['webhook-id']}.{sent_at}.".encode() + body
    wanted = "v1," + base64.b64encode(hmac.new(key, signed, hashlib.sha256).digest()).decode()
    if not any(hmac.compare_digest(wanted.encode(), given.encode()) for given in headers["webhook-signature"].split()):
        raise ValueError("signed by somebody else")
    return headers["webhook-id"]
