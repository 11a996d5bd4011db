"""A small Hub on loopback for tests: what the stock clients ask of the Hugging Face Hub, answered as the Hub does.

    with HubServer() as hub:
        hub.fault("POST", r"/commit/", "lost")
        subprocess.run(command, env=hub.environment(tmp_path, hub.write_token), check=True)
        assert hub.count("POST", r"/commit/") == 1
        assert "config.json" in hub.files("model", "bthub/x")

Everything is in memory. Git is there only as far as clients see it: commits, branches, tags and the ids of files. Large
files take the basic LFS protocol (clients must have Xet switched off, as `environment` does). There are no pull
requests and no dataset viewer, and every listing is one page.
"""

import base64
import hashlib
import json
import os
import re
import secrets
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from email.message import Message
from fnmatch import fnmatch
from functools import cached_property
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import takewhile
from typing import Literal, NamedTuple
from urllib.parse import parse_qs, unquote, urlsplit

import yaml

LFS_PATTERNS = "*.safetensors *.bin *.pt *.onnx *.parquet *.npy *.npz *.zip *.gz *tfevents*".split()
LFS_PICTURES = ["*.png", "*.jpg", "*.jpeg", "*.tif", "*.tiff"]  # in data sets only
LFS_SIZE = 10 * 2**20  # whatever its name, a file above this can't be a plain git file
SDKS = ["gradio", "docker", "static", "streamlit"]
# What an account without a plan may make.
FREE_HARDWARE, FREE_SPACES = "zero-a10g", 2
COLORS = ["red", "yellow", "green", "blue", "indigo", "purple", "pink", "gray"]
# The ids that the Hub's card validation takes.
LICENSES = """apache-2.0 mit openrail bigscience-openrail-m creativeml-openrail-m bigscience-bloom-rail-1.0
    bigcode-openrail-m afl-3.0 artistic-2.0 bsl-1.0 bsd bsd-2-clause bsd-3-clause bsd-3-clause-clear c-uda cc cc0-1.0
    cc-by-2.0 cc-by-2.5 cc-by-3.0 cc-by-4.0 cc-by-sa-3.0 cc-by-sa-4.0 cc-by-nc-2.0 cc-by-nc-3.0 cc-by-nc-4.0
    cc-by-nd-4.0 cc-by-nc-nd-3.0 cc-by-nc-nd-4.0 cc-by-nc-sa-2.0 cc-by-nc-sa-3.0 cc-by-nc-sa-4.0 cdla-sharing-1.0
    cdla-permissive-1.0 cdla-permissive-2.0 wtfpl ecl-2.0 epl-1.0 epl-2.0 etalab-2.0 eupl-1.1 eupl-1.2 agpl-3.0 gfdl
    gpl gpl-2.0 gpl-3.0 lgpl lgpl-2.1 lgpl-3.0 isc h-research intel-research lppl-1.3c ms-pl apple-ascl apple-amlr
    mpl-2.0 odc-by odbl openmdw-1.0 openrail++ osl-3.0 postgresql ofl-1.1 ncsa unlicense zlib pddl lgpl-lr
    deepfloyd-if-license fair-noncommercial-research-license llama2 llama3 llama3.1 llama3.2 llama3.3 llama4
    grok2-community gemma unknown other""".split()


# --- what is stored


@dataclass(frozen=True)
class File:
    """A file of a commit.

    Attributes:
        oid: git's id, of the content or (LFS) of the pointer that git holds in its place.
        sha256: of the content; only LFS files have it.
    """

    data: bytes = field(repr=False)
    oid: str
    sha256: str | None = None

    @classmethod
    def plain(cls, data: bytes) -> "File":
        return cls(data, hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest())

    @classmethod
    def lfs(cls, data: bytes) -> "File":
        sha256 = hashlib.sha256(data).hexdigest()
        pointer = f"version https://git-lfs.github.com/spec/v1\noid sha256:{sha256}\nsize {len(data)}\n"
        return cls(data, cls.plain(pointer.encode()).oid, sha256)

    @property
    def content_id(self) -> str:
        """What ETags and preupload compare: a client can compute it without knowing about pointers."""
        return self.sha256 or self.oid


@dataclass(frozen=True)
class Commit:
    oid: str
    parent: str | None
    title: str
    message: str
    date: str
    files: dict[str, File] = field(repr=False)

    @property
    def folders(self) -> set[str]:
        return {path[: slash.start()] for path in self.files for slash in re.finditer("/", path)}

    def below(self, path: str) -> list[tuple[str, str]]:
        """Path and oid of the file `path`, or of all files in the folder `path`."""
        return sorted((name, file.oid) for name, file in self.files.items() if f"{name}/".startswith(f"{path}/"))


@dataclass
class Repo:
    type: str
    id: str
    private: bool
    sdk: str | None = None
    hardware: str | None = None
    commits: dict[str, Commit] = field(default_factory=dict, repr=False)
    branches: dict[str, str] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)

    @property
    def namespace(self) -> str:
        return self.id.partition("/")[0]

    @property
    def name(self) -> str:
        return self.id.partition("/")[2]

    @property
    def web_path(self) -> str:
        return self.id if self.type == "model" else f"{self.type}s/{self.id}"

    @property
    def lfs_patterns(self) -> list[str]:
        return LFS_PATTERNS + (LFS_PICTURES if self.type == "dataset" else [])

    def is_lfs(self, path: str, size: int) -> bool:
        return size > LFS_SIZE or any(fnmatch(path.rpartition("/")[2], pattern) for pattern in self.lfs_patterns)

    def at(self, revision: str) -> Commit:
        """The commit of a branch, a tag, an id or the first 7 or more digits of one."""
        oid = self.branches.get(revision) or self.tags.get(revision)
        if not oid and re.fullmatch("[0-9a-f]{7,40}", revision):
            oid = next((oid for oid in self.commits if oid.startswith(revision)), None)
        if not oid:
            raise Refused(404, f"Invalid rev id: {revision}", "RevisionNotFound")
        return self.commits[oid]

    def history(self, commit: Commit) -> list[Commit]:
        """The commit and its ancestors, newest first."""
        return [commit] + (self.history(self.commits[commit.parent]) if commit.parent else [])

    def last_change(self, commit: Commit, path: str) -> Commit:
        content = commit.below(path)
        return list(takewhile(lambda each: each.below(path) == content, self.history(commit)))[-1]

    def commit(self, branch: str, files: dict[str, File], title: str, message: str = "") -> Commit:
        oid = secrets.token_hex(20)
        self.commits[oid] = Commit(oid, self.branches.get(branch), title, message, _now(), files)
        self.branches[branch] = oid
        return self.commits[oid]


@dataclass
class Token:
    user: str
    role: str  # read or write
    requests_left: int | None = None  # None: any number


@dataclass
class Fault:
    """What happens to some of the requests.

    Attributes:
        method: of the requests to strike, or `*`.
        path: a regular expression to find in their path.
        kind: `status`: answered with `status` (500 if None), nothing done. `lost`: done, then answered with `status`,
            or not at all if None. `cut`: the connection ends in the middle of the request's body, nothing done; of a
            request without one, in the middle of the answer's. `slow`: done after `seconds`.
        times: how many to strike; None for all.
        after: how many to let pass first.
    """

    method: str
    path: str
    kind: Literal["status", "lost", "cut", "slow"]
    status: int | None = None
    seconds: float = 1.0
    times: int | None = 1
    after: int = 0
    seen: int = 0

    def strikes(self, method: str, path: str) -> bool:
        if self.method not in ("*", method) or not re.search(self.path, path):
            return False
        self.seen += 1
        return self.after < self.seen and (self.times is None or self.seen <= self.after + self.times)


class Request(NamedTuple):
    method: str
    path: str
    status: int  # 0: the connection was cut instead of an answer


@dataclass
class Answer:
    status: int = 200
    body: object = b""  # bytes, or what JSON can hold
    headers: dict[str, str] = field(default_factory=dict)


class Refused(Exception):
    """An error to answer with. `code` is what clients choose their exception by."""

    def __init__(self, status: int, message: str, code: str | None = None, headers: dict | None = None, **more: str):
        headers = {"X-Error-Message": message} | ({"X-Error-Code": code} if code else {}) | (headers or {})
        self.answer = Answer(status, {"error": message, **more}, headers)


# --- what tests use


class HubServer:
    """The server; use it in a `with`.

    `user` is a member of `orgs`; `stranger_token` belongs to someone who is in none of them.

    Attributes:
        url: what HF_ENDPOINT must be.
        write_token, read_token, expired_token, stranger_token: for HF_TOKEN.
        repos: by (type, id), for example `("model", "bthub/x")`.
        collections: by slug, as the Hub's JSON has them.
        requests: every request so far, in the order of the answers.
        free_account: whether Spaces are refused that need a plan.
    """

    write_token, read_token, expired_token, stranger_token = "hf_write", "hf_read", "hf_expired", "hf_stranger"

    def __init__(self, user: str = "tester", orgs: tuple[str, ...] = ("bthub",)):
        self.namespaces = {user: {user, *orgs}, "stranger": {"stranger"}}
        self.tokens = {
            self.write_token: Token(user, "write"),
            self.read_token: Token(user, "read"),
            self.expired_token: Token(user, "write", requests_left=0),
            self.stranger_token: Token("stranger", "write"),
        }
        self.repos: dict[tuple[str, str], Repo] = {}
        self.collections: dict[str, dict] = {}
        self.uploads: dict[str, bytes] = {}  # by SHA-256: what the LFS protocol brought
        self.faults: list[Fault] = []
        self.free_account = False
        self.requests: list[Request] = []
        self.lock = threading.RLock()
        self.closing = threading.Event()

    def __enter__(self) -> "HubServer":
        self._server = _Server(("127.0.0.1", 0), _Handler)
        self._server.hub = self
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.closing.set()
        self._server.shutdown()
        self._server.server_close()

    def environment(self, cache: str | os.PathLike, token: str | None = None) -> dict[str, str]:
        """The whole environment of a process that is to use this Hub: this one's, without its own Hub settings.

        Args:
            cache: an empty folder, or that of an earlier process whose cache is to be found again.
            token: None for an anonymous process.
        """
        ours = ("HF_", "HUGGINGFACE_", "HUGGING_FACE_", "TRANSFORMERS_")
        settings = {"HF_ENDPOINT": self.url, "HF_HOME": str(cache), "HF_HUB_OFFLINE": "0"}
        settings |= {f"HF_HUB_DISABLE_{what}": "1" for what in ("XET", "TELEMETRY", "PROGRESS_BARS")}
        settings |= dict.fromkeys(("NO_PROXY", "no_proxy"), "127.0.0.1") | ({"HF_TOKEN": token} if token else {})
        return {name: value for name, value in os.environ.items() if not name.startswith(ours)} | settings

    def fault(
        self, method: str, path: str, kind: str, status: int | None = None, **options: int | float | None
    ) -> Fault:
        """Let requests fail: see `Fault`."""
        self.faults.append(Fault(method, path, kind, status, **options))
        return self.faults[-1]

    def expire(self, token: str, after: int = 0) -> None:
        """Let a token expire once `after` more requests have carried it."""
        self.tokens[token].requests_left = after

    def add(
        self, repo_type: str, repo_id: str, files: dict[str, bytes], private: bool = False, sdk: str | None = None
    ) -> Repo:
        """Commit files without a client; the repo is made if it isn't there (`sdk`: of a space)."""
        with self.lock:
            repo = self.repos.setdefault((repo_type, repo_id), Repo(repo_type, repo_id, private, sdk))
            if not repo.commits:
                attributes = "".join(
                    f"{pattern} filter=lfs diff=lfs merge=lfs -text\n" for pattern in repo.lfs_patterns
                )
                own = {".gitattributes": File.plain(attributes.encode())}
                if sdk:
                    own["README.md"] = File.plain(f"---\ntitle: {repo.name}\nsdk: {sdk}\n---\n".encode())
                repo.commit("main", own, "initial commit")
            make = {path: File.lfs if repo.is_lfs(path, len(data)) else File.plain for path, data in files.items()}
            new = {path: make[path](data) for path, data in files.items()}
            self.uploads |= {file.sha256: file.data for file in new.values() if file.sha256}
            if new:
                repo.commit("main", repo.at("main").files | new, "Add files")
            return repo

    def commits(self, repo_type: str, repo_id: str, revision: str = "main") -> list[Commit]:
        """Newest first; the last one is the Hub's own: `.gitattributes`, and the README.md of a space."""
        repo = self.repos[repo_type, repo_id]
        return repo.history(repo.at(revision))

    def files(self, repo_type: str, repo_id: str, revision: str = "main") -> dict[str, bytes]:
        """Path to content, with the Hub's own `.gitattributes`."""
        return {path: file.data for path, file in self.repos[repo_type, repo_id].at(revision).files.items()}

    def count(self, method: str, path: str) -> int:
        """How many requests were made with this method and this regular expression in their path, failed ones too."""
        return sum(request.method == method and bool(re.search(path, request.path)) for request in self.requests)


# --- one request


@dataclass
class Call:
    """A request as the functions below see it. `token` is None for anonymous ones."""

    hub: HubServer
    method: str
    path: str
    query: dict[str, list[str]]
    headers: Message
    body: bytes
    token: Token | None = None

    @cached_property
    def json(self) -> dict:
        return json.loads(self.body or b"{}")

    def asks(self, name: str) -> bool:
        return self.query.get(name) in (["true"], ["True"])

    def may_read(self, namespace: str) -> bool:
        return self.token is not None and namespace in self.hub.namespaces[self.token.user]

    def check_write(self, namespace: str | None, code: str | None = None) -> None:
        if self.token is None:
            raise Refused(401, "Invalid username or password.", code)
        if not self.may_read(namespace) or self.token.role != "write":
            raise Refused(403, f"This token doesn't have the right to write under the namespace {namespace!r}")

    def repo(self, types: str | None, repo_id: str, write: bool) -> Repo:
        """A repo that this caller may read, or write. `types` is as in URLs: None stands for models."""
        repo = self.hub.repos.get(((types or "models")[:-1], repo_id))
        if repo is None or (repo.private and not self.may_read(repo.namespace)):
            # A private repo must look like one that isn't there.
            raise Refused(404 if self.token else 401, "Repository not found", "RepoNotFound")
        if write:
            # The Hub sends no code with this 401; the client takes it for this one, but only of https addresses.
            self.check_write(repo.namespace, "RepoNotFound")
        return repo

    def answer(self) -> Answer:
        """Check the token, find the function and let it answer."""
        try:
            with self.hub.lock:
                if authorization := self.headers.get("Authorization"):
                    self.token = self.hub.tokens.get(authorization.removeprefix("Bearer "))
                    if self.token is None or self.token.requests_left == 0:
                        # Even where no token is needed, a bad one is refused.
                        raise Refused(401, "Invalid credentials in Authorization header")
                    if self.token.requests_left is not None:
                        self.token.requests_left -= 1
                for method, pattern, function in ROUTES:
                    if method == self.method.replace("HEAD", "GET") and (match := pattern.fullmatch(self.path)):
                        result = function(self, *(group and unquote(group) for group in match.groups()))
                        return result if isinstance(result, Answer) else Answer(body=result)
            raise Refused(404, f"this test server has no {self.method} {self.path}")
        except Refused as refused:
            return refused.answer


ROUTES: list[tuple[str, re.Pattern, Callable]] = []
REPO = r"([^/]+(?:/[^/]+)?)"
API = rf"/api/(models|datasets|spaces)/{REPO}"
WEB = rf"/(?:(datasets|spaces)/)?{REPO}"
PART = "/([^/]+)"
COLLECTION = r"/api/collections/([^/]+/[^/]+)"


def route(method: str, pattern: str) -> Callable:
    """Let a function answer requests: it gets the call and the pattern's groups, unquoted."""

    def keep(function: Callable) -> Callable:
        ROUTES.append((method, re.compile(pattern), function))
        return function

    return keep


def repo_route(method: str, pattern: str, base: str = API, write: bool = False) -> Callable:
    """The same for what belongs to a repo: the function gets the repo, after the caller's rights were checked."""

    def keep(function: Callable) -> Callable:
        @route(method, base + pattern)
        def checked(call: Call, types: str | None, repo_id: str, *groups: str | None) -> object:
            return function(call, call.repo(types, repo_id, write), *groups)

        return function

    return keep


# --- accounts and repos


@route("GET", "/api/whoami-v2")
def whoami(call: Call) -> dict:
    if call.token is None:
        raise Refused(401, "Invalid username or password.")
    user = call.token.user
    orgs = sorted(call.hub.namespaces[user] - {user})
    return {
        "type": "user",
        "name": user,
        "fullname": user,
        "orgs": [{"type": "org", "name": org, "fullname": org, "roleInOrg": "write"} for org in orgs],
        "auth": {"type": "access_token", "accessToken": {"displayName": "test", "role": call.token.role}},
    }


@route("POST", "/api/repos/create")
def create_repo(call: Call) -> dict:
    repo_type = call.json.get("type") or "model"
    namespace = call.json.get("organization") or (call.token and call.token.user)
    call.check_write(namespace)
    key = (repo_type, f"{namespace}/{call.json['name']}")
    if repo := call.hub.repos.get(key):
        raise Refused(409, f"You already created this {repo_type} repo", url=f"{call.hub.url}/{repo.web_path}")
    if repo_type == "space" and call.json.get("sdk") not in SDKS:
        raise Refused(400, f'"sdk" must be one of {SDKS}')
    hardware = call.json.get("hardware")
    if repo_type == "space" and call.hub.free_account and call.json["sdk"] != "static":
        there = [repo for repo in call.hub.repos.values() if repo.hardware == FREE_HARDWARE]
        if call.json["sdk"] != "gradio" or hardware != FREE_HARDWARE or len(there) >= FREE_SPACES:
            raise Refused(402, "Subscribe to PRO to create this Space")
    repo = call.hub.add(*key, {}, private=call.json.get("visibility") == "private", sdk=call.json.get("sdk"))
    repo.hardware = hardware
    return {"url": f"{call.hub.url}/{repo.web_path}", "name": repo.id}


@route("DELETE", "/api/repos/delete")
def delete_repo(call: Call) -> dict:
    namespace = call.json.get("organization") or (call.token and call.token.user)
    repo = call.repo(f"{call.json.get('type') or 'model'}s", f"{namespace}/{call.json['name']}", write=True)
    del call.hub.repos[repo.type, repo.id]
    return {}


@repo_route("PUT", "/settings", write=True)
def update_settings(call: Call, repo: Repo) -> dict:
    repo.private = call.json.get("visibility", "private" if repo.private else "public") == "private"
    return {"private": repo.private}


@repo_route("GET", f"(?:/revision{PART})?")
def repo_info(call: Call, repo: Repo, revision: str | None) -> dict:
    """What the Hub tells about a repo at a commit. The tags are the card's own and those that clients filter by."""
    commit = repo.at(revision or "main")
    readme = commit.files.get("README.md")
    card = (_metadata(readme.data.decode())[0] if readme else None) or {}
    tags = _listed(card.get("tags")) + [card[key] for key in ("library_name", "pipeline_tag") if card.get(key)]
    for key, prefix in {"license": "license", "datasets": "dataset", "base_model": "base_model"}.items():
        tags += [f"{prefix}:{value}" for value in _listed(card.get(key))]
    siblings = [{"rfilename": path} for path in sorted(commit.files)]
    if call.asks("blobs"):
        for sibling in siblings:
            file = commit.files[sibling["rfilename"]]
            sibling |= {"blobId": file.oid, "size": len(file.data)}
            sibling |= {"lfs": _lfs(file) | {"sha256": file.sha256}} if file.sha256 else {}
    info = {"id": repo.id, "author": repo.namespace, "sha": commit.oid, "private": repo.private, "gated": False}
    info |= {"lastModified": commit.date, "createdAt": repo.history(commit)[-1].date, "downloads": 0, "likes": 0}
    info |= {"cardData": card, "tags": tags, "siblings": siblings, "sdk": card.get("sdk", repo.sdk)}
    info |= {key: card.get(key) for key in ("library_name", "pipeline_tag")}
    wanted = call.query.get("expand", info)
    return {key: value for key, value in info.items() if key == "id" or key in wanted}


@route("GET", "/api/(models|datasets|spaces)")
def list_repos(call: Call, types: str) -> list[dict]:
    readable = [repo for repo in call.hub.repos.values() if not repo.private or call.may_read(repo.namespace)]
    readable = [repo for repo in readable if repo.type == types[:-1]]
    readable.sort(key=lambda repo: repo.at("main").date, reverse=True)
    author, texts = call.query.get("author"), call.query.get("search", [])
    tags = set(call.query.get("filter", []) + call.query.get("pipeline_tag", []))
    found = [
        repo_info(call, repo, None)
        for repo in readable
        if (not author or author == [repo.namespace])
        and all(text.lower() in repo.id.lower() for text in texts)
        and tags <= set(repo_info(replace(call, query={}), repo, None)["tags"])
    ]
    return found[: int(call.query.get("limit", [len(found)])[0])]


# --- reading files


@repo_route("GET", f"/tree{PART}(?:/(.+))?")
def list_tree(call: Call, repo: Repo, revision: str, path: str | None) -> list[dict]:
    commit = repo.at(revision)
    prefix = f"{path}/" if path else ""
    inside = {name for name in {*commit.files, *commit.folders} if name.startswith(prefix)}
    if path and not inside:
        raise Refused(404, f"{path} does not exist on {revision!r}", "EntryNotFound")
    if not call.asks("recursive"):
        inside = {name for name in inside if "/" not in name[len(prefix) :]}
    return [_entry(repo, commit, name, call.asks("expand")) for name in sorted(inside)]


@repo_route("POST", f"/paths-info{PART}")
def paths_info(call: Call, repo: Repo, revision: str) -> list[dict]:
    commit, form = repo.at(revision), parse_qs(call.body.decode())
    paths = [path for path in form.get("paths", []) if path in {*commit.files, *commit.folders}]
    return [_entry(repo, commit, path, form.get("expand") == ["true"]) for path in paths]


def _entry(repo: Repo, commit: Commit, path: str, expand: bool) -> dict:
    if file := commit.files.get(path):
        entry = {"type": "file", "path": path, "oid": file.oid, "size": len(file.data)}
        entry |= {"lfs": _lfs(file) | {"oid": file.sha256}} if file.sha256 else {}
    else:
        tree = hashlib.sha1(repr(commit.below(path)).encode()).hexdigest()
        entry = {"type": "directory", "path": path, "oid": tree, "size": 0}
    if expand:
        last = repo.last_change(commit, path)
        entry["lastCommit"] = {"id": last.oid, "title": last.title, "date": last.date}
    return entry


@repo_route("GET", f"/resolve{PART}/(.+)", base=WEB)
def resolve(call: Call, repo: Repo, revision: str, path: str) -> Answer:
    """A file or the wanted range of it. The Hub sends clients on to other hosts for most; this server doesn't."""
    commit = repo.at(revision)
    headers = {"X-Repo-Commit": commit.oid, "Accept-Ranges": "bytes", "Content-Type": "application/octet-stream"}
    if path not in commit.files:
        raise Refused(404, "Entry not found", "EntryNotFound", {"X-Repo-Commit": commit.oid})
    file = commit.files[path]
    size = len(file.data)
    headers["ETag"] = f'"{file.content_id}"'
    if file.sha256:
        headers |= {"X-Linked-Etag": headers["ETag"], "X-Linked-Size": str(size)}
    part = re.fullmatch(r"bytes=(\d*)-(\d*)", call.headers.get("Range", ""))
    if not part:
        return Answer(200, file.data, headers)
    first, last = part.groups()
    start = int(first) if first else max(size - int(last), 0)
    end = min(int(last) + 1, size) if first and last else size
    if start >= end:
        return Answer(416, b"", headers | {"Content-Range": f"bytes */{size}"})
    return Answer(206, file.data[start:end], headers | {"Content-Range": f"bytes {start}-{end - 1}/{size}"})


# --- history


@repo_route("GET", "/refs")
def list_refs(call: Call, repo: Repo) -> dict:
    refs = {"branches": ("heads", repo.branches), "tags": ("tags", repo.tags)}
    return {"converts": [], "pullRequests": []} | {
        kind: [{"name": name, "ref": f"refs/{ref}/{name}", "targetCommit": oid} for name, oid in found.items()]
        for kind, (ref, found) in refs.items()
    }


@repo_route("GET", f"/commits{PART}")
def list_commits(call: Call, repo: Repo, revision: str) -> list[dict]:
    return [
        {"id": each.oid, "title": each.title, "message": each.message, "date": each.date, "authors": []}
        for each in repo.history(repo.at(revision))
    ]


@repo_route("POST", f"/branch{PART}", write=True)
def create_branch(call: Call, repo: Repo, branch: str) -> dict:
    if branch in repo.branches:
        raise Refused(409, f"Reference refs/heads/{branch} already exists")
    repo.branches[branch] = repo.at(call.json.get("startingPoint", "main")).oid
    return {"success": True}


@repo_route("POST", f"/tag{PART}", write=True)
def create_tag(call: Call, repo: Repo, revision: str) -> dict:
    if call.json["tag"] in repo.tags:
        raise Refused(409, f"Tag {call.json['tag']} already exists")
    repo.tags[call.json["tag"]] = repo.at(revision).oid
    return {"success": True}


# --- writing files


@route("POST", "/api/validate-yaml")
def validate_yaml(call: Call) -> Answer:
    card, problem = _metadata(call.json["content"])
    errors = [problem] if problem else _card_errors(card or {}, call.json["repoType"])
    warnings = [] if card or errors else ["empty or missing yaml metadata in repo card"]
    body = {"errors": [{"message": each} for each in errors], "warnings": [{"message": each} for each in warnings]}
    return Answer(400 if errors else 200, body)


def _metadata(readme: str) -> tuple[dict | None, str | None]:
    """The YAML that a card begins with, and what is wrong with it."""
    block = re.match(r"\s*---[ \t]*\r?\n(.*?)^---[ \t]*\r?$", readme, re.DOTALL | re.MULTILINE)
    try:
        card = yaml.safe_load(block[1]) if block else None
    except yaml.YAMLError as error:
        return None, f"YAML Metadata Error: {' '.join(str(error).split())}"
    if not isinstance(card, dict | None):
        return None, "YAML Metadata Error: the metadata must be a mapping"
    return card, None


def _card_errors(card: dict, repo_type: str) -> list[str]:
    """Those mistakes that a card of this project could make, of all that the Hub refuses."""
    errors = [f'"license" must be one of {LICENSES}' for each in _listed(card.get("license")) if each not in LICENSES]
    results = [result for model in _listed(card.get("model-index")) for result in model["results"]]
    for result in results if repo_type == "model" else []:
        parts = [("task", "type", result), ("dataset", "type", result), ("dataset", "name", result)]
        wrong = [f"{part}.{key}" for part, key, of in parts if key not in of.get(part, {})]
        wrong += [f"metrics.{key}" for metric in result["metrics"] for key in ("type", "value") if key not in metric]
        errors += [f'"model-index[].results[].{each}" is required' for each in wrong]
    if repo_type == "space":
        choices = {"sdk": SDKS, "colorFrom": COLORS, "colorTo": COLORS}
        errors += [f'"{key}" must be one of {of}' for key, of in choices.items() if card.get(key, of[0]) not in of]
        if len(card.get("short_description") or "") > 60:
            errors.append('"short_description" length must be less than or equal to 60 characters long')
    return errors


@repo_route("POST", f"/preupload{PART}", write=True)
def preupload(call: Call, repo: Repo, revision: str) -> dict:
    there = repo.at(revision).files
    rules = call.json.get("gitIgnore") or (there[".gitignore"].data.decode() if ".gitignore" in there else "")
    ignored = [line.strip("/") for line in rules.splitlines() if line and not line.startswith("#")]

    def instruction(path: str, size: int) -> dict:
        return {
            "path": path,
            "uploadMode": "lfs" if repo.is_lfs(path, size) else "regular",
            "shouldIgnore": any(fnmatch(part, rule) for rule in ignored for part in (path, *path.split("/"))),
            # By this the client sees that a file hasn't changed, and leaves it out of its commit.
            "oid": there[path].content_id if path in there else None,
        }

    return {"files": [instruction(file["path"], file["size"]) for file in call.json["files"]]}


@repo_route("POST", r"\.git/info/lfs/objects/batch", base=WEB, write=True)
def lfs_batch(call: Call, repo: Repo) -> dict:
    objects = []
    for each in call.json["objects"]:
        upload = {"href": f"{call.hub.url}/lfs/{each['oid']}"}
        verify = {"href": f"{call.hub.url}/{repo.web_path}.git/info/lfs/objects/verify"}
        here = each["oid"] in call.hub.uploads
        objects.append(each | ({} if here else {"actions": {"upload": upload, "verify": verify}}))
    return {"transfer": "basic", "objects": objects}


@route("PUT", "/lfs/([0-9a-f]{64})")
def lfs_upload(call: Call, oid: str) -> dict:
    # The address stands for a signed one of another host: no token comes with it.
    if hashlib.sha256(call.body).hexdigest() != oid:
        raise Refused(400, "The content doesn't have the announced SHA-256")
    call.hub.uploads[oid] = call.body
    return {}


@repo_route("POST", r"\.git/info/lfs/objects/verify", base=WEB, write=True)
def lfs_verify(call: Call, repo: Repo) -> dict:
    if len(call.hub.uploads.get(call.json["oid"], b"")) != call.json["size"]:
        raise Refused(404, "The object wasn't uploaded, or not all of it")
    return {}


@repo_route("POST", f"/commit{PART}", write=True)
def commit(call: Call, repo: Repo, revision: str) -> dict:
    if "create_pr" in call.query:
        raise Refused(501, "this test server has no pull requests")
    if revision not in repo.branches:
        raise Refused(404, f"Invalid rev id: {revision}", "RevisionNotFound")
    (_, header), *operations = (json.loads(line).values() for line in call.body.splitlines())
    if header.get("parentCommit") not in (None, repo.branches[revision]):
        raise Refused(412, "A commit has happened since. Please refresh and try again.")
    files = dict(repo.at(revision).files)  # a copy: if any operation is refused, none was done
    for operation, value in operations:
        path = value["path"]
        if operation == "file":
            files[path] = File.plain(base64.b64decode(value["content"]))
        elif operation == "lfsFile":
            if value["oid"] not in call.hub.uploads:
                raise Refused(400, f"LFS pointer of {path} points to a file that does not exist")
            files[path] = File.lfs(call.hub.uploads[value["oid"]])
        elif operation in ("deletedFile", "deletedFolder"):
            folder = operation == "deletedFolder" and f"{path.rstrip('/')}/"
            gone = [name for name in files if (name.startswith(folder) if folder else name == path)]
            if not gone:
                raise Refused(404, f"A file with this name doesn't exist: {path}", "EntryNotFound")
            files = {name: file for name, file in files.items() if name not in gone}
        else:
            raise Refused(400, f"this test server has no commit operation {operation}")
    new = repo.commit(revision, files, header["summary"], header["description"])
    return {"commitOid": new.oid, "commitUrl": f"{call.hub.url}/{repo.web_path}/commit/{new.oid}"}


# --- collections


@route("GET", "/api/collections")
def list_collections(call: Call) -> list[dict]:
    owners = call.query.get("owner")
    return [
        {key: value for key, value in collection.items() if key != "position"} | {"items": collection["items"][:4]}
        for collection in call.hub.collections.values()
        if not collection["private"] or call.may_read(collection["owner"]["name"])
        if not owners or collection["owner"]["name"] in owners
    ]


@route("POST", "/api/collections")
def create_collection(call: Call) -> dict:
    title, namespace, description = call.json["title"], call.json["namespace"], call.json.get("description")
    call.check_write(namespace)
    for slug, other in call.hub.collections.items():
        if (other["title"], other["owner"]["name"]) == (title, namespace):
            raise Refused(409, "A collection with this title already exists", slug=slug)
    _check_length("description", description, 150)
    name = re.sub(r"[^a-z0-9]+", "-", title.lower()).strip("-")
    slug = f"{namespace}/{name}-{secrets.token_hex(12)}"
    new = {"slug": slug, "title": title, "description": description, "owner": {"name": namespace}, "items": []}
    new |= {"private": call.json["private"], "position": 0, "theme": "blue", "upvotes": 0, "lastUpdated": _now()}
    call.hub.collections[slug] = new
    return new


@route("GET", COLLECTION)
def get_collection(call: Call, slug: str, write: bool = False) -> dict:
    collection = call.hub.collections.get(slug)
    if collection is None or (collection["private"] and not call.may_read(collection["owner"]["name"])):
        raise Refused(404, "Collection not found")
    if write:
        call.check_write(collection["owner"]["name"])
        collection["lastUpdated"] = _now()
    return collection


@route("PATCH", COLLECTION)
def update_collection(call: Call, slug: str) -> dict:
    _check_length("description", call.json.get("description"), 150)
    collection = get_collection(call, slug, write=True)
    collection.update(call.json)
    return {"success": True, "data": collection}


@route("DELETE", COLLECTION)
def delete_collection(call: Call, slug: str) -> dict:
    get_collection(call, slug, write=True)
    del call.hub.collections[slug]
    return {"success": True}


@route("POST", f"{COLLECTION}/items")
def add_item(call: Call, slug: str) -> dict:
    collection, item = get_collection(call, slug, write=True), call.json["item"]
    if item["type"] in ("model", "dataset", "space"):
        call.repo(f"{item['type']}s", item["id"], write=False)
    if any((each["type"], each["id"]) == (item["type"], item["id"]) for each in collection["items"]):
        raise Refused(409, "The item is already in the collection")
    _place_item(collection, item | {"_id": secrets.token_hex(12)}, len(collection["items"]), call.json.get("note"))
    return collection


@route("PATCH", f"{COLLECTION}/items{PART}")
def update_item(call: Call, slug: str, item_id: str) -> dict:
    collection = get_collection(call, slug, write=True)
    item = _take_item(collection, item_id)
    _place_item(collection, item, call.json.get("position", item["position"]), call.json.get("note"))
    return {"success": True}


@route("DELETE", f"{COLLECTION}/items{PART}")
def delete_item(call: Call, slug: str, item_id: str) -> dict:
    _take_item(get_collection(call, slug, write=True), item_id)
    return {"success": True}


def _take_item(collection: dict, item_id: str) -> dict:
    for index, item in enumerate(collection["items"]):
        if item["_id"] == item_id:
            return collection["items"].pop(index)
    raise Refused(404, "Item not found")


def _place_item(collection: dict, item: dict, position: int, note: str | None) -> None:
    _check_length("note", note, 500)
    item |= {"note": {"text": note, "html": note}} if note is not None else {}
    collection["items"].insert(position, item)
    for index, each in enumerate(collection["items"]):
        each["position"] = index


def _check_length(name: str, text: str | None, limit: int) -> None:
    if len(text or "") > limit:
        raise Refused(400, f'"{name}" length must be less than or equal to {limit} characters long')


# --- HTTP


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 64  # snapshot_download opens many connections at once
    hub: HubServer

    def handle_error(self, request: socket.socket, address: tuple) -> None:
        """A client that hangs up (or was killed by a test) is no error of the server."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, address)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # headers and body are two writes; together with delayed ACKs that costs 40 ms

    def log_message(self, *_: object) -> None:
        pass

    def _serve(self) -> None:
        hub, url = self.server.hub, urlsplit(self.path)
        with hub.lock:
            fault = next((fault for fault in hub.faults if fault.strikes(self.command, url.path)), None)
        kind = fault and fault.kind
        length, chunked = int(self.headers.get("Content-Length", 0)), "Transfer-Encoding" in self.headers
        if kind == "slow":
            hub.closing.wait(fault.seconds)
        if kind == "cut" and (length or chunked):
            self.rfile.read(length // 2)
            return self._send(url.path, None)
        body = b"".join(self._chunks()) if chunked else self.rfile.read(length)
        answer = None
        if kind != "status":
            answer = Call(hub, self.command, url.path, parse_qs(url.query), self.headers, body).answer()
        if kind == "status" or (kind == "lost" and fault.status):
            answer = Refused(fault.status or 500, "Injected fault").answer
        elif kind == "lost":
            answer = None
        self._send(url.path, answer, cut=kind == "cut")

    do_GET = do_HEAD = do_POST = do_PUT = do_PATCH = do_DELETE = _serve

    def _chunks(self) -> Iterator[bytes]:
        while size := int(self.rfile.readline().split(b";")[0], 16):
            yield self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()

    def _send(self, path: str, answer: Answer | None, cut: bool = False) -> None:
        """Send an answer, the first half of one (`cut`) or none, then hang up unless it was whole."""
        self.close_connection = cut or answer is None or self.close_connection
        # Before it is sent: a test that has its answer must find the request.
        self.server.hub.requests.append(Request(self.command, path, 0 if cut or answer is None else answer.status))
        if answer is None:
            return
        body, headers = answer.body, answer.headers
        if not isinstance(body, bytes):
            body = json.dumps(body, default=str).encode()  # default: a card may hold dates
            headers = {"Content-Type": "application/json"} | headers
        self.send_response(answer.status)
        for name, value in (headers | {"Content-Length": str(len(body))}).items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body[: len(body) // 2] if cut else body)


# --- small things


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _lfs(file: File) -> dict:
    return {"size": len(file.data), "pointerSize": 134}  # nobody looks at the latter


def _listed(value: object) -> list:
    return list(value) if isinstance(value, list) else [] if value is None else [value]
