"""The key store: every key of the daemon, wrapped by a root key, in one directory outside PostgreSQL.

`keys.json` holds the wrapped keys and what was destroyed; `keys.<n>.json` are its former generations, at most eight of
at most seven days; `usage.json` counts what each data key sealed. Who writes holds `lock`, writes beside, and renames:
a reader sees the old file or the new one. Where the root is, is the root's own affair (`roots`).
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import orjson

from asm_daemon.crypto import (
    ALGORITHMS,
    PER_EPOCH,
    STANDING,
    Key,
    KeyName,
    KeyPurpose,
    Keyring,
    KeyStoreDamaged,
    KeyStoreError,
    KeyStoreExists,
    KeyStoreMissing,
    UnknownEpoch,
    epoch_bounds,
    goes_with,
)
from asm_daemon.keyfiles import check_directory, locked, read_private, replace_private, stamp, sync_directory
from asm_daemon.roots import FileRoot, NotOpened, Pkcs11Root, Root, VaultRoot

if TYPE_CHECKING:
    from collections.abc import Iterator

    from asm_daemon.settings import Settings

MESSAGE_LIMIT = 2**31
"""How much one data key seals: half of what NIST SP 800-38D, 8.3 allows for random nonces (2^32). The other half makes
up for counts that a restored `usage.json` has forgotten."""
GENERATIONS, GENERATION_DAYS = 8, 7
_KEYS_FILE, _USAGE_FILE = "keys.json", "usage.json"
_GENERATION = re.compile(r"keys\.([1-9]\d{0,8})\.json")
_LAST_VERSION = 255  # one byte of a record's header
_READ_ATTEMPTS = 3

State = Literal["active", "superseded", "destroyed"]


@dataclass(frozen=True, slots=True)
class KeyFacts:
    """One line of the cryptographic inventory (OWASP ASVS 5.0, 11.1.2): everything about a key except the key.

    `state`: `active` is the newest version, which seals, tags or signs; a `superseded` one only opens what it sealed;
    of a `destroyed` one nothing is left but its line, with `destroyed_at`. `rewrapped_at` is when the root last
    wrapped it, `messages` how much it may have sealed at most (data keys).
    """

    name: KeyName
    algorithm: str
    state: State
    created_at: datetime
    rewrapped_at: datetime | None = None
    messages: int | None = None
    destroyed_at: datetime | None = None


class KeyStore:
    """All keys of one installation in one directory (0700) of the daemon's user. Safe for several processes."""

    def __init__(self, directory: Path, root: Root | None = None) -> None:
        """Use the key store in `directory`; its root lies beside it unless another is given."""
        self._directory = directory
        self._root: Root = FileRoot(directory) if root is None else root
        self._read: tuple[object, tuple[Key, ...]] | None = None

    def read(self) -> tuple[Key, ...]:
        """Return every key, ordered by name; the very same tuple as long as the store has not changed.

        Raises KeyStoreMissing, KeyStoreExposed (permissions or owner), KeyStoreDamaged, KeyStoreUnreachable.
        """
        for attempt in range(1, _READ_ATTEMPTS + 1):
            before = self._stamp()
            if self._read is not None and self._read[0] == before:
                return self._read[1]
            try:
                keys = self._open(self._content())
            except KeyStoreDamaged:
                # The root may have been renewed, and its old version retired, between our reading of the two.
                if attempt == _READ_ATTEMPTS or self._stamp() == before:
                    raise
            else:
                self._read = (before, keys)
                return keys
        raise KeyStoreDamaged(f"{self._directory} changed at every attempt to read it")

    def inventory(self) -> tuple[KeyFacts, ...]:
        """Return the facts about every key, ordered by name, without opening any. Raises as `read` does."""
        content, used = self._content(), self._usage()
        names = _names(content)
        newest = {(name.purpose, name.epoch): name for name in names}
        facts = [
            KeyFacts(
                name=name,
                algorithm=ALGORITHMS[name.purpose],
                state="active" if newest[name.purpose, name.epoch] == name else "superseded",
                created_at=_instant(entry["created_at"]),
                rewrapped_at=_instant(entry.get("rewrapped_at", entry["created_at"])),
                messages=used.get(str(name), 0) if name.purpose is KeyPurpose.DATA else None,
            )
            for name, entry in ((name, content["keys"][str(name)]) for name in names)
        ]
        gone = [_facts_of_destroyed(text, each) for text, each in content["destroyed"].items()]
        return tuple(sorted([*facts, *gone], key=lambda each: _order(each.name)))

    def create_epoch(self, epoch: int, now: datetime) -> bool:
        """Make the data and index keys of `epoch`; return False, changing nothing, if it has or had keys already.

        Former generations past their age are removed all the same. Raises as `read` does, and KeyStoreBusy.
        """
        with self._writing() as content:
            keys = self._open(content)
            self._prune(now)
            if any(key.name.epoch == epoch for key in keys) or _was_destroyed(content, epoch):
                return False
            self._add(content, _epoch_names(epoch), now)
            self._replace(content, now)
        return True

    def renew_epoch(self, epoch: int, now: datetime, *, after: int | None = None) -> tuple[KeyName, ...]:
        """Make the next data and index keys of `epoch`, both of one version; return their names.

        They seal and tag from now on, the older ones still open and find. With `after`, nothing changes and nothing is
        returned if there is an index key newer than that: what has to be done once is safe to repeat. Raises
        UnknownEpoch, KeyStoreError after 255 versions, and as `create_epoch` does.
        """
        with self._writing() as content:
            newest = {purpose: _versions(content, epoch, purpose)[-1].version for purpose in sorted(PER_EPOCH)}
            if after is not None and newest[KeyPurpose.INDEX] > after:
                return ()
            version = max(newest.values()) + 1
            if version > _LAST_VERSION:
                raise KeyStoreError(f"epoch {epoch} has had {_LAST_VERSION} keys; there is no further version")
            names = tuple(KeyName(purpose, epoch, version) for purpose in newest)
            self._add(content, names, now)
            self._replace(content, now)
        return names

    def retire(self, name: KeyName, now: datetime) -> tuple[KeyName, ...]:
        """Destroy a superseded data key and the index keys that went with no other, in all generations too.

        Returns what went, nothing if it is gone already. What a data key alone opens is lost. Raises KeyStoreError for
        what is in use, UnknownEpoch.
        """
        with self._writing() as content:
            if name.purpose is not KeyPurpose.DATA or name == _versions(content, name.epoch or 0, KeyPurpose.DATA)[-1]:
                raise KeyStoreError(f"{name} is in use; only a superseded data key can be retired")
            names = retired_with(name, _names(content))
            if names:
                self._forget(names)  # first, so that a crash leaves the name here, and retiring it again goes on
                _destroy(content, names, "retired", now)
                self._replace(content, now, keep=False)
        return names

    def destroy_epoch(
        self, epoch: int, reason: str, now: datetime, *, through: int | None = None
    ) -> tuple[KeyName, ...]:
        """Destroy every key of `epoch`, here and in all generations, for ever; return the names that were left.

        Only index keys `through` this version and the data keys that go with them, if it is given: the later ones are
        of what is kept, and one may be renewed again meanwhile. No destroyed key can be made again. Safe to repeat
        after a crash: the generations are gone through again. Copies outside the directory are not reached. Raises
        UnknownEpoch if there never were such keys.
        """
        with self._writing() as content:
            names = tuple(name for name in _names(content) if name.epoch == epoch)
            if through is not None:
                index = [name.version for name in names if name.purpose is KeyPurpose.INDEX]
                names = tuple(name for name in names if goes_with(index, name.version) <= through)
            if not names and not _was_destroyed(content, epoch):
                raise UnknownEpoch(epoch)
            _destroy(content, names, reason, now)
            if names:
                self._replace(content, now)
            self._forget([KeyName.parse(text) for text in content["destroyed"]])
        return names

    def rotate_root(self, now: datetime) -> int:
        """Renew the root, wrap every key with the new version, destroy the old; return how many were wrapped.

        Daemons go on meanwhile: until the last step both versions unwrap. Former generations, wrapped by the old root,
        are removed. A crash leaves a store that opens, and rotating again completes it. Raises as `read` does.
        """
        with self._writing() as content:
            self._open(content)
            self._root.renew()
            names = _names(content)
            wrapped = self._root.rewrap([_context_and_wrapped(name, content) for name in names])  # they opened above
            at = _text(now)
            for name, text in zip(names, wrapped, strict=True):
                content["keys"][str(name)] |= {"wrapped": text, "rewrapped_at": at}
            self._open(content)  # never keep what does not open
            self._replace(content, now)
            for path in self._generations():
                path.unlink()
            sync_directory(self._directory)
            self._root.retire()
        return len(names)

    def reserve(self, name: KeyName, messages: int) -> int:
        """Set `messages` aside for the caller to seal with a data key; return how many: fewer at the limit, then 0.

        What a process has set aside and does not use is lost. Raises as `read` does, and KeyStoreBusy.
        """
        with locked(self._directory):
            used = self._usage()
            granted = max(0, min(messages, MESSAGE_LIMIT - used.get(str(name), 0)))
            if granted:
                used[str(name)] = used.get(str(name), 0) + granted
                document = {"format": 1, "messages": used}
                replace_private(self._directory / _USAGE_FILE, orjson.dumps(document, option=orjson.OPT_SORT_KEYS))
        return granted

    def keyring(self) -> Keyring:
        """Return the keys, ready for use. Raises as `read` does."""
        return Keyring(self.read, self.reserve)

    # -- the files ---------------------------------------------------------------------------------------------------

    def _stamp(self) -> object:
        check_directory(self._directory)
        return stamp(self._directory / _KEYS_FILE), self._root.stamp(), os.geteuid()

    def _content(self) -> dict[str, Any]:
        check_directory(self._directory)
        try:
            content = _decode(read_private(self._directory / _KEYS_FILE))
        except KeyStoreMissing:
            if isinstance(self._root, FileRoot) and self._root.exists():
                raise KeyStoreDamaged(f"{self._directory / _KEYS_FILE} is missing beside {FileRoot.NAME}") from None
            raise
        if content["provider"] != self._root.provider:
            theirs, ours = content["provider"], self._root.provider
            raise KeyStoreDamaged(f"these keys are wrapped by a root of {theirs}, not of {ours} (ASM_KEY_PROVIDER)")
        return content

    def _open(self, content: Mapping[str, Any]) -> tuple[Key, ...]:
        names = _names(content)
        try:
            opened = self._root.unwrap([_context_and_wrapped(name, content) for name in names])
        except NotOpened:
            raise KeyStoreDamaged(f"a key of {_KEYS_FILE} does not open with this root key") from None
        except KeyStoreMissing:
            raise KeyStoreDamaged(f"the root key of {self._directory / _KEYS_FILE} is missing") from None
        keys = tuple(
            Key(name, _instant(content["keys"][str(name)]["created_at"]), material)
            for name, material in zip(names, opened, strict=True)
        )
        _check_complete(keys)
        return keys

    @contextmanager
    def _writing(self) -> Iterator[dict[str, Any]]:
        with locked(self._directory):
            yield self._content()

    def _add(self, content: dict[str, Any], names: Sequence[KeyName], now: datetime) -> None:
        at = _text(now)
        wrapped = self._root.wrap([(_context(str(name), at), os.urandom(32)) for name in names])
        for name, text in zip(names, wrapped, strict=True):
            content["keys"][str(name)] = {"created_at": at, "wrapped": text}

    def _replace(self, content: dict[str, Any], now: datetime, *, keep: bool = True) -> None:
        """Write a new generation, and `keep` the one before it for some days."""
        path = self._directory / _KEYS_FILE
        former = self._directory / f"keys.{content['generation']}.json"
        former.unlink(missing_ok=True)  # of a writer that died between the two
        if keep:
            os.link(path, former)
            os.utime(former, (now.timestamp(), now.timestamp()))  # from now on it ages
        content["generation"] += 1
        replace_private(path, _encode(content))
        self._prune(now)

    def _generations(self) -> list[Path]:
        """The former generations, oldest first."""
        numbered = [
            (int(match[1]), path) for path in self._directory.iterdir() if (match := _GENERATION.fullmatch(path.name))
        ]
        return [path for _, path in sorted(numbered)]

    def _prune(self, now: datetime) -> None:
        oldest = (now - timedelta(days=GENERATION_DAYS)).timestamp()
        former = self._generations()
        for place, path in enumerate(former):
            if place < len(former) - GENERATIONS or path.lstat().st_mtime < oldest:
                path.unlink()

    def _forget(self, names: Iterable[KeyName]) -> None:
        """Remove keys from every former generation; one that cannot be read is removed whole."""
        for path in self._generations():
            written = path.lstat().st_mtime
            try:
                content = _decode(read_private(path))
            except KeyStoreError:
                path.unlink()
                continue
            for name in names:
                content["keys"].pop(str(name), None)
            replace_private(path, _encode(content))
            os.utime(path, (written, written))  # it does not become younger by this
        sync_directory(self._directory)

    def _usage(self) -> dict[str, int]:
        try:
            document = orjson.loads(read_private(self._directory / _USAGE_FILE))
        except KeyStoreMissing:
            return {}
        except orjson.JSONDecodeError:
            raise KeyStoreDamaged(f"{_USAGE_FILE} is not JSON") from None
        used = document.get("messages") if isinstance(document, dict) and document.get("format") == 1 else None
        if not isinstance(used, dict) or not all(type(count) is int and count >= 0 for count in used.values()):
            raise KeyStoreDamaged(f"{_USAGE_FILE} is not a usage file of format 1")
        return used


def create_store(directory: Path, epochs: Iterable[int], now: datetime, root: Root | None = None) -> KeyStore:
    """Create a key store with a new root key, every standing key and the keys of `epochs`.

    Raises KeyStoreExists if there is any part of a key store: a new root over old data would lose the data.
    """
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    check_directory(directory)
    root = FileRoot(directory) if root is None else root
    store = KeyStore(directory, root)
    with locked(directory):
        if os.path.lexists(directory / _KEYS_FILE):
            raise KeyStoreExists(f"{directory} holds {_KEYS_FILE} already")
        names = [KeyName(purpose, None, 1) for purpose in STANDING]
        names += [name for epoch in sorted(set(epochs)) for name in _epoch_names(epoch)]
        root.create()
        content = {"format": 1, "provider": root.provider, "generation": 1, "keys": {}, "destroyed": {}}
        store._add(content, names, now)
        replace_private(directory / _KEYS_FILE, _encode(content))
    return store


def open_keyring(directory: Path) -> Keyring:
    """Return the keyring of the key store in `directory` whose root lies beside it. Raises KeyStoreError."""
    return KeyStore(directory).keyring()


def root_of(settings: Settings) -> Root:
    """The root that the settings name; they are whole. Nothing is used yet."""
    module, token, pin_file = settings.key_pkcs11_module, settings.key_pkcs11_token, settings.key_pkcs11_pin_file
    if settings.key_provider == "pkcs11" and module and token and pin_file:
        return Pkcs11Root(module, token, pin_file)
    url, token_file = settings.key_vault_url, settings.key_vault_token_file
    if settings.key_provider == "vault" and url and token_file:
        return VaultRoot(
            url,
            settings.key_vault_key,
            token_file,
            mount=settings.key_vault_mount,
            ca_file=settings.key_vault_ca_file,
            timeout_seconds=settings.key_vault_timeout_seconds,
        )
    return FileRoot(settings.key_store)


def store_of(settings: Settings) -> KeyStore:
    """The key store that the settings name. Nothing is read yet."""
    return KeyStore(settings.key_store, root_of(settings))


# ---------------------------------------------------------------------------------------------------------------------
# keys.json


def _encode(content: Mapping[str, Any]) -> bytes:
    return orjson.dumps(content, option=orjson.OPT_SORT_KEYS | orjson.OPT_INDENT_2)


def _decode(data: bytes) -> dict[str, Any]:
    """Read a generation; a file of before there were any is the first. Raises KeyStoreDamaged."""
    try:
        content = orjson.loads(data)
    except orjson.JSONDecodeError:
        raise KeyStoreDamaged(f"{_KEYS_FILE} is not JSON") from None
    whole = isinstance(content, dict) and content.get("format") == 1
    if whole:
        content = {"provider": FileRoot.provider, "generation": 1, "destroyed": {}, **content}
        parts = ((content.get("keys"), "wrapped"), (content["destroyed"], "destroyed_at"))
        whole = all(
            isinstance(part, dict) and all(_is_entry(*each, member) for each in part.items()) for part, member in parts
        )
    if not whole or type(content["generation"]) is not int or not isinstance(content["provider"], str):
        raise KeyStoreDamaged(f"{_KEYS_FILE} is not a key file of format 1")
    return content  # type: ignore[no-any-return]


def _is_entry(name: str, entry: Any, member: str) -> bool:
    try:
        KeyName.parse(name)
        for instant in (entry["created_at"], entry.get("rewrapped_at", entry["created_at"])):
            _instant(instant)
        return isinstance(entry[member], str)
    except (AttributeError, KeyError, TypeError, ValueError):
        return False


def _names(content: Mapping[str, Any]) -> tuple[KeyName, ...]:
    return tuple(sorted(map(KeyName.parse, content["keys"]), key=_order))


def _order(name: KeyName) -> tuple[str, int, int]:
    return (name.purpose.value, name.epoch or 0, name.version)


def _epoch_names(epoch: int) -> list[KeyName]:
    epoch_bounds(epoch)  # refuses what is no month
    return [KeyName(purpose, epoch, 1) for purpose in sorted(PER_EPOCH)]


def _versions(content: Mapping[str, Any], epoch: int, purpose: KeyPurpose) -> list[KeyName]:
    """The keys of an epoch for one purpose, the newest last. Raises UnknownEpoch."""
    found = [name for name in _names(content) if name.purpose is purpose and name.epoch == epoch]
    if not found:
        raise UnknownEpoch(epoch)
    return found


def retired_with(name: KeyName, names: Iterable[KeyName]) -> tuple[KeyName, ...]:
    """What goes of `names` with the data key `name`: itself, and the index keys older than the newest that then go with
    no data key. Nothing if it is not there."""
    month = [each for each in names if each.epoch == name.epoch]
    if name not in month:
        return ()
    index = [each for each in month if each.purpose is KeyPurpose.INDEX]
    versions = [each.version for each in index]
    left = {goes_with(versions, each.version) for each in month if each.purpose is KeyPurpose.DATA and each != name} | {
        max(versions)
    }
    return (name, *(each for each in index if each.version not in left))


def _destroy(content: dict[str, Any], names: Iterable[KeyName], reason: str, now: datetime) -> None:
    """Take keys out of a key file's content, and say there that they are destroyed."""
    for name in names:
        entry = content["keys"].pop(str(name))
        content["destroyed"][str(name)] = {
            "created_at": entry["created_at"], "destroyed_at": _text(now), "reason": reason
        }  # fmt: skip


def _was_destroyed(content: Mapping[str, Any], epoch: int) -> bool:
    return any(KeyName.parse(text).epoch == epoch for text in content["destroyed"])


def _facts_of_destroyed(text: str, entry: Mapping[str, Any]) -> KeyFacts:
    name = KeyName.parse(text)
    created_at, destroyed_at = _instant(entry["created_at"]), _instant(entry["destroyed_at"])
    return KeyFacts(name, ALGORITHMS[name.purpose], "destroyed", created_at, destroyed_at=destroyed_at)


def _context(name: str, created_at: str) -> bytes:
    return f"asm-key/1|{name}|{created_at}".encode()


def _context_and_wrapped(name: KeyName, content: Mapping[str, Any]) -> tuple[bytes, str]:
    entry = content["keys"][str(name)]
    return _context(str(name), entry["created_at"]), entry["wrapped"]


def _text(instant: datetime) -> str:
    return instant.astimezone(UTC).isoformat(timespec="seconds")


def _instant(text: str) -> datetime:
    return datetime.fromisoformat(text)


def _check_complete(keys: tuple[Key, ...]) -> None:
    purposes = {key.name.purpose for key in keys}
    missing = [purpose.value for purpose in STANDING if purpose not in purposes]
    if missing:
        raise KeyStoreDamaged(f"no key for {', '.join(missing)}")
    data, index = ({key.name.epoch for key in keys if key.name.purpose is purpose} for purpose in sorted(PER_EPOCH))
    if data != index:
        raise KeyStoreDamaged(f"epochs {sorted(data ^ index, key=str)} have only one of their two keys")
    if len({key.material for key in keys}) != len(keys):
        raise KeyStoreDamaged("two names stand for the same key")
