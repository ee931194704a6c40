"""The client of webhooks connects to the public internet and to what is allowed, and says why it could not deliver."""

from __future__ import annotations

import asyncio
import socket
import ssl
import threading
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import Any

import pytest

from connectors.webhooks.client import RESOLVED_LIMIT, RESOLVERS, WebhookClient
from schemas.addresses import is_public
from schemas.webhooks import NotDelivered
from tests.certificates import Authority
from tests.webhook_receiver import LOOPBACK, Receiver, eventually, receiving, resolve_by, unknown_name


@pytest.mark.parametrize(
    "address",
    ["127.0.0.1", "127.9.9.9", "0.0.0.0", "10.1.2.3", "172.16.0.1", "192.168.1.1", "169.254.169.254",  # noqa: S104
     "100.64.0.1", "224.0.0.1", "240.0.0.1", "255.255.255.255", "192.0.2.1", "198.18.0.1", "::", "::1", "fe80::1",
     "fd00:ec2::254", "fec0::1", "ff02::1", "::ffff:10.0.0.1", "::ffff:169.254.169.254", "64:ff9b::a9fe:a9fe",
     "2002:a00:1::1", "2002:7f00:1::1", "2001:db8::1", "::127.0.0.1"],
)  # fmt: skip
def test_what_is_not_of_the_public_internet_is_known(address: str) -> None:
    assert not is_public(ip_address(address))


@pytest.mark.parametrize("address", ["8.8.8.8", "2606:4700:4700::1111", "::ffff:8.8.8.8", "64:ff9b::808:808"])
def test_what_is_of_the_public_internet_is_known(address: str) -> None:
    assert is_public(ip_address(address))


async def refusal(client: WebhookClient, url: str) -> str:
    with pytest.raises(NotDelivered) as caught:
        await client.post(url, {}, b"{}")
    return caught.value.code


async def test_no_address_of_our_own_is_reached_however_it_is_written(receiver: Receiver) -> None:
    port = receiver.url.split(":")[2].partition("/")[0]
    client = WebhookClient()
    await client.open()
    for scheme in ("http", "https"):
        for host in ("127.0.0.1", "localhost", "[::1]", "[::ffff:127.0.0.1]", "127.1", "2130706433", "0x7f.1", "0"):
            assert (host, await refusal(client, f"{scheme}://{host}:{port}/")) == (host, "address_refused")
    assert await refusal(client, "ftp://127.0.0.1/") == "address_refused"
    assert await refusal(client, "//127.0.0.1/") == "address_refused"
    assert receiver.messages == []
    await client.close()


async def test_a_name_that_leads_elsewhere_since_it_was_registered_is_refused_at_the_connection(
    receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    port = int(receiver.url.split(":")[2].partition("/")[0])
    answers = ["127.0.0.2"]

    def rebinding() -> str:
        return answers[0]

    resolve_by(monkeypatch, rebinding)
    client = WebhookClient([ip_network("127.0.0.2/32")])
    await client.open()
    url = f"http://hooks.example:{port}/"
    assert await refusal(client, url) == "no_connection", "the first answer is an allowed address"
    for answers[0] in ("127.0.0.1", "10.0.0.1", "169.254.169.254"):
        assert await refusal(client, url) == "address_refused"
        assert await refusal(client, url.replace("http:", "https:")) == "address_refused"
    assert receiver.messages == []
    await client.close()


async def test_plain_http_goes_to_allowed_networks_only(webhook_client: WebhookClient) -> None:
    assert await refusal(webhook_client, "http://8.8.8.8/") == "address_refused"


async def test_proxies_and_redirects_lead_nowhere(
    webhook_client: WebhookClient, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with receiving() as elsewhere:
        monkeypatch.setenv("http_proxy", elsewhere.url)
        monkeypatch.setenv("HTTP_PROXY", elsewhere.url)
        receiver.status, receiver.headers = 307, {"Location": elsewhere.url}
        assert await refusal(webhook_client, receiver.url) == "redirected"
        assert (len(receiver.messages), elsewhere.messages) == (1, [])


async def test_an_answer_without_end_is_neither_read_nor_waited_for(webhook_client: WebhookClient) -> None:
    async def endless(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 99999999999\r\n\r\n" + b"x" * 100_000)
        await writer.drain()
        with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
            await reader.readexactly(1 << 20)
        writer.close()

    server = await asyncio.start_server(endless, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    await webhook_client.post(f"http://127.0.0.1:{port}/", {}, b"{}")
    server.close()
    await server.wait_closed()


async def test_a_certificate_must_be_of_the_host_and_of_a_trusted_authority(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    resolve_by(monkeypatch, lambda: "127.0.0.1")
    authority = Authority(tmp_path)
    issued = authority.issue("hooks.example")
    shown = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    shown.load_cert_chain(issued.certificate, issued.key)
    trusting = WebhookClient(LOOPBACK, tls=ssl.create_default_context(cafile=authority.certificate))
    wary = WebhookClient(LOOPBACK)
    await trusting.open()
    await wary.open()
    async with receiving(shown) as receiver:
        url = receiver.url.replace("127.0.0.1", "hooks.example")
        await trusting.post(url, {}, b"{}")
        assert await refusal(trusting, url.replace("hooks", "others")) == "tls_failed"
        assert await refusal(wary, url) == "tls_failed"
    assert len(receiver.messages) == 1
    await trusting.close()
    await wary.close()


async def test_every_failure_has_its_code(
    webhook_client: WebhookClient, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        assert await refusal(webhook_client, f"http://127.0.0.1:{unused.getsockname()[1]}/") == "no_connection"
    port = receiver.url.split(":")[2].partition("/")[0]
    assert await refusal(webhook_client, f"https://127.0.0.1:{port}/") == "tls_failed"
    resolve_by(monkeypatch, unknown_name)
    assert await refusal(webhook_client, "https://pms.example/") == "name_unknown"
    hasty = WebhookClient(LOOPBACK, answer_seconds=0.1)
    await hasty.open()
    receiver.gate.clear()
    assert await refusal(hasty, receiver.url) == "timeout"
    await hasty.close()
    receiver.gate.set()
    receiver.status, receiver.headers = 503, {"Retry-After": "77"}
    with pytest.raises(NotDelivered) as caught:
        await webhook_client.post(receiver.url, {}, b"{}")
    assert (caught.value.code, caught.value.retry_after_seconds) == ("status_503", 77.0)


async def test_names_that_nobody_answers_for_hold_up_neither_others_nor_the_threads_of_the_process(
    webhook_client: WebhookClient, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    answer, asked = threading.Event(), []

    def hangs(host: str, *rest: Any, **options: Any) -> Any:
        asked.append(host)
        answer.wait(20)
        raise socket.gaierror(socket.EAI_AGAIN, "no answer")

    monkeypatch.setattr(socket, "getaddrinfo", hangs)
    names = [f"https://n{number}.example/" for number in range(RESOLVED_LIMIT)]
    hanging = [asyncio.create_task(refusal(webhook_client, url)) for url in (*names, *names)]
    try:
        await eventually(lambda: len(asked) == RESOLVERS)
        async with asyncio.timeout(10):
            assert await asyncio.to_thread(lambda: "free") == "free"
            assert await refusal(webhook_client, "https://one-more.example/") == "names_busy"
            await webhook_client.post(receiver.url, {}, b"")  # an address needs no name
    finally:
        answer.set()
        outcomes = await asyncio.gather(*hanging)
    assert set(outcomes) <= {"name_unknown", "timeout"}
    assert len(asked) == len(set(asked)) == RESOLVED_LIMIT, "the same name is asked for once"
