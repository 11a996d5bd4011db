"""Network settings from the environment: proxies, certificates, the Hub's address, and where the apps listen."""

import ipaddress
import os
import re
import socket
import ssl
import sys
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import cast
from urllib.parse import urlsplit

from bthub.errors import BthubError

HOST, PORT = "BTHUB_HOST", "PORT"
"""The variables that say where an app listens."""

_LOOPBACK = ("localhost", "127.0.0.1", "::1")
_PROXIES = ("http_proxy", "https_proxy", "all_proxy")
_CERTIFICATES = ("SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE")


def send_no_telemetry() -> None:
    """Keep the networks' runtimes from reporting to their makers and from writing an id into the home folder.

    Call it before either is imported. With ORT_DISABLE_TELEMETRY=0 onnxruntime does as it likes.
    """
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    sys.modules.setdefault("openvino_telemetry", cast(ModuleType, None))  # it can't be imported: OpenVINO does without


def spare_loopback() -> None:
    """Have this process and those it starts reach this machine directly, whatever proxy is set."""
    for name in ("no_proxy", "NO_PROXY"):
        spared = [host for host in os.environ.get(name, "").split(",") if host.strip()]
        if "*" not in spared:
            os.environ[name] = ",".join([*spared, *(host for host in _LOOPBACK if host not in spared)])


def check_network() -> None:
    """Refuse surroundings in which no connection can be made, before anything tries.

    What other programs take and the clients here don't is put in order: spaces around a proxy, and hosts of `no_proxy`
    in brackets, in other letters, or with the length of an IPv6 network, which would match nothing anyway.

    Raises:
        BthubError: a certificate file that isn't one, a proxy that isn't an address or of an unknown kind or a Hub
            address without https://.
    """
    for name in _CERTIFICATES:
        _check_certificates(name, os.environ.get(name, ""))
    for name in (*_PROXIES, *(name.upper() for name in _PROXIES)):
        if name in os.environ:
            os.environ[name] = os.environ[name].strip()
            _check_proxy(name, os.environ[name])
    for name in ("no_proxy", "NO_PROXY"):
        if name in os.environ:
            os.environ[name] = ",".join(filter(None, map(_spared_host, os.environ[name].split(","))))
    endpoint = os.environ.get("HF_ENDPOINT")
    if endpoint and (not re.match(r"https?://[^/]", endpoint) or not _is_address(endpoint)):
        raise BthubError(f"HF_ENDPOINT is {_short(endpoint)!r}, expected an address that starts with https://")
    for client in _clients():
        try:
            client.Client().close()
        except Exception as error:
            known = (*_CERTIFICATES, *_PROXIES, "no_proxy")
            names = [name for one in known for name in dict.fromkeys((one, one.upper())) if os.environ.get(name)]
            raise BthubError(
                f"no connection can be made with the settings in {', '.join(names) or 'the environment'}"
                f" ({_short(str(error))}): check it, or unset it"
            ) from error


def check_hub() -> None:
    """As `check_network`, and for what signs in at the Hub: a token that can't be sent is refused, without its value.

    Raises:
        BthubError: as `check_network`; or such a token.
    """
    check_network()
    hub, constants = import_module("huggingface_hub"), import_module("huggingface_hub.constants")
    named = next((name for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN") if os.environ.get(name)), None)
    where = named or f"the file {constants.HF_TOKEN_PATH}"
    try:
        token = hub.get_token() or ""
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it isn't text"
        raise BthubError(f"the Hub's token in {where} can't be read ({reason}): mend it, or remove it") from error
    if not (token.isascii() and token.isprintable()):
        raise BthubError(f"{where} doesn't hold a Hub token: tokens have only ASCII letters and digits")


def client_errors() -> tuple[type[Exception], ...]:
    """What the Hub's client raises where the network fails."""
    return (OSError, *(kind for client in _clients() for kind in (client.HTTPError, client.InvalidURL)))


def _clients() -> list[ModuleType]:
    """The libraries through which the Hub and the apps are reached, of those that are installed."""
    return [import_module(name) for name in ("httpx2", "httpx") if find_spec(name)]


def _check_certificates(name: str, path: str) -> None:
    if not path:
        return
    if name != "SSL_CERT_DIR" and Path(path).is_file():
        try:
            ssl.create_default_context(cafile=path)
        except (OSError, ValueError) as error:
            raise BthubError(
                f"{name} names {path}, which holds no certificates: name a file of them (PEM), or unset it"
            ) from error
    elif name == "SSL_CERT_FILE" and Path(path).is_dir():
        raise BthubError(f"{name} names {path}, which is a folder: name a certificate file, or unset it")
    elif not any(Path(one).exists() for one in (path, *path.split(os.pathsep))):
        raise BthubError(f"{name} names {path}, which isn't there: name a certificate file, or unset it")


def _check_proxy(name: str, proxy: str) -> None:
    """Refuse what is no proxy; without its value, which may have a password in it."""
    if not proxy:
        return
    kind = proxy.partition("://")[0].lower() if "://" in proxy else "http"
    if kind.startswith("socks") and find_spec("socksio") is None:
        raise BthubError(f"{name} names a SOCKS proxy, which needs a package: pip install socksio, or unset {name}")
    if kind and kind not in ("http", "https", "socks5", "socks5h"):
        raise BthubError(f"{name} names a proxy of kind {_short(kind)}, expected http://, https:// or socks5://")
    if not kind or not _is_address(proxy if "://" in proxy else f"http://{proxy}"):
        raise BthubError(
            f"{name} isn't the address of a proxy, expected one like http://proxy.example:8080; / ? # and @ in a"
            f" password are written %2F %3F %23 %40. Mend it, or unset {name}"
        )


def _is_address(url: str) -> bool:
    try:
        parts = urlsplit(url)
        for client in _clients():
            client.URL(url)
        return bool(parts.hostname) and (parts.port is None or parts.port > 0)
    except Exception:  # ValueError, and what the clients raise, which are of no common kind
        return False


def _spared_host(entry: str) -> str:
    """An entry of `no_proxy` as all clients take it, "" where none would match it."""
    host = entry.strip()
    if found := re.fullmatch(r"\[([^]]*)\](:\d+)?", host):
        host = found[1]
    try:
        network = ipaddress.ip_network(host, strict=False)
    except ValueError:
        try:
            host = host if host.isascii() else host.encode("idna").decode("ascii")
        except UnicodeError:
            return ""
        return host if _is_address(host if "://" in host else f"all://*{host}") or host == "*" else ""
    if network.version == 6:  # none of them knows networks of these
        return str(network.network_address) if network.prefixlen == 128 else ""
    return host


def hub_trouble(error: BaseException) -> str:
    """Why the Hub couldn't be reached, and the mend, as a sentence goes on after a colon.

    Args:
        error: what its client raised.
    """
    chain: list[BaseException] = []
    link: BaseException | None = error
    while link is not None and link not in chain:
        chain.append(link)
        link = link.__cause__ or link.__context__
    kinds = {kind.__name__ for link in chain for kind in type(link).__mro__}
    text = " ".join(map(str, chain))
    offline = os.environ.get("HF_HUB_OFFLINE") or os.environ.get("TRANSFORMERS_OFFLINE") or ""
    if offline.upper() in ("1", "ON", "YES", "TRUE") or "OfflineModeIsEnabled" in kinds:
        return "HF_HUB_OFFLINE is set, and it isn't in the cache: unset that, or give a folder"
    refused = next((link for link in chain if "Proxy" in type(link).__name__ or "SOCKS" in type(link).__name__), None)
    if refused is not None:
        return f"the proxy refuses ({_short(str(refused))}): check http_proxy, https_proxy and all_proxy"
    if "CERTIFICATE" in text.upper() or "SSLError" in kinds or "SSLCertVerificationError" in kinds:
        return "its certificate isn't accepted here: SSL_CERT_FILE can name the certificates of your network"
    if "UnsupportedProtocol" in kinds or "InvalidURL" in kinds:
        return "the Hub's address isn't one: HF_ENDPOINT and the proxies must begin with https:// or http://"
    if {"ConnectError", "ConnectionError", "TimeoutException", "TimeoutError", "gaierror"} & kinds:
        return "there is no connection to the Hub: check the network and the proxy, then run this again"
    return f"it couldn't be fetched from the Hub ({type(error).__name__}): check the name and the network"


def _short(text: str) -> str:
    line = re.sub(r"//\S*@", "//", " ".join(text.split()))  # a password
    return line if len(line) <= 80 else line[:77] + "..."


def app_host() -> str:
    """Where an app listens: BTHUB_HOST, by default this machine alone. Warns where others can reach it.

    Raises:
        BthubError: it is no address of this machine.
    """
    host = os.environ.get(HOST, "").strip()
    for name in ("GRADIO_SERVER_NAME", "STREAMLIT_SERVER_ADDRESS"):
        if not host and os.environ.get(name):
            print(f"bthub: {name} isn't read: {HOST} says where the app listens", file=sys.stderr, flush=True)
    host = host or "127.0.0.1"
    try:
        found = socket.getaddrinfo(host, 0, type=socket.SOCK_STREAM)
        with socket.socket(found[0][0], socket.SOCK_STREAM) as probe:
            probe.bind(found[0][4])
    except (OSError, UnicodeError) as error:
        raise BthubError(
            f"{HOST} is {host!r}, which isn't an address of this machine; use 127.0.0.1 for this machine only, "
            "0.0.0.0 for other machines too"
        ) from error
    if not ipaddress.ip_address(found[0][4][0]).is_loopback and "SPACE_ID" not in os.environ:
        print(
            f"bthub: listening on {host}: anyone who can reach this machine can use the app, without sign-in "
            "or encryption. Research software, not a medical device: keep patients' pictures away from it.",
            file=sys.stderr,
            flush=True,
        )
    return host


def app_port(default: int) -> int:
    """The TCP port of an app: PORT, or the default.

    Raises:
        BthubError: it is no port.
    """
    port = os.environ.get(PORT) or str(default)
    if not (port.isascii() and port.isdigit() and 0 < int(port) < 65536):
        raise BthubError(f"{PORT} must be a number from 1 to 65535, not {port!r}")
    return int(port)
