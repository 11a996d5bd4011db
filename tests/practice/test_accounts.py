"""Accounts, through the pages that a person uses."""

from datetime import timedelta

import pytest

from bthub.practice import accounts as accounts_module
from bthub.practice import models
from bthub.practice.accounts import Accounts
from bthub.practice.database import Database
from bthub.practice.texts import Refusal

PASSWORD = "correct horse battery"
SHIPPED = accounts_module._HASHER  # before the tests put a cheap one in its place


@pytest.fixture
def accounts(settings):
    database = Database(settings.database_url)
    database.migrate()
    yield Accounts(database, settings)
    database.close()


def test_from_registration_to_the_first_page(serve):
    browser = serve()
    assert browser.get("/").url.path == "/sign-in"
    answer = browser.register()
    assert answer.url.path == "/welcome"
    # Until the questions are answered nothing is saved.
    assert browser.get("/cases").url.path == "/welcome"
    assert browser.post("/welcome", profession="pilot", institution="x", consent="yes").status_code == 400
    assert browser.post("/welcome", profession="student", institution="", consent="yes").status_code == 400
    answer = browser.post("/welcome", profession="student", institution="University", consent="no")
    assert answer.url.path == "/" and "Ada Lovelace" in answer.text


def test_passwords_are_hashed_as_owasp_advises():
    assert (SHIPPED.type.name, SHIPPED.memory_cost, SHIPPED.time_cost, SHIPPED.parallelism) == ("ID", 19_456, 2, 1)


def test_sign_out_here_and_everywhere(serve):
    one, two = serve().begin(), serve()
    assert two.post("/sign-in", name="ADA@example.org", password=PASSWORD).url.path == "/"
    one.post("/sign-out")
    assert one.get("/").url.path == "/sign-in"
    assert two.get("/").url.path == "/"
    assert one.post("/sign-in", name="ada@example.org", password=PASSWORD).url.path == "/"
    one.post("/sign-out-everywhere")
    assert two.get("/").url.path == "/sign-in"


def test_a_wrong_password_and_an_unknown_name_read_the_same(serve):
    browser = serve()
    browser.register()
    browser.post("/sign-out")
    wrong = browser.post("/sign-in", name="ada@example.org", password="not this one, sorry")
    unknown = browser.post("/sign-in", name="eve@example.org", password="not this one, sorry")
    assert wrong.status_code == unknown.status_code == 403
    for answer in (wrong, unknown):
        assert "The name or the password is wrong." in answer.text


@pytest.mark.parametrize(
    ("form", "words"),
    [
        ({"name": "a b"}, "sign-in name must have"),
        ({"name": "ab"}, "sign-in name must have"),
        ({"password": "short"}, "at least 10 characters"),
        ({"password": "a" * 30}, "too easy"),
        ({"password": "x y" * 200}, "at most 256"),
        ({"password": "ada@example.org"}, "too easy"),
        ({"full_name": " \x00 "}, "Give your name"),
    ],
)
def test_registration_says_what_is_wrong(serve_sqlite, form, words):
    given = {"name": "ada@example.org", "password": PASSWORD, "full_name": "Ada", **form}
    answer = serve_sqlite().post("/register", **given)
    assert answer.status_code == 400 and words in answer.text


def test_a_name_is_taken_once(accounts):
    accounts.register("Ada@Example.org", PASSWORD, "Ada", "1.2.3.4")
    with pytest.raises(Refusal, match="taken"):
        accounts.register("ada@example.ORG ", PASSWORD, "Ada", "1.2.3.4")


def test_refused_registrations_are_limited_too(accounts, monkeypatch):
    """They tell which names are taken."""
    monkeypatch.setattr(accounts_module, "REGISTRATIONS_OF_ADDRESS", 3)
    accounts.register("ada@example.org", PASSWORD, "Ada", "1.2.3.4")
    for _ in range(2):
        with pytest.raises(Refusal, match="taken"):
            accounts.register("ada@example.org", PASSWORD, "Ada", "1.2.3.4")
    with pytest.raises(Refusal, match="Too many"):
        accounts.register("ada@example.org", PASSWORD, "Ada", "1.2.3.4")


def test_failures_are_limited_by_account_and_by_address(accounts, monkeypatch):
    accounts.register("ada@example.org", PASSWORD, "Ada", "1.2.3.4")
    for _ in range(accounts_module.FAILURES_OF_ACCOUNT):
        with pytest.raises(Refusal, match="wrong"):
            accounts.sign_in("ada@example.org", "not this one, sorry", "5.6.7.8")
    with pytest.raises(Refusal, match="Too many"):  # the right one too, from anywhere
        accounts.sign_in("ada@example.org", PASSWORD, "9.9.9.9")
    monkeypatch.setattr(accounts_module, "FAILURES_OF_ADDRESS", 10)
    for i in range(2):
        with pytest.raises(Refusal, match="wrong"):
            accounts.sign_in(f"nobody{i}@example.org", PASSWORD, "5.6.7.8")
    with pytest.raises(Refusal, match="Too many"):
        accounts.sign_in("somebody@example.org", PASSWORD, "5.6.7.8")
    # After the window it is forgotten.
    later = models.now() + accounts_module.WINDOW + timedelta(seconds=1)
    monkeypatch.setattr(accounts_module, "now", lambda: later)
    assert accounts.sign_in("ada@example.org", PASSWORD, "5.6.7.8")[1]


def test_right_sign_ins_are_not_limited(accounts):
    accounts.register("ada@example.org", PASSWORD, "Ada", "1.2.3.4")
    for _ in range(accounts_module.FAILURES_OF_ACCOUNT + 2):
        accounts.sign_in("ada@example.org", PASSWORD, "1.2.3.4")


def test_sessions_end(accounts, monkeypatch):
    account = accounts.register("ada@example.org", PASSWORD, "Ada", "1.2.3.4")
    token = accounts.open_session(account.id)
    assert accounts.session_of(token) is not None
    assert accounts.session_of(token[:-1]) is None and accounts.session_of("") is None
    start = models.now()
    monkeypatch.setattr(accounts_module, "now", lambda: start + accounts_module.IDLE + timedelta(minutes=1))
    assert accounts.session_of(token) is None
    accounts.sweep()
    monkeypatch.undo()
    assert accounts.session_of(token) is None  # swept, also for a clock that jumps back


def test_the_database_holds_no_session_id_and_no_password(accounts, settings):
    account = accounts.register("ada@example.org", PASSWORD, "Ada", "1.2.3.4")
    token = accounts.open_session(account.id)
    code = accounts.recovery_code("ada@example.org")
    database = Database(settings.database_url)
    with database.read() as session:
        everything = " ".join(
            str(row) for table in models.Base.metadata.sorted_tables for row in session.execute(table.select())
        )
    database.close()
    assert account.id in everything
    for secret in (token, code, code.replace("-", ""), PASSWORD, "1.2.3.4"):
        assert secret not in everything


def test_a_changed_password_ends_the_other_sessions(serve):
    one, two = serve().begin(), serve()
    two.post("/sign-in", name="ada@example.org", password=PASSWORD)
    assert one.post("/account/password", old="wrong wrong wrong", new="another fine one").status_code == 403
    assert "changed" in one.post("/account/password", old=PASSWORD, new="another fine one").text
    assert one.get("/cases").url.path == "/cases"
    assert two.get("/cases").url.path == "/sign-in"
    assert two.post("/sign-in", name="ada@example.org", password=PASSWORD).status_code == 403
    assert two.post("/sign-in", name="ada@example.org", password="another fine one").url.path == "/"


def test_recovery_by_a_one_time_code(accounts, monkeypatch):
    account = accounts.register("ada@example.org", PASSWORD, "Ada", "1.2.3.4")
    token = accounts.open_session(account.id)
    code = accounts.recovery_code("ada@example.org")
    with pytest.raises(Refusal, match="code is wrong"):
        accounts.recover("ada@example.org", "AAAAA-AAAAA-AAAAA-AAAAA", "a new long one", "1.2.3.4")
    accounts.recover("ada@example.org", code.lower(), "a new long one", "1.2.3.4")
    assert accounts.session_of(token) is None
    with pytest.raises(Refusal, match="code is wrong"):
        accounts.recover("ada@example.org", code, "a third long one", "1.2.3.4")
    assert accounts.sign_in("ada@example.org", "a new long one", "1.2.3.4")
    late = accounts.recovery_code("ada@example.org")
    later = models.now() + accounts_module.RECOVERY + timedelta(minutes=1)
    monkeypatch.setattr(accounts_module, "now", lambda: later)
    with pytest.raises(Refusal, match="code is wrong"):
        accounts.recover("ada@example.org", late, "a third long one", "1.2.3.4")


def test_locked_accounts_stay_out(accounts):
    account = accounts.register("ada@example.org", PASSWORD, "Ada", "1.2.3.4")
    token = accounts.open_session(account.id)
    accounts.lock("ada@example.org", True)
    assert accounts.session_of(token) is None
    with pytest.raises(Refusal, match="locked"):
        accounts.sign_in("ada@example.org", PASSWORD, "1.2.3.4")
    accounts.lock("ada@example.org", False)
    assert accounts.sign_in("ada@example.org", PASSWORD, "1.2.3.4")


def test_invitations_let_one_person_in(accounts):
    accounts.set_invite_only(True)
    with pytest.raises(Refusal, match="invitation"):
        accounts.register("ada@example.org", PASSWORD, "Ada", "1.2.3.4")
    code = accounts.invitation()
    accounts.register("ada@example.org", PASSWORD, "Ada", "1.2.3.4", code)
    with pytest.raises(Refusal, match="invitation"):
        accounts.register("eve@example.org", PASSWORD, "Eve", "1.2.3.4", code)
    # A name that is taken doesn't use an invitation up.
    code = accounts.invitation()
    with pytest.raises(Refusal, match="taken"):
        accounts.register("ada@example.org", PASSWORD, "Ada", "1.2.3.4", code)
    accounts.register("eve@example.org", PASSWORD, "Eve", "1.2.3.4", code)


def test_deleting_an_account_leaves_nothing(serve, settings):
    browser = serve().begin()
    case, examination = browser.case()
    browser.post(f"/cases/{case}/notes", text="seen")
    browser.post(f"/examinations/{examination}/reports")
    assert browser.post("/account/delete", password="wrong wrong wrong", sure="yes").status_code == 403
    assert browser.post("/account/delete", password=PASSWORD).status_code == 400
    assert browser.post("/account/delete", password=PASSWORD, sure="yes").url.path == "/register"
    browser.client.app.state.practice.files.sweep()  # as happens every few minutes, unless a backup reads
    database = Database(settings.database_url)
    with database.read() as session:
        left = {
            table.name: session.execute(table.select()).all()
            for table in models.Base.metadata.sorted_tables
            if table.name not in ("audit", "attempt", "option")
        }
    database.close()
    assert not any(left.values()), left
    assert not [path for path in (settings.folder / "files").rglob("*") if path.is_file()]


def test_forms_of_other_sites_are_refused(serve_sqlite):
    browser = serve_sqlite().begin()
    case, _ = browser.case()
    for form, headers in (
        ({"text": "x"}, {}),
        ({"text": "x", "token": "0" * 64}, {}),
        ({"text": "x", "token": browser.token("/cases")}, {"sec-fetch-site": "cross-site"}),
    ):
        assert browser.client.post(f"/cases/{case}/notes", data=form, headers=headers).status_code == 403
    other = serve_sqlite().begin("eve@example.org")
    assert (
        browser.client.post(f"/cases/{case}/notes", data={"text": "x", "token": other.token("/cases")}).status_code
        == 403
    )


def test_the_language_follows_the_browser_and_the_choice(serve_sqlite):
    browser = serve_sqlite()
    assert 'lang="de"' in browser.get("/sign-in", headers={"accept-language": "de-CH,de;q=0.9,en;q=0.1"}).text
    assert 'lang="en"' in browser.get("/sign-in", headers={"accept-language": "fr"}).text
    browser.post("/language", language="de", back="/register")
    assert 'lang="de"' in browser.get("/sign-in").text
    answer = browser.client.post(
        "/language", data={"token": browser.token(), "language": "en", "back": "//evil.example"}, follow_redirects=False
    )
    assert answer.headers["location"] == "/"
