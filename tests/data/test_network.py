"""bthub.data.network: whatever proxies, certificates and addresses are named, a sentence and no traceback."""

import http.server
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from ports import free_port

from bthub import cli
from bthub.data.network import app_host, app_port, check_network, hub_trouble, spare_loopback
from bthub.errors import BthubError
from bthub.imaging.checks import display_name, without_password
from bthub.imaging.fetch import is_loopback
from bthub.imaging.image_io import read_image

DEAD = "http://127.0.0.1:9"


@pytest.fixture(autouse=True)
def no_surroundings(monkeypatch):
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    for name in ("SSL_CERT_FILE", "HF_ENDPOINT", "BTHUB_HOST", "GRADIO_SERVER_NAME", "SPACE_ID"):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({"SSL_CERT_FILE": "/nowhere/certificates.pem"}, "SSL_CERT_FILE names /nowhere/certificates.pem"),
        ({"REQUESTS_CA_BUNDLE": "/nowhere"}, "REQUESTS_CA_BUNDLE names /nowhere"),
        ({"HF_ENDPOINT": "huggingface.co"}, "HF_ENDPOINT is 'huggingface.co', expected an address"),
        ({"ALL_PROXY": "socks4://127.0.0.1:9"}, "ALL_PROXY names a proxy of kind socks4"),
        ({"https_proxy": "ftp://127.0.0.1:9"}, "https_proxy names a proxy of kind ftp"),
        ({"SSL_CERT_FILE": __file__}, f"SSL_CERT_FILE names {__file__}, which holds no certificates"),
        ({"SSL_CERT_FILE": "/"}, "SSL_CERT_FILE names /, which is a folder"),
        ({"http_proxy": "http://127.0.0.1:abc"}, "http_proxy isn't the address of a proxy"),
        ({"http_proxy": "http://user:se/cret@127.0.0.1:9"}, "http_proxy isn't the address of a proxy"),
        ({"https_proxy": "http://[::1"}, "https_proxy isn't the address of a proxy"),
        ({"all_proxy": "http://"}, "all_proxy isn't the address of a proxy"),
        ({"https_proxy": "://x"}, "https_proxy isn't the address of a proxy"),
        ({"HF_ENDPOINT": "https://me:secret@x:abc"}, "HF_ENDPOINT is 'https://x:abc', expected an address"),
    ],
)
def test_what_can_not_work_is_said_before_it_is_tried(variables, expected, monkeypatch, capsys):
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(BthubError) as info:
        check_network()
    assert expected in str(info.value)
    assert cli.main(["data", "info", "someone/something"]) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.startswith(f"bthub: {expected}") and len(err.splitlines()) == 1 and "cret" not in err


@pytest.mark.parametrize("proxy", ["", "127.0.0.1:9", DEAD, "https://127.0.0.1:9", "socks5://127.0.0.1:9", f" {DEAD} "])
def test_usual_proxies_pass(proxy, monkeypatch):
    monkeypatch.setenv("ALL_PROXY", proxy)
    check_network()


@pytest.mark.parametrize(
    ("spared", "kept"),
    [
        ("10.0.0.0/8,::1/128,fe80::/10", "10.0.0.0/8,::1"),
        ("[::1], localhost,[::1]:80", "::1,localhost,::1"),
        ("ex\u00e4mple.com,.example.com,*.a.b,a.b:80,*", "xn--exmple-cua.com,.example.com,*.a.b,a.b:80,*"),
        ("a:b,http://c,,http://d:e", "http://c"),
    ],
)
def test_hosts_without_a_proxy_are_put_in_order(spared, kept, monkeypatch):
    monkeypatch.setenv("http_proxy", DEAD)
    monkeypatch.setenv("no_proxy", spared)
    check_network()
    assert os.environ["no_proxy"] == kept


def test_what_else_stops_the_client_is_a_sentence(monkeypatch):
    httpx = pytest.importorskip("httpx")
    monkeypatch.setenv("http_proxy", DEAD)
    monkeypatch.setattr(httpx, "Client", lambda: httpx.URL("http://u:secret@h:x"))
    with pytest.raises(BthubError, match="no connection can be made with the settings in .*http_proxy") as info:
        check_network()
    assert "secret" not in str(info.value)


def test_a_socks_proxy_without_its_package_is_a_sentence(monkeypatch):
    monkeypatch.setenv("ALL_PROXY", "socks5://127.0.0.1:9")
    monkeypatch.setattr("bthub.data.network.find_spec", lambda name: None)
    with pytest.raises(BthubError, match="pip install socksio"):
        check_network()


@pytest.mark.parametrize("spared", [None, "", "example.org", "localhost,example.org", "*"])
def test_loopback_is_spared_and_what_was_spared_stays(spared, monkeypatch):
    if spared is not None:
        monkeypatch.setenv("no_proxy", spared)
    monkeypatch.setenv("NO_PROXY", "")
    monkeypatch.setenv("no_proxy", spared or "")
    spare_loopback()
    found = os.environ["no_proxy"].split(",")
    assert spared == "*" or {"localhost", "127.0.0.1", "::1", *filter(None, (spared or "").split(","))} == set(found)
    assert len(found) == len(set(found))


@pytest.fixture
def picture_server():
    from PIL import Image

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):  # noqa: N802
            asked.append((self.path, self.headers.get("Authorization")))
            self.send_response(200)
            self.end_headers()
            Image.effect_noise((40, 40), 80).save(self.wfile, "PNG")

        def log_message(self, *args):
            pass

    asked: list[tuple[str, str | None]] = []
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"127.0.0.1:{server.server_port}", asked
        server.shutdown()


@pytest.mark.parametrize("proxy", [DEAD, "socks5://127.0.0.1:9"])
def test_pictures_of_this_machine_come_without_the_proxy(proxy, picture_server, monkeypatch):
    monkeypatch.setenv("http_proxy", proxy)
    host, _ = picture_server
    assert read_image(f"http://{host}/a.png").shape == (40, 40, 3)
    with pytest.raises(BthubError, match="SOCKS proxy" if proxy.startswith("socks") else "download failed"):
        read_image("http://example.org/a.png")


def test_addresses_are_encoded_and_passwords_sent_but_never_said(picture_server, capfd):
    host, asked = picture_server
    read_image(f"http://me:p%40ss@{host}/a b/é脳.png?q=x y&t=%20#part")
    assert asked == [("/a%20b/%C3%A9%E8%84%B3.png?q=x%20y&t=%20", "Basic bWU6cEBzcw==")]
    for url in (
        "http://me:topsecret@127.0.0.1:1/a.png",
        "http://me:topsecret@127.0.0.1:port/a.png",
        "http://me:topsecret@[bad/a.png",
        "http://me:topsecret@/a.png",
        "http://me:topsecret@exa mple/a.png",
        "ftp://me:topsecret@host/a.png",
        "http://me:top@secret@127.0.0.1:1/a.png",
    ):
        with pytest.raises(BthubError) as info:
            read_image(url)
        chain = info.value
        while chain is not None:
            assert "secret" not in str(chain) and "\n" not in str(chain)
            chain = chain.__cause__
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("password", ["pa/ss", "p#ss", "p?ss", "pa/ss@h"])
def test_passwords_that_end_the_address_too_early_are_not_said(password):
    url = f"http://user:{password}@h.invalid/x.png"
    assert without_password(url) == display_name(url) == "http://h.invalid/x.png"
    with pytest.raises(BthubError, match="in its password are written %2F") as info:
        read_image(url)
    assert "ss" not in str(info.value).replace("password", "").replace("address", "")


@pytest.mark.parametrize("url", ["http://h:80/x@y.png", "http://h/a:b@c", "http://[::1]:80/a@b", "http://h:80?x=@"])
def test_addresses_without_a_password_stay(url):
    assert without_password(url) == url


def test_odd_ports_of_addresses_are_not_repeated():
    with pytest.raises(BthubError, match="the port isn't a number") as info:
        read_image("http://h.invalid:80x/a.png")
    assert "'80x'" not in str(info.value)


def test_a_redirect_elsewhere_gets_no_password(picture_server):
    host, asked = picture_server

    class Redirect(http.server.BaseHTTPRequestHandler):
        def do_GET(self):  # noqa: N802
            self.send_response(302)
            self.send_header("Location", f"http://other:word@{host}/next.png")
            self.end_headers()

        def log_message(self, *args):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Redirect) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        read_image(f"http://me:secret@127.0.0.1:{server.server_port}/a.png")
        server.shutdown()
    assert asked == [("/next.png", None)]


@pytest.mark.parametrize(
    ("host", "expected"),
    [("localhost", True), ("LOCALHOST.", True), ("app.localhost", True), ("127.9.9.9", True), ("::1", True)]
    + [("example.org", False), ("10.0.0.1", False), ("localhost.example.org", False), ("", False)],
)
def test_loopback(host, expected):
    assert is_loopback(host) is expected


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (type("ProxyError", (Exception,), {})("403 Forbidden"), "the proxy refuses (403 Forbidden)"),
        (type("UnsupportedProtocol", (Exception,), {})("missing"), "HF_ENDPOINT"),
        (ConnectionRefusedError(111, "refused"), "then run this again"),
        (OSError("certificate verify failed"), "SSL_CERT_FILE"),
        (ValueError("odd"), "ValueError"),
        (type("ProxyError", (Exception,), {})("Proxy http://user:secret@127.0.0.1:9 says 403"), "Proxy http://127.0"),
    ],
)
def test_why_the_hub_fails(error, expected, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    try:
        raise RuntimeError("wrapped") from error
    except RuntimeError as wrapped:
        assert expected in hub_trouble(error) and ("ValueError" in expected or expected in hub_trouble(wrapped))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    sentence = hub_trouble(error)
    assert "secret" not in sentence
    assert "HF_HUB_OFFLINE is set" in sentence and "again" not in sentence


def test_apps_listen_where_one_variable_says_and_warn(monkeypatch, capsys):
    assert app_host() == "127.0.0.1" and capsys.readouterr().err == ""
    monkeypatch.setenv("GRADIO_SERVER_NAME", "0.0.0.0")
    assert app_host() == "127.0.0.1" and "GRADIO_SERVER_NAME isn't read: BTHUB_HOST says" in capsys.readouterr().err
    monkeypatch.setenv("BTHUB_HOST", "0.0.0.0")
    assert app_host() == "0.0.0.0" and "anyone who can reach this machine can use the app" in capsys.readouterr().err
    monkeypatch.setenv("BTHUB_HOST", "localhost")
    assert app_host() == "localhost" and capsys.readouterr().err == ""
    for odd in ("203.0.113.7", "no such host", "http://x"):
        monkeypatch.setenv("BTHUB_HOST", odd)
        with pytest.raises(BthubError, match="isn't an address of this machine"):
            app_host()


@pytest.mark.parametrize("port", ["0", "65536", "http", "-1", "８０"])
def test_odd_ports_are_refused(port, monkeypatch):
    assert app_port(80) == 80
    monkeypatch.setenv("PORT", port)
    with pytest.raises(BthubError, match="PORT must be a number"):
        app_port(80)


def test_the_dashboard_refuses_a_port_in_one_sentence(monkeypatch):
    done = subprocess.run(
        [sys.executable, "dashboard/serve.py"],
        env={**os.environ, "PORT": "many"},
        capture_output=True,
        text=True,
        encoding="utf-8",
        cwd=Path(__file__).parents[2],
    )
    assert done.returncode == 2 and done.stderr == "bthub: PORT must be a number from 1 to 65535, not 'many'\n"


def test_the_app_starts_behind_a_dead_proxy():
    """What starts the app asks it whether it is there: not by the proxy."""
    first, second = {"http_proxy": DEAD, "all_proxy": DEAD}, {"ALL_PROXY": "socks5://127.0.0.1:9"}
    code = f"""
import os, sys
sys.path.insert(0, "space")
import app, gradio as gr
for port in {[free_port(), free_port()]}:
    with gr.Blocks() as demo:
        gr.HTML("x")
    app.launch(demo, port)
    print(demo.local_url)
    demo.close(verbose=False)
    for name in {list(first)}:
        os.environ.pop(name, None)
    os.environ |= {second}
"""
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, **first},
        capture_output=True,
        text=True,
        encoding="utf-8",
        cwd=Path(__file__).parents[2],
    )
    assert done.returncode == 0 and done.stdout.count("http://127.0.0.1:") == 2, done.stderr[-2000:]


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
def test_the_runtimes_report_nothing_to_their_makers(runtime, tmp_path):
    """Both count their uses, under an id that they keep in the home folder, unless they are told not to."""
    pytest.importorskip(runtime)
    root = Path(__file__).parents[2]
    file = root / "runs" / "lite0-mri" / "onnx" / "model_quantized.onnx"
    code = f"""
import sys
from bthub.inference.backends.graphs import open_network
from pathlib import Path
open_network(Path({str(file)!r}), {runtime!r}, 1)
assert {runtime!r} in sys.modules
"""
    unset = ("ORT_DISABLE_TELEMETRY", "XDG_CACHE_HOME", "CI", "TF_BUILD", "JENKINS_URL")
    surroundings = {name: value for name, value in os.environ.items() if name not in unset}
    done = subprocess.run(
        [sys.executable, "-c", code], env={**surroundings, "HOME": str(tmp_path)}, capture_output=True, text=True
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert not list(tmp_path.iterdir())


def test_a_token_that_can_not_be_sent_is_said_by_its_place_alone(monkeypatch, tmp_path, capsys):
    check_network()  # the apps, which sign in nowhere, start all the same
    monkeypatch.setenv("HF_TOKEN", "secr\u00e9t")
    check_network()
    assert cli.main(["data", "info", "someone/something"]) == 2
    assert capsys.readouterr().err.startswith("bthub: HF_TOKEN doesn't hold a Hub token")
    monkeypatch.delenv("HF_TOKEN")
    file = tmp_path / "token"
    file.write_bytes(b"\xff\xfe")
    monkeypatch.setattr("huggingface_hub.constants.HF_TOKEN_PATH", str(file))
    assert cli.main(["data", "info", "someone/something"]) == 2
    assert capsys.readouterr().err == f"bthub: the Hub's token in the file {file} can't be read (it isn't text): " + (
        "mend it, or remove it\n"
    )
    assert cli.main(["data", "info", ""]) == 2
    assert capsys.readouterr().err.startswith("bthub: the data set has no name")
