"""`kagura-tasks dead`."""

from __future__ import annotations

import json
from base64 import b64decode
from collections.abc import Callable, Generator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from kagura_tasks.cli.confirm import confirm
from kagura_tasks.cli.options import AsJson, Yes
from kagura_tasks.errors import ConfigurationError, InvalidRequest

if TYPE_CHECKING:
    from rich.table import Table

    from kagura_tasks.cli.screen import Screen
    from kagura_tasks.dead_letters import DeadLetter, DeadLetters

#: As with git: whoever gives less may mean another one by accident.
_SHORTEST_PREFIX: Final = 4

#: Characters of an id in the table, where so many are enough to tell it from all others.
_SHORT_ID: Final = 8

#: Longest text in a cell of the table, narrowest column of reasons, and bytes that are shown of what is no message.
_LONGEST_CELL: Final = 80
_SHORTEST_REASON: Final = 16
_FIRST_BYTES: Final = 256

#: Headers in which Celery repeats a task's arguments.
_ARGUMENTS: Final = ("argsrepr", "kwargsrepr")
_HIDDEN: Final = "(hidden: --body shows it)"

dead: Final = typer.Typer(
    help="Look at the messages that no worker will try again, send them again, or drop them.", no_args_is_help=True
)

_PREFIXES: Final = "An id from the list, or as many of its first characters, 4 at least, as tell it from the others"

#: A dead letter's fields by their names, as machines read them.
Fields = dict[str, object]

Ids = Annotated[
    list[str] | None,
    typer.Argument(metavar="ID", help=f"{_PREFIXES}."),
]
Everything = Annotated[bool, typer.Option("--all", help="All there are.")]


@dead.command("list")
def show_all(
    limit: Annotated[int, typer.Option(min=1, help="Show this many.")] = 100,
    as_json: AsJson = False,
) -> None:
    """List the dead letters, newest first. Nothing that a message holds is shown."""
    from kagura_tasks.cli.screen import Screen

    screen = Screen(as_json)
    with _opened() as letters:
        ids = letters.ids()
        found = letters.find(ids[:limit])
    screen.document({"count": len(ids), "dead_letters": [_fields(letter) for letter in found]})
    if not found:
        screen.say("no dead letters")
        return
    screen.table(_table(found, _short_length(ids), is_narrow=screen.is_narrow))
    if len(ids) > limit:
        screen.note(f"the newest {limit:,} of {len(ids):,}: --limit shows more")


@dead.command()
def show(
    letter_id: Annotated[str, typer.Argument(metavar="ID", help=f"{_PREFIXES}.")],
    body: Annotated[
        bool, typer.Option("--body", help="Show the task's arguments, too: the prompt, which may be private.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Show one dead letter: why it is here, and its message's headers and properties.

    The message's body is shown with --body only: it holds the task's arguments, and so the prompt.
    """
    from kagura_tasks.cli.screen import Screen

    with _opened() as letters:
        [letter] = _named(letters, [letter_id])
        raw = letters.message(letter.id) or b""
    screen = Screen(as_json)
    fields = {**_fields(letter), **_content(raw, with_body=body)}
    screen.document(fields)
    for name, value in {**fields, **_in_words(letter)}.items():
        screen.say(_line(name, value))
    if not body:
        screen.say(_line("body", "not shown: it may hold a prompt (--body shows it)"))


@dead.command()
def retry(ids: Ids = None, everything: Everything = False, as_json: AsJson = False) -> None:
    """Send dead letters to their queues again, to be tried as if for the first time.

    With --all, what is no task stays: no worker could do anything else with it. Name it to send it nevertheless.
    """
    from kagura_tasks.cli.screen import Screen

    screen = Screen(as_json)
    with _opened(needs_results=True) as letters:
        chosen = _chosen(letters, ids, everything)
        tasks = [letter for letter in chosen if letter.task or not everything]
        sent = _each(screen, "Sending" if everything else "", tasks, letters.retry)
    stay = len(chosen) - len(tasks)
    screen.document({"sent": sent, "gone": len(tasks) - sent, "stay": stay})
    screen.say(f"{_count(sent)} sent again{_gone(len(tasks) - sent)}")
    if stay:
        which = "holds no task, and stays" if stay == 1 else "hold no task, and stay"
        screen.note(f"{_count(stay)} {which}: give its id to send it nevertheless")


@dead.command()
def drop(ids: Ids = None, everything: Everything = False, yes: Yes = False, as_json: AsJson = False) -> None:
    """Forget dead letters for good. With --all it asks first."""
    from kagura_tasks.cli.screen import Screen

    screen = Screen(as_json)
    with _opened() as letters:
        chosen = _chosen(letters, ids, everything)
        if everything and chosen and not yes:
            confirm(f"Drop {_count(len(chosen))} for good?")
        went = _each(screen, "Dropping" if everything else "", chosen, letters.drop)
    screen.document({"dropped": went, "gone": len(chosen) - went})
    screen.say(f"{_count(went)} dropped{_gone(len(chosen) - went)}")


@contextmanager
def _opened(*, needs_results: bool = False) -> Generator[DeadLetters]:
    """The broker's dead letters, once it answers. What the server refuses is a line that says why."""
    from redis.exceptions import ResponseError

    from kagura_tasks.cli.preflight import require_redis
    from kagura_tasks.dead_letters import DeadLetters
    from kagura_tasks.settings import load_settings

    settings = load_settings()
    require_redis(settings.broker, *([settings.results] if needs_results else []))
    try:
        yield DeadLetters(settings)
    except ResponseError as error:
        reason = str(error).partition(" script:")[0]
        raise ConfigurationError(f"Redis at {settings.broker.masked()} refuses: {reason}") from None


def _chosen(letters: DeadLetters, ids: list[str] | None, everything: bool) -> list[DeadLetter]:
    """Those that the user named, or all of them."""
    if bool(ids) == everything:
        raise InvalidRequest("say which dead letters: their ids, or --all alone for all of them")
    return _named(letters, ids) if ids else letters.find(letters.ids())


def _named(letters: DeadLetters, prefixes: list[str]) -> list[DeadLetter]:
    """Those with these ids. Raises InvalidRequest, before anything is done, where one is unknown or ambiguous."""
    known = letters.ids()
    ids = list(dict.fromkeys(_meant(prefix, known) for prefix in prefixes))
    found = letters.find(ids)
    if gone := set(ids) - {letter.id for letter in found}:
        raise InvalidRequest(f"gone meanwhile: {', '.join(sorted(gone))}")
    return found


def _meant(prefix: str, known: list[str]) -> str:
    """The id that begins like this."""
    if prefix in known:
        return prefix
    if len(prefix) < _SHORTEST_PREFIX:
        raise InvalidRequest(f"give at least {_SHORTEST_PREFIX} characters of an id: {prefix!r} is too short")
    fit = [one for one in known if one.startswith(prefix)]
    if len(fit) > 1:
        more = f" and {len(fit) - 2:,} more" if len(fit) > 2 else ""
        raise InvalidRequest(f"{prefix} is ambiguous: {fit[0]}, {fit[1]}{more}")
    if not fit:
        raise InvalidRequest(f"no dead letter has the id {prefix!r}: `kagura-tasks dead list` shows them")
    return fit[0]


def _each(screen: Screen, what: str, chosen: list[DeadLetter], act: Callable[[DeadLetter], bool]) -> int:
    """Do it to each, with its progress where that has a name; how many were still there."""
    if not (what and chosen):
        return sum(map(act, chosen))
    done = 0
    with screen.counting(f"{what} {_count(len(chosen))}", len(chosen)) as step:
        for letter in chosen:
            done += act(letter)
            step()
    return done


def _fields(letter: DeadLetter) -> Fields:
    """What is known of it, for machines."""
    when = datetime.fromtimestamp(letter.buried_at, UTC).isoformat(timespec="milliseconds")
    return {**vars(letter), "buried_at": when}


def _in_words(letter: DeadLetter) -> Fields:
    """Those of its fields that people read otherwise."""
    return {
        "queue": _queue(letter.queue),
        "buried_at": _when(letter.buried_at),
        "size_bytes": f"{letter.size_bytes:,}",
    }


def _content(raw: bytes, *, with_body: bool) -> Fields:
    """What the message holds, as far as it shall be shown."""
    from kagura_tasks.dead_letters import message_in

    message = message_in(raw)
    if message is None:
        return {"is_message": False, **({"first_bytes": _escaped(raw)} if with_body else {})}
    body = message.pop("body", None)
    if with_body:
        return {"is_message": True, **message, "body": _body(message, body)}
    hidden = {name: _HIDDEN for name in _ARGUMENTS if name in message["headers"]}
    known = {name: message[name] for name in ("content-type", "content-encoding", "properties") if name in message}
    return {"is_message": True, **known, "headers": {**message["headers"], **hidden}}


def _body(message: dict[str, Any], body: object) -> object:
    """The task's arguments; what cannot be read stays as it is, or is shown by its first bytes."""
    if message["properties"].get("body_encoding") != "base64" or not isinstance(body, str):
        return body
    raw = b""
    try:
        raw = b64decode(body)
        return json.loads(raw)
    except (ValueError, RecursionError):
        return _escaped(raw or body.encode("utf-8", "replace"))


def _escaped(raw: bytes) -> str:
    """The first bytes, in a form that is safe to print."""
    more = f" ... and {len(raw) - _FIRST_BYTES:,} bytes more" if len(raw) > _FIRST_BYTES else ""
    return repr(raw[:_FIRST_BYTES])[2:-1] + more


def _table(found: list[DeadLetter], id_length: int, *, is_narrow: bool) -> Table:
    from rich.table import Column, Table
    from rich.text import Text

    columns = [
        *(Column("id", no_wrap=True), Column("when", no_wrap=True), Column("task", overflow="fold")),
        *(Column("task id", no_wrap=True), Column("queue", overflow="fold"), Column("deaths", justify="right")),
        *(Column("reason", min_width=_SHORTEST_REASON), Column("size", justify="right", no_wrap=True)),
    ]
    table = Table(*columns, box=None, header_style="bold", pad_edge=False, padding=(0, 2, 0, 0))
    for letter in found:
        task_id = letter.task_id[:_SHORT_ID] if is_narrow else letter.task_id
        texts = (letter.id[:id_length], _when(letter.buried_at), letter.task, task_id, _queue(letter.queue))
        row = (*texts, str(letter.deaths), letter.reason, f"{letter.size_bytes / 1000:,.1f} kB")
        table.add_row(*(Text(_cell(text)) for text in row))
    return table


def _cell(text: str) -> str:
    """A text from a message may be long, and may hold anything."""
    from kagura_tasks.cli.screen import printable

    line = " ".join(printable(text).split())
    return line if len(line) <= _LONGEST_CELL else line[: _LONGEST_CELL - 3] + "..."


def _line(name: str, value: object) -> str:
    """A field for people; what has parts follows in lines of its own."""
    from kagura_tasks.cli.screen import printable

    label = name.replace("_", " ").replace("-", " ")
    if isinstance(value, dict | list):
        return printable(f"{label}\n{json.dumps(value, ensure_ascii=False, indent=2)}")
    return printable(f"{label:<16} {_plain(value)}")


def _plain(value: object) -> str:
    return ("no", "yes")[value] if isinstance(value, bool) else str(value) or "-"


def _short_length(ids: list[str]) -> int:
    """How many characters tell every id from all others."""
    length = _SHORT_ID
    while len({one[:length] for one in ids}) < len(ids) and length < max(map(len, ids)):
        length += 1
    return length


def _queue(key: str) -> str:
    """kombu writes a queue's priority behind its name, unless it is the first to be served."""
    name, _, priority = key.partition("\x06\x16")
    return f"{name} (priority {priority})" if priority else name


def _when(unix_s: float) -> str:
    return f"{datetime.fromtimestamp(unix_s).astimezone():%Y-%m-%d %H:%M}"


def _count(number: int) -> str:
    return f"{number:,} dead letter{'' if number == 1 else 's'}"


def _gone(number: int) -> str:
    return f", {number:,} gone meanwhile" if number else ""
