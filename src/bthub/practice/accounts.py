"""Accounts: registration, sign-in, sessions, limits, recovery, deletion."""

import hashlib
import hmac
import re
import secrets
import threading
import unicodedata
from datetime import timedelta

from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError
from sqlalchemy import delete, func, select, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from bthub.practice.database import Database
from bthub.practice.models import (
    DONE,
    FAILED,
    LANGUAGES,
    PROFESSIONS,
    Account,
    Attempt,
    Audit,
    Case,
    Examination,
    Invitation,
    Note,
    Option,
    Report,
    SignIn,
    Upload,
    now,
)
from bthub.practice.settings import Settings
from bthub.practice.texts import Refusal

SHORTEST_PASSWORD, LONGEST_PASSWORD = 10, 256
# OWASP's second choice for argon2id: 19 MiB. At most this many at once, so that a crowd doesn't fill the memory.
_HASHER = PasswordHasher(time_cost=2, memory_cost=19_456, parallelism=1)
_HASHING = threading.BoundedSemaphore(4)

SESSION = timedelta(days=14)
IDLE = timedelta(hours=12)
SEEN_EVERY = timedelta(minutes=5)
WINDOW = timedelta(minutes=15)
# Failures within the window, then a wait. Successes never count: fifty people of one hospital share an address.
FAILURES_OF_ACCOUNT, FAILURES_OF_ADDRESS = 8, 60
REGISTRATIONS_OF_ADDRESS = 60
RECOVERY = timedelta(hours=24)
UNSAVED = timedelta(hours=24)
"""How long results that aren't saved are kept, and uploads that might be analyzed again."""
INVITE_ONLY = "invite-only"

WRONG = "The name or the password is wrong."
WAIT = "Too many attempts: wait {minutes} minutes, then try again."


class Accounts:
    """What can be done with accounts."""

    def __init__(self, database: Database, settings: Settings) -> None:
        self._database = database
        self._secret = settings.secret.encode()
        # Compared where there is no such account, so that the answer takes as long.
        self._nobody = hash_password(secrets.token_hex(16))

    def digest(self, text: str) -> str:
        """A keyed digest: what the database holds of session ids, codes and addresses."""
        return hmac.new(self._secret, text.encode(), hashlib.sha256).hexdigest()

    # -- registration

    def register(self, name: str, password: str, full_name: str, address: str, invitation: str = "") -> Account:
        """Make an account.

        Raises:
            Refusal: the name is taken or unusable, the password too weak, the invitation missing, too many.
        """
        folded = fold_name(name)
        full_name = _full_name(full_name)
        if not full_name:
            raise Refusal("Give your name, as reports should show it.")
        check_password(password, folded)
        key = "register:" + self.digest(address)
        self._limit({key: REGISTRATIONS_OF_ADDRESS})
        # Before, and by itself: one that is refused counts too, or it would tell without end which names are taken.
        with self._database.write() as session:
            session.add(Attempt(key=key))
        hashed = hash_password(password)
        try:
            with self._database.write() as session:
                if invite_only(session):
                    self._use_invitation(session, invitation)
                account = Account(name=folded, full_name=full_name, password=hashed)
                session.add(account)
                session.flush()
                audit(session, account.id, "register")
        except IntegrityError as error:
            raise Refusal("This sign-in name is taken: choose another, or sign in.") from error
        return account

    def by_oauth(self, subject: str, name: str, full_name: str) -> Account:
        """The account of somebody whom the Hub vouches for, made at the first visit.

        Raises:
            Refusal: there is none yet and registration is by invitation, or the account is locked.
        """
        with self._database.write() as session:
            account = session.scalar(select(Account).where(Account.oauth == subject))
            if account is None:
                if invite_only(session):
                    raise Refusal("Registration is by invitation here: ask the administrator.", 403)
                # Cut, since the Hub gives it and nobody here can shorten it; the account's page can set another.
                account = Account(name=f"oauth:{subject}", full_name=clean(full_name or name)[:200], oauth=subject)
                session.add(account)
                session.flush()
                audit(session, account.id, "register")
            if account.locked_at is not None:
                raise Refusal("This account is locked: ask the administrator.", 403)
        return account

    def _use_invitation(self, session: Session, code: str) -> None:
        found = session.execute(
            update(Invitation)
            .where(Invitation.code == self.digest("invite:" + _plain(code)), Invitation.used_at.is_(None))
            .values(used_at=now())
        )
        if found.rowcount != 1:  # type: ignore[attr-defined]
            raise Refusal("Registration is by invitation here: give a code that the administrator made for you.", 403)

    # -- sign-in

    def sign_in(self, name: str, password: str, address: str) -> tuple[Account, str]:
        """Check a password; returns the account and the id of a new session, which only the cookie keeps.

        Raises:
            Refusal: wrong, locked, or too many failures.
        """
        folded = fold(name)
        keys = {
            "account:" + self.digest(folded): FAILURES_OF_ACCOUNT,
            "address:" + self.digest(address): FAILURES_OF_ADDRESS,
        }
        self._limit(keys)
        with self._database.read() as session:
            account = session.scalar(select(Account).where(Account.name == folded))
        hashed = account.password if account is not None and account.password else self._nobody
        right = verify_password(hashed, password) and account is not None and account.password is not None
        if not right or account is None:
            self._failed(list(keys), account)
            raise Refusal(WRONG, 403)
        if account.locked_at is not None:
            raise Refusal("This account is locked: ask the administrator.", 403)
        fresh = hash_password(password) if _HASHER.check_needs_rehash(hashed) else None
        with self._database.write() as session:
            session.execute(delete(Attempt).where(Attempt.key == next(iter(keys))))
            if fresh:
                session.execute(update(Account).where(Account.id == account.id).values(password=fresh))
            token = self._open(session, account.id)
        return account, token

    def open_session(self, account_id: str) -> str:
        """A new session for an account that has just been vouched for; returns its id."""
        with self._database.write() as session:
            return self._open(session, account_id)

    def _open(self, session: Session, account_id: str) -> str:
        token = secrets.token_urlsafe(32)
        session.add(SignIn(id=self.digest(token), account_id=account_id, expires_at=now() + SESSION))
        audit(session, account_id, "sign in")
        return token

    def session_of(self, token: str) -> tuple[Account, SignIn] | None:
        """Whose session a cookie holds; None where it is unknown, over, or its account locked."""
        if not token or len(token) > 100:
            return None
        with self._database.read() as session:
            row = session.execute(
                select(Account, SignIn)
                .join(SignIn, SignIn.account_id == Account.id)
                .where(SignIn.id == self.digest(token))
            ).one_or_none()
        if row is None:
            return None
        account, signed_in = row
        moment = now()
        if account.locked_at is not None or signed_in.expires_at < moment or signed_in.seen_at < moment - IDLE:
            return None
        if signed_in.seen_at < moment - SEEN_EVERY:
            with self._database.write() as session:
                session.execute(update(SignIn).where(SignIn.id == signed_in.id).values(seen_at=moment))
        return account, signed_in

    def sign_out(self, account_id: str, session_id: str | None = None) -> None:
        """End a session, or all of an account."""
        with self._database.write() as session:
            ended = delete(SignIn).where(SignIn.account_id == account_id)
            if session_id is not None:
                ended = ended.where(SignIn.id == session_id)
            session.execute(ended)
            audit(session, account_id, "sign out" if session_id else "sign out everywhere")

    # -- changes

    def change_password(self, account: Account, old: str, new: str, address: str, keep: str) -> None:
        """Set a password; all other sessions end.

        Raises:
            Refusal: the old one is wrong, the new one too weak, too many failures.
        """
        key = "account:" + self.digest(account.name)
        self._limit({key: FAILURES_OF_ACCOUNT})
        if account.password is None:
            raise Refusal("You sign in with your Hugging Face account: there is no password here.")
        if not verify_password(account.password, old):
            self._failed([key, "address:" + self.digest(address)], account)
            raise Refusal("Your current password is wrong.", 403)
        check_password(new, account.name)
        self._set_password(account.id, new, keep)

    def _set_password(self, account_id: str, password: str, keep: str | None = None) -> None:
        hashed = hash_password(password)
        with self._database.write() as session:
            session.execute(
                update(Account)
                .where(Account.id == account_id)
                .values(password=hashed, recovery=None, recovery_until=None)
            )
            ended = delete(SignIn).where(SignIn.account_id == account_id)
            session.execute(ended if keep is None else ended.where(SignIn.id != keep))
            audit(session, account_id, "change password")

    def recover(self, name: str, code: str, password: str, address: str) -> None:
        """Set a password with the one-time code of an administrator.

        Raises:
            Refusal: the code is wrong or over, the password too weak, too many failures.
        """
        folded = fold(name)
        keys = {
            "recover:" + self.digest(folded): FAILURES_OF_ACCOUNT,
            "address:" + self.digest(address): FAILURES_OF_ADDRESS,
        }
        self._limit(keys)
        check_password(password, folded)
        with self._database.write() as session:
            # Taken in the statement that checks it: of two who send it at once, one has it.
            account = session.scalar(select(Account).where(Account.name == folded))
            taken = (
                account is not None
                and session.execute(
                    update(Account)
                    .where(
                        Account.id == account.id,
                        Account.recovery == self.digest("recover:" + _plain(code)),
                        Account.recovery_until > now(),
                        Account.locked_at.is_(None),
                    )
                    .values(recovery=None, recovery_until=None)
                ).rowcount
            )  # type: ignore[attr-defined]
        if not taken or account is None:
            self._failed(list(keys), account)
            raise Refusal(
                "The name or the code is wrong, or the code has expired: ask the administrator for another.", 403
            )
        self._set_password(account.id, password)

    def complete(
        self, account_id: str, profession: str, institution: str, consent: str, full_name: str = "", *, seen: str
    ) -> None:
        """Answer the questions of first use, or answer them anew.

        Args:
            account_id: whose.
            profession, institution, consent, full_name: the answers.
            seen: `profile_mark` of the answers that the form was loaded with.

        Raises:
            Refusal: one is missing or too long, or they were changed meanwhile.
        """
        institution, full_name = clean(institution), _full_name(full_name)
        check_length("The institution has {length} characters: shorten it to at most {most}.", institution, 200)
        if profession not in PROFESSIONS:
            raise Refusal("Choose your profession.")
        if not institution:
            raise Refusal("Enter your institution, or “none”.")
        if consent not in ("yes", "no"):
            raise Refusal("Choose whether your cases may be used for research: yes or no.")
        with self._database.write() as session:
            account = session.get_one(Account, account_id, with_for_update=True)
            if account.complete and profile_mark(account) != seen:
                raise Refusal(
                    "Your answers were changed in another window after you opened them here, and nothing was saved: "
                    "check them, then save again.",
                    409,
                )
            values = {
                "profession": profession,
                "institution": institution,
                "consent": consent == "yes",
                "consent_at": now(),
            }
            if full_name:
                values["full_name"] = full_name
            session.execute(update(Account).where(Account.id == account_id).values(values))
            audit(session, account_id, "profile", consent)

    def set_language(self, account_id: str, language: str) -> None:
        if language in LANGUAGES:
            with self._database.write() as session:
                session.execute(update(Account).where(Account.id == account_id).values(language=language))

    def delete(self, account: Account, password: str) -> None:
        """Delete an account and all that is in it. What is left is that it was deleted.

        Raises:
            Refusal: the password is wrong, too many failures.
        """
        key = "account:" + self.digest(account.name)
        self._limit({key: FAILURES_OF_ACCOUNT})
        if account.password is not None and not verify_password(account.password, password):
            self._failed([key], account)
            raise Refusal("Your current password is wrong.", 403)
        self.remove(account.id)

    def remove(self, account_id: str) -> None:
        """Delete an account and all that is in it."""
        with self._database.write() as session:
            session.execute(delete(Account).where(Account.id == account_id))
            audit(session, account_id, "delete account")

    # -- limits

    def _limit(self, keys: dict[str, int]) -> None:
        since = now() - WINDOW
        with self._database.read() as session:
            for key, most in keys.items():
                count = session.scalar(
                    select(func.count()).where(Attempt.key == key, Attempt.at > since, Attempt.at <= now())
                )
                if (count or 0) >= most:
                    raise Refusal(WAIT, 429, minutes=int(WINDOW.total_seconds() / 60))

    def _failed(self, keys: list[str], account: Account | None) -> None:
        with self._database.write() as session:
            session.add_all(Attempt(key=key) for key in keys)
            if account is not None:
                audit(session, account.id, "failed sign in")

    # -- for administrators

    def recovery_code(self, name: str) -> str:
        """A one-time code that sets a new password.

        Raises:
            Refusal: there is no such account.
        """
        code = one_time_code()
        with self._database.write() as session:
            account = _named(session, name)
            account.recovery = self.digest("recover:" + _plain(code))
            account.recovery_until = now() + RECOVERY
            audit(session, account.id, "recovery code")
        return code

    def invitation(self) -> str:
        """A one-time code that lets one person register."""
        code = one_time_code()
        with self._database.write() as session:
            session.add(Invitation(code=self.digest("invite:" + _plain(code))))
            audit(session, None, "invitation")
        return code

    def lock(self, name: str, locked: bool) -> None:
        """Lock an account and end its sessions, or let it in again.

        Raises:
            Refusal: there is no such account.
        """
        with self._database.write() as session:
            account = _named(session, name)
            account.locked_at = now() if locked else None
            if locked:
                session.execute(delete(SignIn).where(SignIn.account_id == account.id))
            audit(session, account.id, "lock" if locked else "unlock")

    def set_invite_only(self, on: bool) -> None:
        with self._database.write() as session:
            session.merge(Option(name=INVITE_ONLY, value="on" if on else "off"))
            audit(session, None, "invite-only on" if on else "invite-only off")

    # -- housekeeping

    def sweep(self) -> None:
        """End sessions that are over, purge what was deleted in sessions that ended, forget old attempts."""
        moment = now()
        with self._database.write() as session:
            session.execute(delete(SignIn).where((SignIn.expires_at < moment) | (SignIn.seen_at < moment - IDLE)))
            session.execute(delete(Attempt).where(Attempt.at < moment - 2 * WINDOW))
            alive = select(SignIn.id)
            for table in (Report, Note, Examination, Case):
                session.execute(
                    delete(table).where(
                        table.deleted_at.is_not(None),
                        table.deleted_in.is_(None) | table.deleted_in.not_in(alive),
                    )
                )
            # What was analyzed and not saved; and of what is saved, the files that another try might have needed.
            old = Examination.created_at < moment - UNSAVED
            session.execute(delete(Examination).where(Examination.case_id.is_(None), old))
            done = Examination.state.in_((DONE, FAILED)) & Examination.keep_identifiers.is_(False)
            session.execute(delete(Upload).where(Upload.examination_id.in_(select(Examination.id).where(old, done))))


def profile_mark(account: Account) -> str:
    """What an account says of its person, as a digest: a form bears that of the answers that it was loaded with."""
    answers = (account.full_name, account.profession, account.institution, account.consent)
    return hashlib.sha256(repr(answers).encode()).hexdigest()


def _named(session: Session, name: str) -> Account:
    account = session.scalar(select(Account).where(Account.name == fold(name)))
    if account is None:
        raise Refusal("There is no account named {name}.", name=name)
    return account


def invite_only(session: Session) -> bool:
    option = session.get(Option, INVITE_ONLY)
    return option is not None and option.value == "on"


def audit(session: Session, account_id: str | None, action: str, subject: str | None = None) -> None:
    """Note what was done. Ids only: never a name, a pseudonym or a text."""
    session.add(Audit(account_id=account_id, action=action, subject=subject))


def fold(text: str) -> str:
    """For comparing: one Unicode form, no case, no spaces around."""
    return unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold()).strip()


def clean(text: str) -> str:
    """One line as it is stored: no control codes, spaces folded."""
    line = "".join(c if c.isprintable() else " " for c in unicodedata.normalize("NFC", text))
    return re.sub(r"\s+", " ", line).strip()


def clean_text(text: str) -> str:
    """Several lines as they are stored: no control codes but line ends."""
    lines = unicodedata.normalize("NFC", text).replace("\r\n", "\n").replace("\r", "\n")
    return "".join(c for c in lines if c == "\n" or c == "\t" or c.isprintable()).strip()


def check_length(sentence: str, text: str, most: int) -> None:
    """Refuse what is too long to be stored whole: cut, two labels would be one, and the end of a text would be lost.

    Args:
        sentence: what is said then, with {length} and {most}.
        text: as it is stored.
        most: characters that are stored.

    Raises:
        Refusal: it is longer.
    """
    if len(text) > most:
        raise Refusal(sentence, length=len(text), most=most)


def _full_name(text: str) -> str:
    """A person's name as it is stored.

    Raises:
        Refusal: it is too long.
    """
    text = clean(text)
    check_length("Your name has {length} characters: shorten it to at most {most}.", text, 200)
    return text


def fold_name(name: str) -> str:
    """A sign-in name as it is compared.

    Raises:
        Refusal: it can't be used.
    """
    folded = fold(clean(name))
    if not re.fullmatch(r"[\w.@+-]{3,100}", folded):
        raise Refusal("The sign-in name must have 3 to 100 letters, digits and . @ + - _, such as an e-mail address.")
    return folded


def check_password(password: str, name: str) -> None:
    """
    Raises:
        Refusal: too short, too long, the sign-in name, or one character over and over.
    """
    if len(password) < SHORTEST_PASSWORD:
        raise Refusal(
            "The password needs at least {least} characters; several words are fine.", least=SHORTEST_PASSWORD
        )
    if len(password) > LONGEST_PASSWORD:
        raise Refusal("The password may have at most {most} characters.", most=LONGEST_PASSWORD)
    if fold(password) == name or len(set(password)) < 4:
        raise Refusal("This password is too easy to guess: use several words.")


def hash_password(password: str) -> str:
    with _HASHING:
        return _HASHER.hash(password)


def verify_password(hashed: str, password: str) -> bool:
    if len(password) > LONGEST_PASSWORD:
        return False
    with _HASHING:
        try:
            return _HASHER.verify(hashed, password)
        except (VerificationError, InvalidHashError):
            return False


def one_time_code() -> str:
    """20 characters of 32 that can't be mistaken for each other, 100 bits, in groups of five."""
    code = "".join(secrets.choice("23456789ABCDEFGHJKLMNPQRSTUVWXYZ") for _ in range(20))
    return "-".join(code[i : i + 5] for i in range(0, 20, 5))


def _plain(code: str) -> str:
    return re.sub(r"[^0-9A-Z]", "", code.upper())
