"""`bthub publish`: runs, data set, two-stage repo, apps and their collection, to the Hugging Face Hub.

A publication lists every file that its repo is to have; what isn't on the list is never uploaded, and what the repo
has beyond the list is removed. Only what differs is sent, in one commit on top of the one that was compared with. So a
second run without a change makes no commit, and after an interruption the command is simply run again. A repo that
someone filled in another way is left as it is.
"""

import hashlib
import importlib.util
import shutil
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import yaml
from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi, RepoCard, SpaceHardware
from huggingface_hub.errors import (
    HfHubHTTPError,
    HFValidationError,
    HTTPError,
    LocalTokenNotFoundError,
    RepositoryNotFoundError,
)
from huggingface_hub.hf_api import RepoFile
from huggingface_hub.utils import validate_repo_id

from bthub.data.facts import FACTS, encoded
from bthub.data.network import check_hub, hub_trouble
from bthub.errors import BthubError
from bthub.evaluation import plots
from bthub.inference import hub_repo
from bthub.project import DATASET, DEFAULTS, ORG, ORG_FILE, SHIPPED_RUNS, TWO_STAGE, hub_id, shipped_runs
from bthub.reports import model_card
from bthub.runs.folder import (
    CALIBRATION,
    CARD,
    CONFIG,
    COST,
    FIGURES,
    GRADCAM,
    HISTORY,
    INPUT_CHECK,
    INPUT_CHECK_WEIGHTS,
    LR_FINDER,
    METRICS,
    ONNX_INPUT_CHECK,
    ONNX_METRICS,
    ONNX_MODEL,
    ONNX_QUANTIZED,
    ONNX_RECORD,
    PREDICTIONS,
    PREPROCESSOR,
    SOURCES,
    SPLIT,
    TRAINING,
    WEIGHTS,
    RunFolder,
    in_comparison,
)
from bthub.runs.records import data_facts
from bthub.training.config import EXPERIMENTS

# What tells how good a run is, without its weights.
RECORD_FILES = (CONFIG, CALIBRATION, TRAINING, SPLIT, HISTORY, LR_FINDER, METRICS, GRADCAM, COST, SOURCES)
RECORD_FILES += (f"{PREDICTIONS}/*.csv",)
RUN_FILES = (*RECORD_FILES, WEIGHTS, PREPROCESSOR, INPUT_CHECK, INPUT_CHECK_WEIGHTS)
RUN_FILES += (ONNX_MODEL, ONNX_QUANTIZED, ONNX_INPUT_CHECK, ONNX_RECORD, ONNX_METRICS)
RUN_FILES += (f"{FIGURES}/*.webp", "*.py")  # the .py files are its remote code
DATASET_FILES = (CARD, "data/**/*.parquet")
PACKAGE_FILES = ("**/*.py", "**/*.csv", "**/*.md", "**/*.j2", "**/*.yaml")
APP_FILES = ("*.py", "*.css", "*.js", "*.svg", "requirements.txt", "Dockerfile", ".streamlit/config.toml", "views/*.py")
APP_FILES += ("examples/*.png", "examples/*/*.png", "examples/README.md")
APP_FILES += ("slices/*.png", "slices/*.csv", "slices/README.md")
APP_FILES += ("slices/all/*.webp", "prepared/index.json", "prepared/*/*.webp")
APPS = {"space": ("brain-tumor-mri", "gradio"), "dashboard": ("brain-tumor-dashboard", "docker")}
BROWSER = "brain-tumor-in-your-browser"
"""The static Space, which computes on the visitor's machine; see `space/browser/build.py`."""
DOCS = "bthub-docs"
"""The static Space of the documentation; see `mkdocs.yml`."""
COLLECTION = "bthub: brain tumors on MRI slices"
COMMIT_MESSAGE = "Publish with bthub"
# What the Hub itself puts into a new repo.
KEPT = {".gitattributes"}

PARTS = ("dataset", "two-stage", *APPS, "browser", "docs", "collection")
NEEDS = {
    None: "nothing, public ones are free",
    "static": "nothing, static Spaces are free",
    "gradio": "a paid plan for a processor, or one of a free account's two Gradio Spaces on ZeroGPU",
    "docker": "a paid plan, as all Docker Spaces",
}
"""What a repo of this SDK (None: not a Space) costs to make."""
ATTEMPTS = 3
WAIT_SECONDS = 2.0
PAYMENT_REQUIRED = 402
_REPOSITORY = SHIPPED_RUNS.parent


class RefusedError(BthubError):
    """One repo can't be published; the others can."""


@dataclass(frozen=True)
class Publication:
    """What a repo is to hold.

    Attributes:
        kind: "model", "dataset" or "space".
        repo_id: `org/name`.
        files: path in the repo -> file here, or its content.
        sdk: of a Space.
    """

    kind: str
    repo_id: str
    files: dict[str, Path | bytes]
    sdk: str | None = None


def publish(
    what: list[str],
    org: str = ORG,
    *,
    private: bool = False,
    dry_run: bool = False,
    data: str | Path = "data/lgg",
    say: Callable[[str], None] = print,
) -> None:
    """Bring repos on the Hub to the state that is here.

    Args:
        what: run folders, or names of PARTS, or "all": the runs of the clone and every part.
        org: organization or user that the repos belong to.
        private: make repos that are new private; one that is public already is an error.
        dry_run: write nothing, say what would change.
        data: the LGG data set as `bthub data build` wrote it.
        say: is given one line a repo.

    Raises:
        BthubError: something named isn't there or isn't complete; no token, or one that may not write; the Hub
            can't be reached or refuses. Each repo is then as it was before, or published whole. Where one repo alone
            is refused, for want of a plan or because someone else made it, the others are published first.
    """
    check_hub()
    runs, parts = _what(what)
    # Everything is checked and rendered before anything is written.
    publications = [run_publication(run, org) for run in runs]
    if "dataset" in parts:
        publications.insert(0, dataset_publication(data, org))
    publications += [app_publication(name, org) for name in APPS if name in parts]
    if "browser" in parts:
        publications.append(browser_publication(org))
    if "docs" in parts:
        publications.append(docs_publication(org))
    api = HfApi()
    _attempt(partial(_check_token, api, org), org)
    for publication in publications:
        if _attempt(partial(_head, api, publication.repo_id, publication.kind), org) is None:
            say(f"{publication.kind} {publication.repo_id}: new, needs {NEEDS[publication.sdk]}")
    if "all" in what and "browser" not in parts:
        say(f"space {hub_id(BROWSER, org)}: left out, it is built with npm (Node.js) and the pair's ONNX files")
    refused: dict[str, BthubError] = {}
    for publication in publications:
        try:
            _attempt(partial(_sync, api, publication, private, dry_run, say), org)
        except RefusedError as error:
            say(f"{publication.kind} {publication.repo_id}: refused; going on with the rest")
            refused[publication.repo_id] = error
    if "two-stage" in parts and (
        lacking := [hub_id(name, org) for name in DEFAULTS.values() if hub_id(name, org) in refused]
    ):
        say(f"model {hub_id(TWO_STAGE, org)}: left out, without {', '.join(lacking)}")
    elif "two-stage" in parts:
        # It names the commits of its stages, so it comes after them.
        pair = {stage: hub_id(name, org) for stage, name in DEFAULTS.items()}
        commits = {stage: _attempt(partial(_head, api, repo_id), org) for stage, repo_id in pair.items()}
        for stage, commit in commits.items():
            if commit is None:
                if not dry_run:
                    raise BthubError(f"{pair[stage]} isn't on the Hub: publish runs/{DEFAULTS[stage]} first")
                say(f"model {hub_id(TWO_STAGE, org)}: would name the commit that {pair[stage]} then has")
            elif not dry_run:
                _attempt(partial(_check_stage, api, pair[stage], SHIPPED_RUNS / DEFAULTS[stage], commit), org)
        if None not in commits.values():
            two_stage = two_stage_publication(org, commits)
            _attempt(partial(_sync, api, two_stage, private, dry_run, say), org)
    if "collection" in parts:
        _attempt(partial(_collect, api, org, private, dry_run, say), org)
    if len(refused) == 1 and len(publications) == 1:
        raise next(iter(refused.values()))
    if refused:
        raise BthubError(
            "everything was published except " + "; ".join(f"{name}: {error}" for name, error in refused.items())
        )


def _what(what: list[str]) -> tuple[list[Path], set[str]]:
    """Run folders and parts that are named."""
    runs, parts = [], set()
    for name in what:
        if name == "all":
            own = [run for run in measured_rows() if (run / WEIGHTS).is_file()]
            if not own:
                raise BthubError(f"{SHIPPED_RUNS} holds no evaluated run with weights: there is nothing to publish")
            runs += own
            parts |= set(PARTS)
            parts -= {part for part, ready in (("browser", browser_ready), ("docs", docs_ready)) if not ready()}
        elif name in PARTS:
            parts.add(name)
        elif name and (run := Path(in_comparison(name))).is_dir():
            runs.append(run)
        else:
            raise BthubError(f"{name or 'an empty name'} is neither a run folder nor one of {', '.join(PARTS)}, all")
    return list(dict.fromkeys(runs)), parts


def measured_rows() -> list[Path]:
    """The runs of the comparison that have been measured here.

    A run under any other name may be a user's own, on data of theirs: it goes nowhere unless it is named.
    """
    names = sorted(yaml.safe_load(EXPERIMENTS.read_text(encoding="utf-8")))
    return [run for run in shipped_runs() if run.name in names and (run / METRICS).is_file()]


# What goes where


def run_publication(run: Path, org: str) -> Publication:
    """A run folder as its repo; the card is rendered anew for the organization."""
    folder = RunFolder.open(run)
    try:
        validate_repo_id(hub_id(folder.id, org))
    except HFValidationError as error:
        raise BthubError(f"{folder.path}: the Hub doesn't accept this name; rename the folder: {error}") from error
    if (folder.path / METRICS).is_file() and not plots.drawn(folder):
        plots.draw(folder)
    files: dict[str, Path | bytes] = _of_run(folder, RUN_FILES)
    for name in (CONFIG, WEIGHTS, CALIBRATION, TRAINING, SPLIT, HISTORY, METRICS):
        if name not in files:
            raise BthubError(f"{folder.path} has no {name}: finish its training and run bthub evaluate, then publish")
    if ONNX_QUANTIZED in files and not folder.quantized_ships():
        # It loses too much, or what it loses wasn't measured.
        del files[ONNX_QUANTIZED]
    if not data_facts(folder).patients:
        # The terms of image-folder sets aren't known: none of their images leaves this machine.
        files = {path: file for path, file in files.items() if not path.endswith("-gallery.webp")}
    files[CARD] = model_card.render(folder.path, org).encode()
    return Publication("model", hub_id(folder.id, org), files)


def dataset_publication(data: str | Path, org: str) -> Publication:
    """The built LGG data set as its repo."""
    from bthub.data.dataset import facts_of

    if not Path(data).is_dir():
        raise BthubError(f"{data} isn't there: write it with `bthub data build`, or name the data set with --data")
    facts = facts_of(data)
    if not facts.shown:
        raise BthubError(f"{data} isn't LGG MRI Segmentation, the only set whose license lets bthub publish it")
    files: dict[str, Path | bytes] = _listed(Path(data), DATASET_FILES)
    repo_id = hub_id(DATASET, org)
    files[CARD] = (Path(data) / CARD).read_text(encoding="utf-8").replace("PATH_OR_HUB_ID", repo_id).encode()
    files[FACTS] = encoded(facts)
    return Publication("dataset", repo_id, files)


def app_publication(app: str, org: str) -> Publication:
    """The Space or the dashboard as its repo, with the package beside it: it runs the code it was published with.

    The dashboard takes along the records of the comparison's other runs, because its card names only models with
    weights.
    """
    name, sdk = APPS[app]
    folder = _REPOSITORY / app
    if not (folder / CARD).is_file():
        raise BthubError(f"{folder} isn't there: apps are published from a clone of the repository")
    files: dict[str, Path | bytes] = _listed(folder, APP_FILES)
    package = ORG_FILE.parent
    files |= {f"{package.name}/{path}": file for path, file in _listed(package, PACKAGE_FILES).items()}
    files[f"{package.name}/{ORG_FILE.name}"] = f"{org}\n".encode()
    files[CARD] = _app_card(folder / CARD, org)
    if app == "dashboard":
        readme = RepoCard.load(folder / CARD, ignore_metadata_errors=False)
        named = {model.rpartition("/")[2] for model in readme.data.models}
        for run in (run for run in measured_rows() if run.name not in named):
            records = _of_run(RunFolder.open(run, weights=False), RECORD_FILES)
            files |= {f"{SHIPPED_RUNS.name}/{run.name}/{path}": file for path, file in records.items()}
    return Publication("space", hub_id(name, org), files, sdk)


def browser_ready() -> bool:
    """Whether the static Space can be put together: the default pair has ONNX files, and npm is there."""
    runs = [SHIPPED_RUNS / name for name in DEFAULTS.values()]
    if not all((run / ONNX_RECORD).is_file() for run in runs) or shutil.which("npm") is None:
        return False
    opened = [RunFolder.open(run, weights=False, onnx=True) for run in runs]
    return all((run.path / (ONNX_QUANTIZED if run.quantized_ships() else ONNX_MODEL)).is_file() for run in opened)


def browser_publication(org: str) -> Publication:
    """The static Space as its repo: the page with the default pair's networks, built from the clone."""
    script = _REPOSITORY / "space" / "browser" / "build.py"
    if not script.is_file():
        raise BthubError(f"{script} isn't there: the page is published from a clone of the repository")
    spec = importlib.util.spec_from_file_location("bthub_browser_build", script)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    pair = [str(SHIPPED_RUNS / name) for name in DEFAULTS.values()]
    app = f"https://huggingface.co/spaces/{hub_id(APPS['space'][0], org)}"
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "page"
        module.build(out, *pair, app)
        files: dict[str, Path | bytes] = {
            path.relative_to(out).as_posix(): path.read_bytes() for path in out.rglob("*") if path.is_file()
        }
    return Publication("space", hub_id(BROWSER, org), files | {CARD: _app_card(script.with_name(CARD), org)}, "static")


def docs_ready() -> bool:
    """Whether the documentation can be built: this is a clone, and `bthub[docs]` is installed."""
    packages = ("mkdocs", "material", "mkdocstrings")
    return (_REPOSITORY / "mkdocs.yml").is_file() and all(importlib.util.find_spec(name) for name in packages)


def docs_publication(org: str) -> Publication:
    """The documentation as its repo: the pages that `make docs` builds, as a static Space.

    Raises:
        BthubError: this isn't a clone, the extra is missing, or a page has a broken link.
    """
    if not docs_ready():
        raise BthubError('the documentation is built in a clone of the repository with pip install "bthub[docs]"')
    with tempfile.TemporaryDirectory() as folder:
        build_docs(Path(folder))
        # The list of pages for search engines has the date of the build, which would make each one differ.
        files: dict[str, Path | bytes] = {
            path.relative_to(folder).as_posix(): path.read_bytes()
            for path in Path(folder).rglob("*")
            if path.is_file() and not path.name.startswith("sitemap.")
        }
    card = Path(__file__).parent / "templates" / "docs_space.md"
    return Publication("space", hub_id(DOCS, org), files | {CARD: _app_card(card, org)}, "static")


def build_docs(out: Path) -> None:
    """Write the pages of `docs/` and the API to a folder."""
    from mkdocs.commands.build import build
    from mkdocs.config import load_config
    from mkdocs.exceptions import MkDocsException

    try:
        build(load_config(str(_REPOSITORY / "mkdocs.yml"), site_dir=str(out), strict=True))
    except MkDocsException as error:
        raise BthubError(f"the documentation can't be built: {error}; make docs shows more") from error


def _app_card(path: Path, org: str) -> bytes:
    """An app's card, which names the repos of the organization."""
    readme = RepoCard.load(path, ignore_metadata_errors=False)
    if path.parent.name != "dashboard":  # which compares more than the pair
        readme.data["models"] = list(DEFAULTS.values())
    for key in ("models", "datasets"):
        if named := readme.data.get(key):
            readme.data[key] = [hub_id(repo.rpartition("/")[2], org) for repo in named]
    return str(readme).encode()


def two_stage_publication(org: str, commits: dict[str, str]) -> Publication:
    """The repo that names detector and localizer at these commits.

    Args:
        commits: of `detector` and `localizer`.
    """
    stages = {stage: {"id": hub_id(name, org), "revision": commits[stage]} for stage, name in DEFAULTS.items()}
    with tempfile.TemporaryDirectory() as folder:
        hub_repo.write_repo(Path(folder), **stages)
        files: dict[str, Path | bytes] = {path.name: path.read_bytes() for path in Path(folder).iterdir()}
    runs = {stage: RunFolder.open(SHIPPED_RUNS / name) for stage, name in DEFAULTS.items()}
    files[CARD] = model_card.render_two_stage(runs["detector"], runs["localizer"], commits, org).encode()
    return Publication("model", hub_id(TWO_STAGE, org), files)


def _of_run(folder: RunFolder, patterns: tuple[str, ...]) -> dict[str, Path | bytes]:
    """The files of a run; its `split.csv` also where it shares that with other runs."""
    shared = {SPLIT: folder.split_file} if folder.split_file.is_file() else {}
    return shared | _listed(folder.path, patterns)


def _listed(folder: Path, patterns: tuple[str, ...]) -> dict[str, Path]:
    found = {path for pattern in patterns for path in folder.glob(pattern) if path.is_file()}
    return {path.relative_to(folder).as_posix(): path for path in sorted(found)}


# Bringing a repo to that state


def _sync(api: HfApi, wanted: Publication, private: bool, dry_run: bool, say: Callable[[str], None]) -> None:
    """Compare a repo with what it is to hold, and commit the difference."""
    name = f"{wanted.kind} {wanted.repo_id}"
    head = _head(api, wanted.repo_id, wanted.kind)
    if head is not None:
        _check_it_is_ours(api, wanted, private)
    if head is None and not dry_run:
        _make(api, wanted, private, say)
        head = _head(api, wanted.repo_id, wanted.kind)
    changed, removed = dict(wanted.files), []
    if head is not None:
        for file in api.list_repo_tree(wanted.repo_id, repo_type=wanted.kind, revision=head, recursive=True):
            if not isinstance(file, RepoFile):
                continue
            if file.path in wanted.files:
                if _same(wanted.files[file.path], file):
                    del changed[file.path]
            elif file.path not in KEPT:
                removed.append(file.path)
    if not changed and not removed:
        say(f"{name}: unchanged")
        return
    if dry_run:
        made = "" if head else f" make it ({'private' if private else 'public'}),"
        say("\n  ".join([f"{name}: would{made} change", *(f"+ {p}" for p in changed), *(f"- {p}" for p in removed)]))
        return
    commit = api.create_commit(
        wanted.repo_id,
        [CommitOperationAdd(path, content) for path, content in changed.items()]
        + [CommitOperationDelete(path) for path in removed],
        repo_type=wanted.kind,
        commit_message=COMMIT_MESSAGE,
        parent_commit=head,
    )
    say(f"{name}: {len(changed)} files written, {len(removed)} removed, commit {commit.oid[:12]}")


def _make(api: HfApi, wanted: Publication, private: bool, say: Callable[[str], None]) -> None:
    """Make a repo. A Gradio Space that an account has no plan for is made on ZeroGPU, which is free for two of them."""
    make = partial(
        api.create_repo, wanted.repo_id, repo_type=wanted.kind, private=private, space_sdk=wanted.sdk, exist_ok=True
    )
    try:
        try:
            make()
        except HfHubHTTPError as error:
            if wanted.sdk != "gradio" or not _wants_plan(error):
                raise
            say(f"{wanted.kind} {wanted.repo_id}: no plan for a processor, trying ZeroGPU")
            make(space_hardware=SpaceHardware.ZERO_A10G)
    except HfHubHTTPError as error:
        if not _wants_plan(error):
            raise
        raise RefusedError(f"the Hub wants a plan for it, which needs {NEEDS[wanted.sdk]}") from error


def _wants_plan(error: HfHubHTTPError) -> bool:
    return error.response is not None and error.response.status_code == PAYMENT_REQUIRED


def _head(api: HfApi, repo_id: str, kind: str = "model") -> str | None:
    """The commit at the tip of main; None if there is no such repo."""
    try:
        return api.repo_info(repo_id, repo_type=kind).sha
    except RepositoryNotFoundError:
        return None


def _check_stage(api: HfApi, repo_id: str, run: Path, commit: str) -> None:
    """Raise unless a commit has the weights and thresholds of a run here, whose figures its pair's card will tell."""
    files = api.list_repo_tree(repo_id, revision=commit)
    there = {file.path: file for file in files if isinstance(file, RepoFile)}
    if not all(name in there and _same(run / name, there[name]) for name in (WEIGHTS, CALIBRATION)):
        raise BthubError(f"{repo_id} has other weights or thresholds than {run}: publish {run} first")


def _check_it_is_ours(api: HfApi, wanted: Publication, private: bool) -> None:
    """Raise unless the repo is new or has been published to before, and is private where that is asked for."""
    repo_id, kind = wanted.repo_id, wanted.kind
    # The first commit is the Hub's own, unless somebody has made one of them all.
    _, *commits = reversed(api.list_repo_commits(repo_id, repo_type=kind))
    more = set(api.list_repo_files(repo_id, repo_type=kind)) - KEPT - {CARD}
    if (commits or more) and not any(commit.title == COMMIT_MESSAGE for commit in commits):
        raise RefusedError(
            f"the {kind} {repo_id} already exists, and bthub didn't write it: all its files would be replaced. Give "
            "the run another name, or delete that repo"
        )
    if private and not api.repo_info(repo_id, repo_type=kind).private:
        raise RefusedError(f"the {kind} {repo_id} is public: make it private in its settings, or leave out --private")


def _same(content: Path | bytes, there: RepoFile) -> bool:
    """Whether a file of the Hub has this content, by the digest that the Hub keeps of it."""
    size = len(content) if isinstance(content, bytes) else content.stat().st_size
    if size != there.size:
        return False
    data = content if isinstance(content, bytes) else content.read_bytes()
    if there.lfs is not None:
        return hashlib.sha256(data).hexdigest() == there.lfs.sha256
    return hashlib.sha1(b"blob %d\0" % size + data).hexdigest() == there.blob_id


def _collect(api: HfApi, org: str, private: bool, dry_run: bool, say: Callable[[str], None]) -> None:
    """Put all of the project's repos that the organization has into one collection."""
    spaces = [*(name for name, _ in APPS.values()), BROWSER, DOCS]
    items = [(f"{org}/{DATASET}", "dataset"), *((f"{org}/{name}", "space") for name in spaces)]
    runs = (path.name for path in shipped_runs())
    items = [(hub_id(name, org), "model") for name in (TWO_STAGE, *runs)] + items
    items = [(repo_id, kind) for repo_id, kind in items if _head(api, repo_id, kind)]
    known = next((c for c in api.list_collections(owner=org) if c.title == COLLECTION), None)
    there = {item.item_id for item in api.get_collection(known.slug).items} if known else set()
    missing = [(repo_id, kind) for repo_id, kind in items if repo_id not in there]
    if known and not missing:
        say(f"collection {known.slug}: unchanged")
        return
    if dry_run:
        say("\n  ".join([f"collection {org}/{COLLECTION}: would change", *(f"+ {item}" for item, _ in missing)]))
        return
    collection = known or api.create_collection(
        COLLECTION,
        namespace=org,
        description="Detect and outline brain tumors on MRI slices. Research, not a medical device.",
        private=private,
        exists_ok=True,
    )
    for repo_id, kind in missing:
        api.add_collection_item(collection.slug, repo_id, kind, exists_ok=True)
    say(f"collection {collection.slug}: {len(missing)} added")


# What can go wrong


def _attempt(action: Callable[[], object], org: str):
    """Run `action`, again when the Hub fails in a way that may pass: it compares anew, so no commit comes twice."""
    for attempt in range(ATTEMPTS):
        try:
            return action()
        except (HTTPError, OSError, RuntimeError) as error:
            if attempt + 1 == ATTEMPTS or not _may_pass(error):
                raise _sentence(error, org) from error
            time.sleep(WAIT_SECONDS * 2**attempt)


def _may_pass(error: Exception) -> bool:
    cause = _http_error(error)
    if cause is None:
        return isinstance(error, (HTTPError, ConnectionError, TimeoutError)) or "upload" in str(error)
    # 412: someone else committed in between; what differs is found anew.
    return cause.response.status_code in (408, 409, 412, 429) or cause.response.status_code >= 500


def _http_error(error: BaseException | None) -> HfHubHTTPError | None:
    """The Hub's answer behind an error; the client wraps those of uploads."""
    while error is not None:
        if isinstance(error, HfHubHTTPError) and error.response is not None:
            return error
        error = error.__cause__
    return None


def _sentence(error: Exception, org: str) -> BthubError:
    answer = _http_error(error)
    if isinstance(error, LocalTokenNotFoundError):
        return BthubError("no Hub token found: run `hf auth login`, or set HF_TOKEN")
    status = answer.response.status_code if answer else None
    if status == 401:
        return BthubError("the Hub rejects this token, which is wrong or has expired: run `hf auth login` again")
    if status == 403:
        return BthubError(f"this token has no write access to {org}: make one that has, and log in with it")
    if status == 400:
        return BthubError(f"the Hub rejected the upload: {answer.server_message or answer}")
    if status is None:
        return BthubError(f"stopped; each repo is either unchanged or fully published: {hub_trouble(error)}")
    reason = f"HTTP {status}"
    return BthubError(
        f"the Hub can't be reached or fails ({reason}). Each repo is either unchanged or fully "
        "published; run this again"
    )


def _check_token(api: HfApi, org: str) -> None:
    me = api.whoami()
    if me.get("auth", {}).get("accessToken", {}).get("role") == "read":
        raise BthubError(
            "this token is read-only: make one with write access at the Hub's settings, and log in with it"
        )
    if org not in {me["name"], *(member["name"] for member in me.get("orgs", []))}:
        raise BthubError(f"{me['name']} doesn't belong to {org}: name an organization of yours with --org")
