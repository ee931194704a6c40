"""Root keys: what wraps every other key and does nothing else (QCVN 15:2023/BQP), in a file, a token, or a vault.

A wrapped key is text that names the version of the root it was wrapped by, so that a root can be renewed while daemons
read. What it is wrapped with, its context (name and date of the key), is bound to it: entries cannot change places.
"""

from __future__ import annotations

import base64
import hmac
import http.client
import os
import re
import ssl
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path
from threading import Lock
from typing import Any, Protocol
from urllib.parse import urlsplit

import orjson
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from asm_daemon.crypto import KeyStoreDamaged, KeyStoreExists, KeyStoreMissing, KeyStoreUnreachable
from asm_daemon.keyfiles import read_private, replace_private, stamp

_NONCE_BYTES, _TAG_BITS, _KEY_BYTES = 12, 128, 32


class NotOpened(Exception):
    """A wrapped key does not open: it was changed or moved, or the version of the root is gone."""


class Root(Protocol):
    """One root key in its versions: the newest wraps, all that are kept unwrap.

    Every method raises KeyStoreError when the root cannot be used; nothing shows a key in its message.
    """

    @property
    def provider(self) -> str:
        """The name of the kind of root, as the key file keeps it."""

    def create(self) -> None:
        """Make the first version. Raises KeyStoreExists if there is one."""

    def exists(self) -> bool:
        """Whether there is a version."""

    def wrap(self, keys: Sequence[tuple[bytes, bytes]]) -> list[str]:
        """Wrap (context, key) with the newest version."""

    def unwrap(self, wrapped: Sequence[tuple[bytes, str]]) -> list[bytes]:
        """Return the keys of (context, wrapped). Raises NotOpened if one of them does not open."""

    def rewrap(self, wrapped: Sequence[tuple[bytes, str]]) -> list[str]:
        """Wrap each key of (context, wrapped) with the newest version. Raises NotOpened if one does not open."""

    def renew(self) -> None:
        """Make a newer version; the older ones still unwrap."""

    def retire(self) -> None:
        """Destroy all versions but the newest."""

    def stamp(self) -> object:
        """What changes when the root does, as far as that can be told without using it."""


# ---------------------------------------------------------------------------------------------------------------------
# In a file


_ROOT_LINE = re.compile(r"asm-root-key/([1-9]\d{0,5}) ([0-9a-f]{64})")
_VERSIONED = re.compile(r"(?:([1-9]\d{0,5}):)?([A-Za-z0-9+/]+={0,2})")


class FileRoot:
    """A root in `root.key` beside the keys it wraps: for one host. Keep its backups apart from those of the keys."""

    provider = "file"
    NAME = "root.key"

    def __init__(self, directory: Path) -> None:
        self._path = directory / self.NAME

    def create(self) -> None:
        """Make `root.key`."""
        if self.exists():
            raise KeyStoreExists(f"{self._path} exists already")
        self._write({1: os.urandom(_KEY_BYTES)})

    def exists(self) -> bool:
        """Whether there is a `root.key`, or a link of that name."""
        return os.path.lexists(self._path)

    def wrap(self, keys: Sequence[tuple[bytes, bytes]]) -> list[str]:
        """AES-256-GCM; the context is the associated data. Version 1 is not named, as it never was."""
        versions = self._versions()
        newest = max(versions)
        prefix, cipher = "" if newest == 1 else f"{newest}:", AESGCM(versions[newest])
        wrapped = []
        for context, key in keys:
            nonce = os.urandom(_NONCE_BYTES)
            wrapped.append(prefix + base64.b64encode(nonce + cipher.encrypt(nonce, key, context)).decode("ascii"))
        return wrapped

    def unwrap(self, wrapped: Sequence[tuple[bytes, str]]) -> list[bytes]:
        """See `Root`."""
        ciphers = {version: AESGCM(root) for version, root in self._versions().items()}
        keys = []
        for context, text in wrapped:
            version, blob = _version_and_blob(text)
            try:
                keys.append(ciphers[version].decrypt(blob[:_NONCE_BYTES], blob[_NONCE_BYTES:], context))
            except (InvalidTag, KeyError, ValueError):
                raise NotOpened from None
        return keys

    def rewrap(self, wrapped: Sequence[tuple[bytes, str]]) -> list[str]:
        """See `Root`."""
        contexts = [context for context, _ in wrapped]
        return self.wrap(list(zip(contexts, self.unwrap(wrapped), strict=True)))

    def renew(self) -> None:
        """Add a version to `root.key`."""
        versions = self._versions()
        self._write({**versions, max(versions) + 1: os.urandom(_KEY_BYTES)})

    def retire(self) -> None:
        """Keep only the newest version in `root.key`."""
        versions = self._versions()
        if len(versions) > 1:
            self._write({max(versions): versions[max(versions)]})

    def stamp(self) -> object:
        """See `Root`."""
        return stamp(self._path)

    def _versions(self) -> dict[int, bytes]:
        lines = read_private(self._path).decode("ascii", errors="replace").splitlines()
        matches = [_ROOT_LINE.fullmatch(line) for line in lines]
        if not lines or any(match is None for match in matches):
            raise KeyStoreDamaged(f"{self.NAME} is not a root key")
        return {int(match[1]): bytes.fromhex(match[2]) for match in matches if match}

    def _write(self, versions: Mapping[int, bytes]) -> None:
        lines = [f"asm-root-key/{version} {root.hex()}" for version, root in sorted(versions.items())]
        replace_private(self._path, "\n".join(lines).encode("ascii"))


def _version_and_blob(text: str) -> tuple[int, bytes]:
    match = _VERSIONED.fullmatch(text)
    if match is None:
        raise NotOpened
    try:
        return int(match[1] or 1), base64.b64decode(match[2], validate=True)
    except ValueError:
        raise NotOpened from None


# ---------------------------------------------------------------------------------------------------------------------
# In a token (PKCS #11)


_ONE_SESSION = Lock()
"""A log-in is the whole process's: a thread that closes the last session would log the others out."""


class Pkcs11Root:
    """A root that never leaves a token (PKCS #11 2.40): AES-256 keys labelled `<label>/<version>`, one per version.

    They are made in the token, sensitive and not extractable, for encryption and decryption (CKM_AES_GCM) alone. Each
    use opens a session of its own, one at a time, and keeps none.
    """

    provider = "pkcs11"

    def __init__(self, module: Path, token: str, pin_file: Path, label: str = "asm-root") -> None:
        self._module, self._token, self._pin_file, self._label = module, token, pin_file, label

    def create(self) -> None:
        """Make version 1 in the token."""
        with self._session() as session:
            if self._keys(session):
                raise KeyStoreExists(f"the token {self._token} holds a root key {self._label} already")
            self._generate(session, 1)

    def exists(self) -> bool:
        """Whether the token holds a version."""
        with self._session() as session:
            return bool(self._keys(session))

    def wrap(self, keys: Sequence[tuple[bytes, bytes]]) -> list[str]:
        """See `Root`. The token encrypts; the nonce is ours, random."""
        with self._session() as session:
            versions = self._required(session)
            newest = max(versions)
            wrapped = []
            for context, key in keys:
                nonce = os.urandom(_NONCE_BYTES)
                blob = nonce + bytes(versions[newest].encrypt(key, **_gcm(nonce, context)))
                wrapped.append(f"{newest}:{base64.b64encode(blob).decode('ascii')}")
        return wrapped

    def unwrap(self, wrapped: Sequence[tuple[bytes, str]]) -> list[bytes]:
        """See `Root`."""
        import pkcs11

        with self._session() as session:
            versions, keys = self._required(session), []
            for context, text in wrapped:
                version, blob = _version_and_blob(text)
                try:
                    opened = versions[version].decrypt(blob[_NONCE_BYTES:], **_gcm(blob[:_NONCE_BYTES], context))
                except KeyError:
                    raise NotOpened from None
                except pkcs11.exceptions.PKCS11Error:
                    # Tokens tell a wrong tag in different ways, SoftHSM2 as "general error", and their own removal
                    # too. A key that still encrypts is there, so the text is what is wrong; else this raises again.
                    versions[version].encrypt(b"", **_gcm(os.urandom(_NONCE_BYTES), context))
                    raise NotOpened from None
                keys.append(bytes(opened))
        return keys

    def rewrap(self, wrapped: Sequence[tuple[bytes, str]]) -> list[str]:
        """See `Root`."""
        contexts = [context for context, _ in wrapped]
        return self.wrap(list(zip(contexts, self.unwrap(wrapped), strict=True)))

    def renew(self) -> None:
        """Make a further key in the token."""
        with self._session() as session:
            self._generate(session, max(self._required(session)) + 1)

    def retire(self) -> None:
        """Destroy the older keys in the token."""
        with self._session() as session:
            versions = self._required(session)
            for version in sorted(versions)[:-1]:
                versions[version].destroy()

    def stamp(self) -> object:
        """Nothing: asking the token would be using it, and a renewed root shows in the key file."""
        return None

    @contextmanager
    def _session(self) -> Iterator[Any]:
        try:
            import pkcs11
        except ImportError:
            raise KeyStoreMissing("PKCS #11 needs the extra: pip install asm-daemon[pkcs11]") from None
        pin = read_private(self._pin_file).decode("utf-8", errors="replace").strip()
        try:
            library = pkcs11.lib(str(self._module))
        except (pkcs11.exceptions.PKCS11Error, RuntimeError, OSError):
            raise KeyStoreUnreachable(f"{self._module} cannot be loaded as a PKCS #11 module") from None
        try:
            with _ONE_SESSION, library.get_token(token_label=self._token).open(rw=True, user_pin=pin) as session:
                yield session
        except pkcs11.exceptions.PKCS11Error as error:
            # Only the kind: a driver's own text is not ours to trust.
            raise KeyStoreUnreachable(f"the token {self._token} refused: {type(error).__name__}") from None

    def _keys(self, session: Any) -> dict[int, Any]:
        from pkcs11 import Attribute, KeyType, ObjectClass

        found = {}
        wanted = {Attribute.CLASS: ObjectClass.SECRET_KEY, Attribute.KEY_TYPE: KeyType.AES}
        for key in session.get_objects(wanted):
            name, _, version = key.label.rpartition("/")
            if name == self._label and version.isdecimal():
                found[int(version)] = key
        return found

    def _required(self, session: Any) -> dict[int, Any]:
        keys = self._keys(session)
        if not keys:
            raise KeyStoreMissing(f"the token {self._token} holds no root key {self._label}")
        return keys

    def _generate(self, session: Any, version: int) -> None:
        from pkcs11 import Attribute, KeyType, MechanismFlag

        session.generate_key(
            KeyType.AES,
            256,
            label=f"{self._label}/{version}",
            store=True,
            capabilities=MechanismFlag.ENCRYPT | MechanismFlag.DECRYPT,
            template={Attribute.SENSITIVE: True, Attribute.EXTRACTABLE: False, Attribute.PRIVATE: True},
        )


def _gcm(nonce: bytes, context: bytes) -> dict[str, Any]:
    from pkcs11 import GCMParams, Mechanism

    return {"mechanism": Mechanism.AES_GCM, "mechanism_param": GCMParams(nonce, context, _TAG_BITS)}


# ---------------------------------------------------------------------------------------------------------------------
# In a vault (transit)


_VAULT_LIMIT_BYTES = 8 * 1024 * 1024
_VAULT_TEXT = re.compile(r"vault:v[1-9]\d{0,8}:[A-Za-z0-9+/=]+")


class VaultRoot:
    """A root in the transit engine of OpenBao or HashiCorp Vault: a key of type aes256-gcm96 that never leaves it.

    `rewrap` takes no associated data, so the SHA-256 of the context is wrapped in front of each key and compared. All
    keys of one call travel in one request (`batch_input`). The token is read from its file at each call, since agents
    renew it; `timeout_seconds` bounds connecting and every read.
    """

    provider = "vault"

    def __init__(
        self,
        url: str,
        key: str,
        token_file: Path,
        *,
        mount: str = "transit",
        ca_file: Path | None = None,
        timeout_seconds: float = 5,
    ) -> None:
        self._url, self._key, self._token_file = urlsplit(url), key, token_file
        self._mount, self._ca_file, self._timeout_seconds = mount, ca_file, timeout_seconds

    def create(self) -> None:
        """Make the key in the vault. Raises KeyStoreExists if it is there: it may be the root of another store."""
        if self.exists():
            raise KeyStoreExists(f"the vault holds a key {self._key} already")
        self._call("POST", f"keys/{self._key}", {"type": "aes256-gcm96", "exportable": False})

    def exists(self) -> bool:
        """Whether the vault holds the key."""
        return self._call("GET", f"keys/{self._key}", None, absent=True) is not None

    def wrap(self, keys: Sequence[tuple[bytes, bytes]]) -> list[str]:
        """See `Root`."""
        plain = [base64.b64encode(sha256(context).digest() + key).decode("ascii") for context, key in keys]
        return _ciphertexts(self._batch("encrypt", [{"plaintext": text} for text in plain]))

    def unwrap(self, wrapped: Sequence[tuple[bytes, str]]) -> list[bytes]:
        """See `Root`."""
        if any(not _VAULT_TEXT.fullmatch(text) for _, text in wrapped):
            raise NotOpened
        keys = []
        found = self._batch("decrypt", [{"ciphertext": text} for _, text in wrapped])
        for (context, _), entry in zip(wrapped, found, strict=True):
            try:
                plain = base64.b64decode(entry["plaintext"], validate=True)
            except (KeyError, TypeError, ValueError):
                raise NotOpened from None
            if not hmac.compare_digest(plain[:32], sha256(context).digest()):
                raise NotOpened
            keys.append(plain[32:])
        return keys

    def rewrap(self, wrapped: Sequence[tuple[bytes, str]]) -> list[str]:
        """See `Root`. The keys do not leave the vault."""
        if any(not _VAULT_TEXT.fullmatch(text) for _, text in wrapped):
            raise NotOpened
        return _ciphertexts(self._batch("rewrap", [{"ciphertext": text} for _, text in wrapped]))

    def renew(self) -> None:
        """Rotate the key in the vault."""
        self._call("POST", f"keys/{self._key}/rotate", {})

    def retire(self) -> None:
        """Let the vault decrypt with the newest version alone. The older ones are then destroyed by `trim`, there."""
        facts = self._call("GET", f"keys/{self._key}", None)
        newest = (facts or {}).get("data", {}).get("latest_version")
        if not isinstance(newest, int):
            raise KeyStoreUnreachable("the vault does not say which version of the key is the newest")
        self._call("POST", f"keys/{self._key}/config", {"min_decryption_version": newest})
        facts = self._call("GET", f"keys/{self._key}", None)
        if (facts or {}).get("data", {}).get("min_decryption_version") != newest:
            raise KeyStoreUnreachable("the vault still decrypts with former versions of the key")

    def stamp(self) -> object:
        """Nothing: a renewed root shows in the key file."""
        return None

    def _batch(self, verb: str, items: list[dict[str, str]]) -> list[dict[str, Any]]:
        if not items:
            return []
        answer = self._call("POST", f"{verb}/{self._key}", {"batch_input": items})
        found = (answer or {}).get("data", {}).get("batch_results")
        if not isinstance(found, list) or len(found) != len(items) or not all(isinstance(each, dict) for each in found):
            raise KeyStoreUnreachable(f"the vault answered {verb} with something else than its results")
        return found

    def _call(self, method: str, path: str, body: dict[str, Any] | None, *, absent: bool = False) -> Any:
        """Return the JSON of the answer, None if there is none, or, with `absent`, if the answer is 404."""
        token = read_private(self._token_file).decode("ascii", errors="replace").strip()
        headers = {"X-Vault-Token": token, "X-Vault-Request": "true", "Content-Type": "application/json"}
        connection = self._connection()
        try:
            target = f"{self._url.path.rstrip('/')}/v1/{self._mount}/{path}"
            connection.request(method, target, None if body is None else orjson.dumps(body), headers)
            response = connection.getresponse()
            content = response.read(_VAULT_LIMIT_BYTES)
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise KeyStoreUnreachable(f"the vault does not answer: {type(error).__name__}") from None
        finally:
            connection.close()
        if response.status == http.client.NOT_FOUND and absent:
            return None
        # A batch of which some did not open is answered 400 with the results of all.
        refused_in_part = response.status == http.client.BAD_REQUEST and b"batch_results" in content
        if response.status not in {http.client.OK, http.client.NO_CONTENT} and not refused_in_part:
            raise KeyStoreUnreachable(f"the vault refused {method} {self._mount}/{path}: status {response.status}")
        try:
            return orjson.loads(content) if content.strip() else None
        except orjson.JSONDecodeError:
            raise KeyStoreUnreachable("the vault answered with something else than JSON") from None

    def _connection(self) -> http.client.HTTPConnection:
        host = self._url.hostname or ""
        if self._url.scheme == "http":
            return http.client.HTTPConnection(host, self._url.port, timeout=self._timeout_seconds)
        context = ssl.create_default_context(cafile=self._ca_file)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        return http.client.HTTPSConnection(host, self._url.port, timeout=self._timeout_seconds, context=context)


def _ciphertexts(results: list[dict[str, Any]]) -> list[str]:
    found = [str(entry.get("ciphertext")) for entry in results]
    if not all(map(_VAULT_TEXT.fullmatch, found)):
        raise KeyStoreUnreachable("the vault answered with something else than ciphertext")
    return found
