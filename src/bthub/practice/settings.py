"""Settings of a practice from the environment: where data is kept, who may register, which addresses it answers."""

import os
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from bthub.errors import BthubError

DATA = "BTHUB_PRACTICE"
KEY = "BTHUB_PRACTICE_KEY"
MAX_UPLOAD_BYTES = 1 << 30
MAX_FORM_BYTES = 1 << 20


@dataclass(frozen=True)
class OAuth:
    """What the Hub gives a Space whose card says `hf_oauth: true`."""

    provider: str
    client_id: str
    client_secret: str
    scopes: str
    host: str


@dataclass(frozen=True)
class Settings:
    """Where and how a practice runs.

    Attributes:
        folder: holds the database (of SQLite), the stored files, locks and the secret.
        database_url: SQLAlchemy URL; SQLite in `folder` unless given.
        files_url: fsspec URL of the stored files; `folder`/files unless given.
        key: encrypts the stored files where given: 32 bytes, as 64 hexadecimal digits.
        secret: signs tokens against forged requests and keys the digests in the database; made once, kept in `folder`.
        hosts: names under which the server answers; requests that name another are refused.
        space: it runs as a Hugging Face Space: behind a proxy, in a frame, sign-in by OAuth.
        proxy: the client's address is the last entry of X-Forwarded-For.
        secure: cookies only over https.
        max_upload_bytes: of one request with files.
        oauth: for sign-in with a Hugging Face account; on a Space only.
    """

    folder: Path
    database_url: str
    secret: str
    files_url: str | None = None
    key: bytes | None = None
    hosts: tuple[str, ...] = ("127.0.0.1", "localhost", "[::1]", "testserver")
    space: bool = False
    proxy: bool = False
    secure: bool = False
    max_upload_bytes: int = MAX_UPLOAD_BYTES
    oauth: OAuth | None = None


def load(folder: str | Path | None = None, environ: Mapping[str, str] = os.environ) -> Settings:
    """Read the settings from the environment, and make the folder where it is missing.

    Args:
        folder: of the data; default: BTHUB_PRACTICE, or data/practice.
        environ: variables; tests give their own.

    Raises:
        BthubError: the folder can't be written, or the key isn't 64 hexadecimal digits.
    """
    place = Path(folder or environ.get(DATA) or "data/practice").absolute()
    try:
        place.mkdir(parents=True, exist_ok=True, mode=0o700)
        secret = _secret(place / "secret")
    except OSError as error:
        raise BthubError(
            f"{place}: cannot be used as data folder ({error.strerror}); name another in {DATA}"
        ) from error
    url = environ.get("DATABASE_URL") or f"sqlite:///{place / 'practice.db'}"
    # What hosts hand out; SQLAlchemy knows only the long name.
    url = "postgresql://" + url.removeprefix("postgres://") if url.startswith("postgres://") else url
    space = "SPACE_ID" in environ
    hosts = [name.strip() for name in environ.get("BTHUB_PRACTICE_HOSTS", "").split(",") if name.strip()]
    if space and (name := environ.get("SPACE_HOST")):
        hosts.append(name)
    return Settings(
        folder=place,
        database_url=url,
        secret=secret,
        files_url=environ.get("BTHUB_PRACTICE_FILES") or None,
        key=_key(environ.get(KEY)),
        hosts=(*Settings.hosts, *hosts),
        space=space,
        proxy=space or environ.get("BTHUB_PRACTICE_PROXY") == "1",
        secure=space or environ.get("BTHUB_PRACTICE_HTTPS") == "1",
        oauth=_oauth(environ) if space else None,
    )


def _oauth(environ: Mapping[str, str]) -> OAuth | None:
    if not (environ.get("OAUTH_CLIENT_ID") and environ.get("OAUTH_CLIENT_SECRET") and environ.get("SPACE_HOST")):
        return None
    return OAuth(
        environ.get("OPENID_PROVIDER_URL", "https://huggingface.co").rstrip("/"),
        environ["OAUTH_CLIENT_ID"],
        environ["OAUTH_CLIENT_SECRET"],
        environ.get("OAUTH_SCOPES", "openid profile"),
        environ["SPACE_HOST"],
    )


def _key(text: str | None) -> bytes | None:
    if not text:
        return None
    try:
        key = bytes.fromhex(text)
    except ValueError:
        key = b""
    if len(key) != 32:
        raise BthubError(
            f"{KEY} must be 64 hexadecimal digits: make a key with "
            "python -c 'import secrets; print(secrets.token_hex(32))' and keep it apart from the data"
        )
    return key


def _secret(path: Path) -> str:
    """The installation's secret. Linked into place whole, so that two first starts agree on one."""
    if not path.exists():
        fresh = path.with_name(f".{path.name}-{secrets.token_hex(8)}")
        with open(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as file:
            file.write(secrets.token_hex(32))
            file.flush()
            os.fsync(file.fileno())
        try:
            os.link(fresh, path)
        except FileExistsError:
            pass
        finally:
            fresh.unlink()
    return path.read_text(encoding="utf-8").strip()
