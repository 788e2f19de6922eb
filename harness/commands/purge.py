"""``purge``: what a faulty plug-in may have touched is removed from a storage."""

from __future__ import annotations

import argparse
import datetime
from typing import TYPE_CHECKING

from harness.commands.arguments import Subparsers
from harness.errors import InputError, Problem, suggest

if TYPE_CHECKING:
    from collections.abc import Sequence

    from harness.results.folder.purge import Suspect
    from harness.storage.store import Store

HELP = "remove what a faulty plug-in may have touched; the next run makes it anew"


def register(commands: Subparsers) -> None:
    """Add the command."""
    purge = commands.add_parser(
        "purge",
        help=HELP,
        description="Remove from a storage what the plug-ins made, what a process made that they "
        "had run in before, and all that was made of it, in all sweeps: artifacts, rows of "
        "results, per-query tables, galleries. The next run of a sweep makes it anew.",
    )
    for role in ("method", "generator"):
        purge.add_argument(
            f"--{role}",
            action="append",
            default=[],
            metavar="NAME",
            help=f"a faulty {role}, as configs name it; may be said several times",
        )
    purge.add_argument(
        "--after",
        type=moment,
        metavar="DATE",
        help="only what they touched from then on, such as 2026-03-01 or 2026-03-01T12:30; UTC "
        "unless it says another zone",
    )
    purge.add_argument("--storage", default="runs", help="folder or URI (default: runs)")
    purge.add_argument("--dry-run", action="store_true", help="only say what would be removed")
    purge.add_argument(
        "--unknown",
        action="store_true",
        help="also artifacts that do not say who made them, as those of before it was recorded",
    )
    purge.set_defaults(do=_purge)


def moment(text: str) -> str:
    """A date, with or without a time, as the records have it; as argparse's ``type``."""
    from harness.results.folder import accounting

    try:
        when = datetime.datetime.fromisoformat(text)
    except ValueError:
        message = f"expected a date such as 2026-03-01 or 2026-03-01T12:30, got {text!r}"
        raise argparse.ArgumentTypeError(message) from None
    zone = when.tzinfo or datetime.UTC
    return accounting.moment(when.replace(tzinfo=zone).timestamp())


def _purge(arguments: argparse.Namespace) -> int:
    from harness.results.folder import purge
    from harness.storage.store import Store

    store = Store(arguments.storage)
    if not store.exists(".artifacts"):
        message = "expected a storage, with artifacts of sweeps in it"
        raise InputError(Problem(f"--storage {arguments.storage}", message))
    suspects = [purge.Suspect("method", name) for name in arguments.method]
    suspects += [purge.Suspect("generator", name) for name in arguments.generator]
    if not suspects:
        raise InputError(Problem("purge", "expected --method NAME or --generator NAME"))
    _check_known(store, suspects)
    touched = purge.find(store, suspects, arguments.after or "", arguments.unknown)
    if not arguments.dry_run:
        purge.remove(store, touched)
    print("\n".join(touched.lines("would remove" if arguments.dry_run else "removed")))
    if touched.unknown:
        print(f"{touched.unknown:,} artifacts do not say who made them and stay (see --unknown)")
    return 0


def _check_known(store: Store, suspects: Sequence[Suspect]) -> None:
    """InputError for each name that nothing in the storage bears, which would be a slip."""
    from harness.results.folder import purge

    problems = []
    for suspect in suspects:
        known = purge.seen(store, suspect.role)
        if suspect.use not in known:
            message = f"no {suspect.role} {suspect.use!r} has run.{suggest(suspect.use, known)}"
            problems.append(Problem(f"--storage {store.root}", message))
    if problems:
        raise InputError(*problems)
