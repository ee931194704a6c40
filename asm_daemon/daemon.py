"""The composition root: every long-lived object is built here, once, and closed in reverse; then the tasks run.

Building and running are two functions, so that tests and the command line build the same daemon and use parts of it.
"""

from __future__ import annotations

import asyncio
import signal
import ssl
from collections import Counter
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any, Protocol
from uuid import uuid4

import asyncpg
import structlog
from aiohttp import web
from apscheduler.triggers.cron import CronTrigger
from apscheduler.triggers.interval import IntervalTrigger

from asm_daemon import (
    admissions,
    audit,
    certificates,
    compare,
    events,
    expiry,
    feeds,
    hotels,
    import_jobs,
    inbox,
    jobs,
    mllp,
    no_shows,
    operating,
    resealing,
    retention,
    rosters,
    rules,
    verifying,
    webhooks,
    witnessing,
)
from asm_daemon.admissions import Admissions
from asm_daemon.compare import ComparedPopulation
from asm_daemon.crypto import KeyName, KeyPurpose, Keyring, epoch_at, epoch_bounds, next_epoch
from asm_daemon.directory import Gate
from asm_daemon.import_jobs import Importer
from asm_daemon.intake import Intake
from asm_daemon.issuing import Issuer
from asm_daemon.jobs import Job, Leadership
from asm_daemon.key_backups import expire_backups, list_backups
from asm_daemon.keystores import KeyStore, store_of
from asm_daemon.ledger import COSIGNATURE, read_vkey
from asm_daemon.pacing import Doorbell
from asm_daemon.police import Desk
from asm_daemon.rosters import Rosters
from asm_daemon.settings import Settings
from asm_daemon.store import stays as stays_store
from asm_daemon.store.hotels import Registered
from asm_daemon.store.pool import open_connection, open_pool
from asm_daemon.sync import Population, SyncLimits, Worker, tell_breaker
from asm_daemon.web.admin_api import admin_routes
from asm_daemon.web.api import owner_routes
from asm_daemon.web.app import Runner, make_app
from asm_daemon.web.audit_api import audit_routes
from asm_daemon.web.documents_api import document_routes
from asm_daemon.web.events_api import event_routes
from asm_daemon.web.expected_api import expected_routes
from asm_daemon.web.feeds_api import feed_routes
from asm_daemon.web.hotels_api import hotel_routes
from asm_daemon.web.imports_api import import_routes
from asm_daemon.web.kbtt import Readers, kbtt_routes
from asm_daemon.web.pages import page_routes
from asm_daemon.web.police_api import police_routes
from asm_daemon.web.public_api import public_routes
from asm_daemon.web.rosters_api import roster_routes
from asm_daemon.webhooks import Courier, Endpoints
from asm_daemon.witnessing import Watch, Witness
from connectors import hl7_adt, identity, kbtt_api, pms_apaleo, pms_mews, pms_ohip, pms_ota
from connectors.hotels import client as hotel_client
from connectors.population.client import open_client
from connectors.webhooks.client import WebhookClient
from schemas.act import Connector
from schemas.codes import FacilityKind
from schemas.hotels import HotelSystem

ROLES = ("asm_auth", "asm_intake", "asm_sync", "asm_police", "asm_feeds", "asm_publish", "asm_audit", "asm_retention")
CLOCK_DIFFERENCE = timedelta(seconds=5)
"""How far the daemon's clock may be from the database's before it takes nothing in: ids and deadlines come from it."""
POPULATION_CONNECTORS = "asm_daemon.population"
"""The group of entry points by which packages bring connectors to the population database."""
CATCH_UP_DAYS = 7
"""How many past days the publishing job looks back for a day that was missed."""
FLUSH_SECONDS = 5
"""The longest statement of a flush: an owner waits for it, and is better told to send again than left waiting."""
KEY_REFRESH_SECONDS = 5
"""How often each process looks whether the key store has changed: a new data key seals everywhere after that."""
KEY_MONTHS, PARTITION_MONTHS = 2, 4
"""How many months have keys and partitions ready, this one included."""
SYNC_SHARE = 0.4
"""The part of the shutdown time that the sync worker and the jobs may take; requests and intake come before them."""
POOL_SIZES = {"asm_sync": 12}
"""Connections of a login, where it is not 8. The sync worker takes up to 6 and its doorbell 1, jobs the others."""
OPERATOR_CONNECTIONS = 2
"""What operators have of their own, as asm_sync: a sign of life must not wait for what an operator looks at."""
PUBLISH_HOUR = 8
"""A day is published after 08:00 of the next: then its last declarations were due (DOMAIN: arrivals after 23:00)."""

HOTEL_PULL_SECONDS = 5
"""How often is looked for reservations to fetch: a webhook is acted on as soon."""
HOTEL_EVENTS = {
    HotelSystem.MEWS: pms_mews.events,
    HotelSystem.APALEO: pms_apaleo.events,
    HotelSystem.OHIP: pms_ohip.events,
}
HOTEL_RESERVATIONS = {
    HotelSystem.MEWS: pms_mews.read,
    HotelSystem.APALEO: pms_apaleo.read,
    HotelSystem.OHIP: pms_ohip.read,
}
"""How the webhooks and the reservations of each system are read."""

log = structlog.get_logger()


def utc_now() -> datetime:
    """The clock. Only edges read it."""
    return datetime.now(UTC)


class PopulationDatabase(Population, ComparedPopulation, Protocol):
    """All that the daemon asks of a client of the population database: docs/population-contract.md, section 7."""


OpenPopulation = Callable[[str, str, str], AbstractAsyncContextManager[PopulationDatabase]]
"""Base URL, our client id and its secret → an open client, closed after the block."""


class NoSuchConnector(Exception):
    """No installed package has a connector of this name for the population database."""


class TaskEnded(Exception):
    """A task that must last as long as the daemon has returned."""


class ClockDiffers(Exception):
    """The daemon's clock and the database's are too far apart."""


class MonthMissing(Exception):
    """This month has no keys or no partition."""


@dataclass(frozen=True, slots=True)
class Daemon:
    """Everything that lives as long as the process."""

    settings: Settings
    now: Callable[[], datetime]
    key_store: KeyStore
    keyring: Keyring
    pools: Mapping[str, asyncpg.Pool]
    connectors: Mapping[str, Connector]
    gate: Gate
    issuer: Issuer
    intake: Intake
    importer: Importer
    rosters: Rosters
    desk: Desk
    watched: Watch
    doorbell: Doorbell
    population: PopulationDatabase
    worker: Worker
    courier: Courier
    app: web.Application


@dataclass(frozen=True, slots=True)
class Ports:
    """Where a running daemon listens; `mllp` is None without a listener."""

    http: int
    mllp: int | None


def load_connectors() -> dict[str, Connector]:
    """Every installed connector (entry points `asm_daemon.connectors`), by name: third parties can ship their own."""
    return {entry.name: entry.load() for entry in entry_points(group="asm_daemon.connectors")}


def load_population(name: str) -> OpenPopulation:
    """The connector to the population database: `http`, or an entry point of the group `asm_daemon.population`.

    Raises NoSuchConnector.
    """
    if name == "http":
        return open_client
    for entry in entry_points(group=POPULATION_CONNECTORS, name=name):
        loaded: OpenPopulation = entry.load()
        return loaded
    raise NoSuchConnector(name)


@asynccontextmanager
async def open_daemon(
    settings: Settings, *, now: Callable[[], datetime] = utc_now, sync_limits: SyncLimits | None = None
) -> AsyncIterator[Daemon]:
    """Build everything and close it in reverse. Nothing runs yet; the months in which declarations arrive are ready.

    `sync_limits` are those of the settings unless given: where recovery is watched, it has to be quick.
    Raises `KeyStoreError` (also for the store of another database), `NoSuchConnector`, and what asyncpg raises when the
    database cannot be reached.
    """
    async with AsyncExitStack() as stack:
        key_store = store_of(settings)
        keyring = key_store.keyring()
        pools = {}
        for role in ROLES:
            pools[role] = await open_pool(settings.database_url, role, min_size=0, max_size=POOL_SIZES.get(role, 8))
            stack.push_async_callback(pools[role].close)
        operators = await open_pool(settings.database_url, "asm_sync", min_size=0, max_size=OPERATOR_CONNECTIONS)
        stack.push_async_callback(operators.close)
        # Before anything is made in a store that is not the database's.
        await verifying.require_ours(pools["asm_retention"], pools["asm_audit"], keyring, settings.deployment)
        await prepare_months_once(key_store, pools["asm_retention"], now())
        keyring.reload()
        population = await stack.enter_async_context(
            load_population(settings.population_connector)(
                settings.population_url,
                settings.population_client_id,
                settings.population_client_secret_file.read_text().strip(),
            )
        )
        sender = WebhookClient(settings.webhook_networks or ())
        await sender.open()
        stack.push_async_callback(sender.close)
        connectors = load_connectors()
        gate = Gate(pools["asm_auth"], settings.key_cache_seconds)
        trial = settings.environment != "production"
        issuer = Issuer(settings.deployment, settings.public_url, not trial, keyring)
        doorbell = Doorbell()
        intake = Intake(
            pools["asm_intake"],
            lambda: open_connection(settings.database_url, "asm_intake", statement_timeout_seconds=FLUSH_SECONDS),
            keyring,
            issuer,
            now=now,
            ring=doorbell.ring,
            flush_rows=settings.flush_rows,
            queue_rows=settings.intake_queue_rows,
        )
        importer = Importer(pools["asm_intake"], intake, keyring, now=now, slice_rows=settings.flush_rows)
        rosters_desk = Rosters(
            intake,
            pools["asm_intake"],
            keyring,
            absence_nights=settings.roster_absence_nights,
            plan_hours=settings.roster_plan_hours,
        )
        watched = watch_of(settings, keyring, pools["asm_audit"])
        desk = desk_of(settings, keyring, pools["asm_police"], watched)
        worker = Worker(
            pools["asm_sync"],
            keyring,
            population,
            now=now,
            limits=sync_limits
            or SyncLimits(
                lease_seconds=settings.lease_seconds,
                shutdown_seconds=settings.shutdown_seconds * SYNC_SHARE,
                answers_percent=settings.verification_answers_percent,
            ),
            doorbell=doorbell,
        )

        async def measure() -> None:
            tell_breaker(worker.breaker)
            await operating.measure_once(pools["asm_sync"], pools["asm_audit"], now())
            await witnessing.state(watched, now())

        table = (
            *public_routes(
                settings.max_body_bytes,
                settings.max_batch_rows,
                sorted(connectors),
                {"intake": lambda: check_intake(pools["asm_intake"], keyring, now)},
                trial,
            ),
            *owner_routes(
                intake,
                pools["asm_intake"],
                keyring,
                issuer,
                settings.max_body_bytes,
                settings.max_batch_rows,
            ),
            *import_routes(intake, importer, pools["asm_intake"], keyring, connectors, settings.max_body_bytes),
            *expected_routes(intake, pools["asm_intake"], keyring, settings.max_body_bytes, settings.max_batch_rows),
            *roster_routes(
                rosters_desk,
                pools["asm_intake"],
                keyring,
                connectors,
                settings.max_body_bytes,
                settings.max_batch_rows,
                trial,
            ),
            *hotel_routes(
                intake, pools["asm_intake"], keyring, HOTEL_EVENTS, pms_ota.envelope, settings.max_body_bytes
            ),
            *event_routes(
                pools["asm_intake"],
                keyring,
                settings.public_url,
                Endpoints(pools["asm_intake"], keyring, plain_http_webhooks(settings), settings.webhook_networks or ()),
            ),
            *document_routes(identity.read),
            *kbtt_routes(
                intake,
                gate,
                pools["asm_auth"],
                Readers(kbtt_api.citizen, kbtt_api.foreigner, kbtt_api.departure),
                settings.max_body_bytes,
                settings.max_batch_rows,
            ),
            *police_routes(desk),
            *feed_routes(pools["asm_feeds"], watched.require_releases),
            *audit_routes(watched),
            *admin_routes(operators, doorbell.ring, population.status, measure),
            *page_routes(pools["asm_intake"], trial),
        )
        yield Daemon(
            settings=settings,
            now=now,
            key_store=key_store,
            keyring=keyring,
            pools=pools,
            connectors=connectors,
            gate=gate,
            issuer=issuer,
            intake=intake,
            importer=importer,
            rosters=rosters_desk,
            desk=desk,
            watched=watched,
            doorbell=doorbell,
            population=population,
            worker=worker,
            courier=Courier(
                pools["asm_sync"],
                keyring,
                sender,
                settings.public_url,
                now=now,
                failing_hours=settings.webhook_failing_hours,
            ),
            app=make_app(table, gate, public_url=settings.public_url, trial=trial, clock=now),
        )


def read_witness(settings: Settings) -> Witness | None:
    """Whose cosignatures count; None without a witness. Raises BadNote if the file holds no verifier key."""
    if settings.witness_key_file is None:
        return None
    key = read_vkey(settings.witness_key_file.read_text("utf-8"), COSIGNATURE)
    return Witness(key, settings.witness_release_hours, settings.witness_read_hours)


def watch_of(settings: Settings, keyring: Keyring, audit_pool: asyncpg.Pool) -> Watch:
    """The watch over the audit, with the witness of the settings. `audit_pool` connects as asm_audit."""
    log_key = keyring.signing_key(KeyPurpose.CHECKPOINT).public_key_bytes
    return witnessing.watch(audit_pool, settings.deployment, log_key, read_witness(settings))


def desk_of(settings: Settings, keyring: Keyring, reader: asyncpg.Pool, watched: Watch) -> Desk:
    """Where somebody is looked for on record: as `reader`, and only while the audit is sealed and confirmed."""
    auditor = settings.auditor_public_key_file
    return Desk(
        reader,
        watched.pool,
        keyring,
        settings.deployment,
        auditor.read_bytes() if auditor else None,
        watched.require_reads,
        terms_required=settings.environment == "production",
        kept_days={kind: periods_of(settings).stay_days_of(kind) for kind in FacilityKind},
    )


def plain_http_webhooks(settings: Settings) -> bool:
    """Whether webhooks may be http: in a trial, to the networks that are allowed."""
    return settings.environment != "production" and settings.webhook_networks is not None


async def run(daemon: Daemon, stop: asyncio.Event, ready: Callable[[Ports], None] = lambda _: None) -> None:
    """Run until `stop`, then answer what was accepted, and return; a task that dies ends the daemon with its error.

    Order of the end: no new requests → requests in hand are answered → intake commits what waits → the sync worker
    acknowledges and lets its lanes go → jobs end. What is not done after `shutdown_seconds` is cancelled: nothing
    accepted is lost by that, since what was answered was committed.
    """
    settings = daemon.settings
    runner = Runner(daemon.app, settings.shutdown_seconds)
    await runner.setup()
    site = web.TCPSite(runner, settings.listen.host, settings.listen.port, reuse_port=True)
    await site.start()
    listener = await _listen_for_hospitals(daemon)
    working = asyncio.Event()  # set when the workers behind the doors are to stop
    leadership = Leadership(daemon.pools["asm_sync"], uuid4(), settings.lease_seconds)
    try:
        async with asyncio.TaskGroup() as tasks:
            intake = tasks.create_task(_lasting("intake", daemon.intake.run(), stop))
            tasks.create_task(_lasting("sync", daemon.worker.run(working), stop))
            tasks.create_task(_lasting("webhooks", daemon.courier.run(working), stop))
            files = tasks.create_task(_lasting("imports", daemon.importer.run(stop), stop))
            grace_seconds = settings.shutdown_seconds * SYNC_SHARE
            clock = jobs.run(job_table(daemon), leadership, working, grace_seconds=grace_seconds)
            tasks.create_task(_lasting("jobs", clock, stop))
            bell = tasks.create_task(daemon.doorbell.run(daemon.pools["asm_sync"]))
            ready(Ports(runner.addresses[0][1], listener.port if listener else None))
            log.info("started")
            await stop.wait()
            log.info("stopping")
            try:
                async with asyncio.timeout(settings.shutdown_seconds * (1 - SYNC_SHARE)):
                    await asyncio.gather(runner.cleanup(), _stopped(listener, settings.shutdown_seconds), files)
                    await daemon.intake.close()
                    await intake
            except TimeoutError:
                log.warning("stopping_cut_short")
                intake.cancel()
                files.cancel()
            working.set()
            bell.cancel()
    finally:
        await runner.cleanup()
        await _stopped(listener, 0)
    log.info("stopped")


async def until_signalled() -> None:
    """Return at the first SIGTERM or SIGINT."""
    signalled = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, signalled.set)
    try:
        await signalled.wait()
    finally:
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.remove_signal_handler(number)


async def _listen_for_hospitals(daemon: Daemon) -> mllp.Listener | None:
    address = daemon.settings.mllp_listen
    if address is None:
        return None
    settings = daemon.settings
    certificate, key = settings.mllp_tls_certificate_file, settings.mllp_tls_key_file
    client_ca = settings.mllp_tls_client_ca_file
    ward = Admissions(daemon.intake, daemon.gate, daemon.keyring, daemon.pools["asm_intake"], hl7_adt.read_message)
    return await mllp.listen(
        ward.handle,
        address.host,
        address.port,
        limits=mllp.Limits(idle_seconds=settings.mllp_idle_seconds),
        ssl_context=mllp_tls(certificate, key, client_ca) if certificate and key and client_ca else None,
        split=hl7_adt.split_batch,
        refuse=ward.refused,
    )


def mllp_tls(certificate: Path, key: Path, client_ca: Path) -> ssl.SSLContext:
    """What the HL7 listener shows and demands: TLS 1.2 or later, and a client certificate of these authorities.

    Raises `OSError` (`ssl.SSLError`) if the files are not what they should be.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.load_cert_chain(certificate, key)
    context.load_verify_locations(client_ca)
    context.verify_mode = ssl.CERT_REQUIRED
    return context


async def _stopped(listener: mllp.Listener | None, grace_seconds: float) -> None:
    if listener is not None:
        await listener.stop(grace_seconds)


async def _lasting(name: str, task: Coroutine[Any, Any, None], stop: asyncio.Event) -> None:
    await task
    if not stop.is_set():
        raise TaskEnded(name)


# -- what runs by the clock --------------------------------------------------------------------------------------------


def job_table(daemon: Daemon) -> tuple[Job, ...]:
    """Every job of the daemon: its name (`asm-daemon once NAME`), when it runs, and what it does."""
    pools, now = daemon.pools, daemon.now

    async def seal_audit() -> Mapping[str, int]:
        key = daemon.keyring.signing_key(KeyPurpose.CHECKPOINT)
        async with pools["asm_audit"].acquire() as connection:
            counts = await audit.seal_once(connection, key, daemon.settings.deployment, now())
        return {"entries": counts.entries}

    async def prepare_months() -> Mapping[str, int]:
        return await prepare_months_once(daemon.key_store, pools["asm_retention"], now())

    async def publish() -> Mapping[str, int]:
        totals, leaking = Counter[str](), None
        for day in await feeds.unpublished(pools["asm_publish"], due_days(now())):
            try:
                totals.update(await feeds.publish_once(pools["asm_publish"], daemon.keyring, day, now()))
            except feeds.Leaking as found:  # the days after it are owed all the same
                leaking = found
        if leaking is not None:
            raise leaking
        return totals

    async def erase_expected() -> Mapping[str, int]:
        return await no_shows.erase_expected_once(pools["asm_intake"], daemon.settings.expected_kept_days, now())

    async def erase_imports() -> Mapping[str, int]:
        settings = daemon.settings
        return await import_jobs.erase_once(
            pools["asm_intake"],
            now(),
            file_hours=settings.import_file_hours,
            report_days=settings.import_report_days,
        )

    async def read_inbox() -> Mapping[str, int]:
        folder = daemon.settings.inbox
        if folder is None:
            return {}
        return await inbox.read_once(
            folder, daemon.importer, pools["asm_intake"], daemon.connectors, now(), daemon.settings.max_body_bytes
        )

    async def erase_roster_plans() -> Mapping[str, int]:
        return await rosters.erase_once(pools["asm_intake"], now())

    async def erase_hl7_messages() -> Mapping[str, int]:
        return await admissions.erase_once(pools["asm_retention"], now(), days=daemon.settings.hl7_message_days)

    async def refresh_keys() -> Mapping[str, int]:
        # In a thread: a root key in a token or a vault may take its time.
        return {"changed": await asyncio.to_thread(daemon.keyring.reload)}

    async def reencrypt() -> Mapping[str, int]:
        def retire(name: KeyName) -> None:
            daemon.key_store.retire(name, now())

        await asyncio.to_thread(daemon.keyring.reload)
        return await resealing.reencrypt_once(pools["asm_retention"], daemon.keyring, retire, now())

    async def watch_keys() -> Mapping[str, int]:
        inventory = await asyncio.to_thread(daemon.key_store.inventory)
        return await resealing.watch_once(pools["asm_retention"], inventory, now())

    async def end_months() -> Mapping[str, int]:
        return await retention.end_epochs_once(
            pools["asm_retention"],
            pools["asm_audit"],
            daemon.key_store,
            daemon.keyring,
            periods_of(daemon.settings),
            now(),
        )

    async def expire() -> Mapping[str, int]:
        settings = daemon.settings
        return await expiry.expire_once(
            pools["asm_retention"],
            now(),
            withheld_days=settings.withheld_days,
            operator_record_days=settings.operator_record_days,
        )

    async def certify() -> Mapping[str, int]:
        folder, days = daemon.settings.key_backups, daemon.settings.key_backup_days
        expired = 0 if folder is None else expire_backups(folder, days, now())
        left = None if folder is None else [made_at for _, made_at in list_backups(folder)]
        counts = await certificates.finish_once(
            pools["asm_retention"], daemon.key_store, daemon.keyring, periods_of(daemon.settings), left, now()
        )
        return {**counts, "backups_expired": expired}

    verified_at: datetime | None = None

    async def verify() -> Mapping[str, int]:
        # What this process knows of itself: whoever changes rows could make the database say that all was looked at.
        nonlocal verified_at
        began_at = now()
        if not verifying.verification_owed(verified_at, began_at):
            return {}
        inventory = await asyncio.to_thread(daemon.key_store.inventory)
        gone = {facts.name.epoch or 0 for facts in inventory if facts.state == "destroyed"}
        counts = await verifying.verify_once(pools, daemon.keyring, gone, began_at)
        verified_at = began_at
        return counts

    async def watch_settings() -> Mapping[str, int]:
        return await verifying.watch_settings_once(pools, now())

    async def pull_hotels() -> Mapping[str, int]:
        return await hotels.pull_once(
            pools["asm_intake"], daemon.intake, daemon.keyring, open_hotel, HOTEL_RESERVATIONS, now
        )

    async def compare_part() -> Mapping[str, int]:
        hours = daemon.settings.compare_hours
        if not hours:
            return {}
        return await compare.compare_once(pools["asm_sync"], daemon.population, now(), every_hours=hours)

    async def number_events() -> Mapping[str, int]:
        return await events.number_once(pools["asm_sync"], now())

    async def tell_deadlines() -> Mapping[str, int]:
        return await events.tell_deadlines_once(pools["asm_intake"], daemon.settings.deadline_notice_minutes, now())

    async def erase_events() -> Mapping[str, int]:
        return await events.erase_once(pools["asm_sync"], daemon.settings.events_kept_days, now())

    async def watch_witness() -> Mapping[str, int]:
        return await witnessing.watch_once(daemon.watched, now())

    async def tend_webhooks() -> Mapping[str, int]:
        return await webhooks.tend_once(pools["asm_sync"], daemon.keyring, daemon.settings.events_kept_days, now())

    return (
        Job("pull-hotels", IntervalTrigger(seconds=HOTEL_PULL_SECONDS), pull_hotels),
        Job("seal-audit", IntervalTrigger(seconds=1), seal_audit, everywhere=True),
        Job("refresh-keys", IntervalTrigger(seconds=KEY_REFRESH_SECONDS), refresh_keys, everywhere=True),
        Job("reencrypt", IntervalTrigger(seconds=5), reencrypt),
        Job("watch-keys", CronTrigger(minute=15), watch_keys, at_start=True),
        Job("end-months", CronTrigger(hour="1-5", minute=50), end_months),
        Job("certify-retention", CronTrigger(minute=55), certify),
        Job("expire", CronTrigger(hour=3, minute=30), expire),
        Job("verify", CronTrigger(minute=20), verify),
        Job("watch-settings", CronTrigger(minute=35), watch_settings),
        Job("read-inbox", IntervalTrigger(seconds=5), read_inbox, everywhere=True),
        Job("erase-imports", IntervalTrigger(minutes=10), erase_imports),
        Job("prepare-months", CronTrigger(hour=2, minute=10), prepare_months),
        Job("erase-expected", CronTrigger(minute=25), erase_expected),
        Job("erase-hl7-messages", CronTrigger(hour=3, minute=20), erase_hl7_messages),
        Job("publish", CronTrigger(hour=PUBLISH_HOUR, minute=5), publish, at_start=True),
        Job("erase-roster-plans", CronTrigger(minute=20), erase_roster_plans),
        Job("compare", IntervalTrigger(minutes=1), compare_part),
        Job("number-events", IntervalTrigger(seconds=1), number_events, everywhere=True),
        Job("tell-deadlines", IntervalTrigger(minutes=1), tell_deadlines),
        Job("watch-witness", IntervalTrigger(minutes=1), watch_witness),
        Job("erase-events", CronTrigger(hour=3, minute=40), erase_events),
        Job("tend-webhooks", CronTrigger(hour=2, minute=40), tend_webhooks, at_start=True),
    )


def periods_of(settings: Settings) -> retention.Periods:
    """For how long things are kept, as the settings say."""
    return retention.Periods(
        settings.stay_retention_days,
        settings.database_backup_days,
        settings.key_backup_days,
        settings.stay_retention_days_by_kind or {},
    )


def open_hotel(system: Registered) -> AbstractAsyncContextManager[hotel_client.HotelClient]:
    """A connection to the hotel software of one facility, with the secrets of its file."""
    return hotel_client.open_client(
        system.system, system.base_url, system.token_url, system.property_id, Path(system.credentials_file)
    )


async def prepare_months_once(key_store: KeyStore, pool: asyncpg.Pool, now: datetime) -> dict[str, int]:
    """Make the keys of this month and the next, and the partitions of `PARTITION_MONTHS`, where they are missing.

    `pool` connects as asm_retention.
    """
    counts = {"keys": 0, "partitions": 0}
    epoch = epoch_at(now)
    for ahead in range(PARTITION_MONTHS):
        if ahead < KEY_MONTHS:
            counts["keys"] += key_store.create_epoch(epoch, now)
        async with pool.acquire() as connection:
            counts["partitions"] += await stays_store.create_partitions(connection, epoch, *epoch_bounds(epoch))
        epoch = next_epoch(epoch)
    return counts


def due_days(now: datetime) -> list[date]:
    """The past days whose declarations are closed, oldest first, as far as the publishing job looks back."""
    local = now.astimezone(rules.HANOI)
    newest = local.date() - timedelta(days=1 if local.hour >= PUBLISH_HOUR else 2)
    return [newest - timedelta(days=back) for back in reversed(range(CATCH_UP_DAYS))]


async def check_intake(pool: asyncpg.Pool, keyring: Keyring, now: Callable[[], datetime]) -> None:
    """Raise unless declarations can be taken in: the database answers, its clock agrees, this month has its place."""
    async with pool.acquire() as connection:
        theirs, ours = await stays_store.clock(connection), now()
        if abs(theirs - ours) > CLOCK_DIFFERENCE:
            raise ClockDiffers
        if epoch_at(ours) not in keyring.epochs() or not await stays_store.has_partition(connection, epoch_at(ours)):
            raise MonthMissing
