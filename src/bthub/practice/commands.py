"""`bthub practice ...`: serving it, and what its administrator does."""

import argparse
import os
import socket
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from sqlalchemy import func, select

from bthub.errors import BthubError
from bthub.practice import settings as settings_module
from bthub.practice.accounts import RECOVERY, Accounts
from bthub.practice.backup import backup, check, restore
from bthub.practice.database import Database
from bthub.practice.log import quiet_libraries
from bthub.practice.models import Account, Audit, Case
from bthub.practice.settings import Settings

PORT = 7861


def main(argv: list[str], prog: str = "bthub practice") -> int | None:
    """Run an action; returns the exit code.

    Args:
        argv: what follows `bthub practice`.
        prog: what the help calls the command.

    Raises:
        BthubError: a problem that the administrator can mend.
    """
    args = _parser(prog).parse_args(argv)
    if args.action is _verify:
        return _verify(args, None)
    answer: int | None = args.action(args, settings_module.load(args.folder))
    return answer


def _parser(prog: str) -> argparse.ArgumentParser:
    practice = argparse.ArgumentParser(
        prog=prog,
        description="Accounts, cases and reports around the pipeline. Research software, not a medical device.",
    )
    practice.add_argument("--folder", type=Path, help="data folder; default: BTHUB_PRACTICE, or data/practice")
    actions = practice.add_subparsers(required=True, metavar="ACTION")

    def add(
        name: str, words: str, action: Callable[[argparse.Namespace, Settings], int | None]
    ) -> argparse.ArgumentParser:
        parser = actions.add_parser(name, help=words)
        parser.set_defaults(action=action)
        return parser

    serve_ = add("serve", f"serve it on this machine; PORT= or --port, default {PORT}", _serve)
    serve_.add_argument("--port", type=int)
    add("accounts", "list the accounts", _accounts)
    for name, words, action in (
        ("lock", "lock an account and end its sessions", _lock),
        ("unlock", "let a locked account in again", _unlock),
        ("recover", "print a one-time code that sets a new password", _recover),
        ("remove", "delete an account and all that is in it", _remove),
    ):
        add(name, words, action).add_argument("name", help="sign-in name")
    add("invite-only", "require an invitation to register: on or off", _invite_only).add_argument(
        "state", choices=("on", "off")
    )
    add("invite", "print an invitation for one person", _invite)
    audit = add("audit", "show who did what, latest last", _audit)
    audit.add_argument("--last", type=int, default=100, metavar="N", help="number of entries; default: %(default)s")
    audit.add_argument("--name", help="entries of this account only")
    add("backup", "back up everything into one file; works while the server runs", _backup).add_argument(
        "file", type=Path
    )
    add("restore", "restore a backup into an empty data folder", _restore).add_argument("file", type=Path)
    add("check", "check that every row has its files, every file its row and every signed report its digest", _check)
    add("verify", "check that a report's JSON file is unchanged since it was signed", _verify).add_argument(
        "file", type=Path
    )
    return practice


def _port(args: argparse.Namespace) -> int:
    text = str(args.port) if args.port is not None else os.environ.get("PORT") or str(PORT)
    if not (text.isdecimal() and len(text) < 6 and 0 < int(text) < 65536):
        raise BthubError(f"PORT must be a number from 1 to 65535, not {text!r}")
    return int(text)


def _serve(args: argparse.Namespace, settings: Settings) -> None:
    import uvicorn

    from bthub.practice.web.app import create_app

    port = _port(args)
    host = "0.0.0.0" if settings.space else "127.0.0.1"
    listening = socket.socket(socket.AF_INET)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind((host, port))
    except OSError as error:
        raise BthubError(f"port {port} is not free: stop what uses it, or choose another with PORT=") from error
    # Large uploads lie here while they come in, not in a folder that others read.
    incoming = settings.folder / "tmp"
    incoming.mkdir(exist_ok=True, mode=0o700)
    tempfile.tempdir = str(incoming)
    quiet_libraries()
    app = create_app(settings)
    print(
        f"bthub: the practice is on http://127.0.0.1:{port}, its data in {settings.folder} (Ctrl-C stops it)",
        flush=True,
    )
    # No log of requests: an address holds what was searched for.
    config = uvicorn.Config(
        app,
        access_log=False,
        log_level="warning",
        server_header=False,
        timeout_graceful_shutdown=10,
        # Longer than clients keep a connection for: one that the server closes just when it is used again is an error.
        timeout_keep_alive=75,
    )
    server = uvicorn.Server(config)
    try:
        server.run(sockets=[listening])
    except KeyboardInterrupt:
        pass
    if not server.started:
        raise BthubError("the server did not start: the lines above say why")


def _opened(settings: Settings) -> tuple[Database, Accounts]:
    database = Database(settings.database_url)
    database.migrate()
    return database, Accounts(database, settings)


def _accounts(args: argparse.Namespace, settings: Settings) -> None:
    database, _ = _opened(settings)
    with database.read() as session:
        counts = dict(session.execute(select(Case.account_id, func.count()).group_by(Case.account_id)).tuples().all())
        for account in session.scalars(select(Account).order_by(Account.created_at)):
            state = "locked" if account.locked_at else "" if account.complete else "profile incomplete"
            cases = counts.get(account.id, 0)
            print(
                f"{account.name}\t{account.full_name}\t{account.profession or '-'}\t{account.institution or '-'}\t"
                f"{cases} {'case' if cases == 1 else 'cases'}\tsince {account.created_at:%Y-%m-%d}\t{state}".rstrip()
            )


def _lock(args: argparse.Namespace, settings: Settings) -> None:
    _opened(settings)[1].lock(args.name, True)
    print(f"{args.name} is locked, its sessions have ended")


def _unlock(args: argparse.Namespace, settings: Settings) -> None:
    _opened(settings)[1].lock(args.name, False)
    print(f"{args.name} may sign in again")


def _recover(args: argparse.Namespace, settings: Settings) -> None:
    code = _opened(settings)[1].recovery_code(args.name)
    print(code)
    hours = int(RECOVERY.total_seconds() / 3600)
    print(f"valid once, within {hours} hours: enter it at /recover", file=sys.stderr)


def _remove(args: argparse.Namespace, settings: Settings) -> None:
    database, accounts = _opened(settings)
    with database.read() as session:
        id = session.scalar(select(Account.id).where(Account.name == args.name))
    if id is None:
        raise BthubError(f"there is no account named {args.name}")
    accounts.remove(id)
    print(f"{args.name} is deleted; its files are removed by the server within minutes")


def _invite_only(args: argparse.Namespace, settings: Settings) -> None:
    _opened(settings)[1].set_invite_only(args.state == "on")
    print(f"invite-only is {args.state}")


def _invite(args: argparse.Namespace, settings: Settings) -> None:
    print(_opened(settings)[1].invitation())


def _audit(args: argparse.Namespace, settings: Settings) -> None:
    database, _ = _opened(settings)
    with database.read() as session:
        query = select(Audit, Account.name).outerjoin(Account, Audit.account_id == Account.id)
        if args.name:
            query = query.where(Account.name == args.name)
        rows = session.execute(query.order_by(Audit.number.desc()).limit(max(1, args.last))).all()
    for entry, name in reversed(rows):
        who = name or entry.account_id or "-"
        print(f"{entry.at:%Y-%m-%d %H:%M:%S}\t{who}\t{entry.action}\t{entry.subject or ''}".rstrip())


def _backup(args: argparse.Namespace, settings: Settings) -> None:
    database, _ = _opened(settings)
    rows, files = backup(settings, database, args.file)
    print(f"{args.file}: {rows} rows, {files} files")


def _restore(args: argparse.Namespace, settings: Settings) -> None:
    database, _ = _opened(settings)
    rows, files = restore(settings, database, args.file)
    print(f"{settings.folder}: {rows} rows, {files} files from {args.file}")


def _check(args: argparse.Namespace, settings: Settings) -> int:
    database, _ = _opened(settings)
    found = check(settings, database)
    for problem in found.problems:
        print(problem)
    problems = len(found.problems) or "no"
    print(f"{found.rows} rows, {found.files} files, {found.reports} signed reports: {problems} problems")
    return 1 if found.problems else 0


def _verify(args: argparse.Namespace, settings: Settings | None) -> None:
    from bthub.practice.report import check_file

    print(f"{args.file}: as it was signed, sha256 {check_file(args.file)}")
