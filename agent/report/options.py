"""The command's options."""

from __future__ import annotations

import argparse
from pathlib import Path

GROUPINGS = ("model", "namespace", "gpu", "cluster", "engine")
LABEL = "label:"
FORMATS = ("html", "markdown", "json", "csv")
TIMEOUT_SECONDS = 120.0

EXIT_CODES = """\
exit status:
  0    the review is written
  1    nothing could be written: no server, nothing recorded, no right to read
  2    an option is wrong, or a file that it names cannot be read
  3    the review is written, and says what is missing: some queries were not answered
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's options."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.epilog = EXIT_CODES
    parser.add_argument(
        "--prometheus-url",
        required=True,
        metavar="URL",
        help="Prometheus, Thanos, Mimir or VictoriaMetrics that has what the rules record: what stands "
        "before /api/v1",
    )
    time = parser.add_argument_group("time")
    chosen = time.add_mutually_exclusive_group()
    chosen.add_argument(
        "--month",
        metavar="YYYY-MM",
        help="a calendar month, UTC, until now if it goes on (default: the last whole one)",
    )
    chosen.add_argument(
        "--since", metavar="TIME", help="in place of a month: from 2026-11-03, or 2026-11-03T12:00"
    )
    time.add_argument("--until", metavar="TIME", help="with --since (default: now)")
    what = parser.add_argument_group("what")
    what.add_argument("--cluster", metavar="NAME", help="of the label cluster (default: all together)")
    what.add_argument(
        "--group-by",
        type=_grouping,
        default="model",
        metavar="WHAT",
        help=f"{', '.join(GROUPINGS)}, or {LABEL}NAME of the namespaces, as kube-state-metrics has it "
        "(kube_namespace_labels) (default: model)",
    )
    what.add_argument(
        "--model",
        action="append",
        type=_named_path,
        default=[],
        metavar="NAME=PATH",
        help="the config.json of a served model that no catalogue has, for right-sizing; may be repeated",
    )
    written = parser.add_argument_group("what is written")
    written.add_argument(
        "--output", type=Path, default=Path(), metavar="DIR", help="where to (default: here)"
    )
    written.add_argument(
        "--format",
        type=_formats,
        default=FORMATS,
        metavar="FORMAT[,FORMAT]",
        help=f"{', '.join(FORMATS)} (default: all)",
    )
    access = parser.add_argument_group(
        "access", "A bearer token is taken from the environment's PROMETHEUS_BEARER_TOKEN, or from a file."
    )
    access.add_argument("--bearer-token-file", type=Path, metavar="FILE")
    access.add_argument("--username", metavar="NAME", help="of basic authentication, with --password-file")
    access.add_argument("--password-file", type=Path, metavar="FILE")
    access.add_argument("--ca-file", type=Path, metavar="FILE", help="authorities that vouch for the server")
    access.add_argument("--cert-file", type=Path, metavar="FILE", help="our own certificate, with --key-file")
    access.add_argument("--key-file", type=Path, metavar="FILE")
    access.add_argument("--tenant", metavar="ID", help="sent as X-Scope-OrgID, as Mimir and Loki have it")
    access.add_argument(
        "--header",
        action="append",
        type=_header,
        default=[],
        metavar="'NAME: VALUE'",
        help="sent with each query; may be repeated",
    )
    asking = parser.add_argument_group("asking")
    asking.add_argument(
        "--timeout",
        type=_seconds,
        default=TIMEOUT_SECONDS,
        metavar="SECONDS",
        help=f"for one query (default: {TIMEOUT_SECONDS:.0f}); what takes longer is asked for in pieces",
    )
    asking.add_argument(
        "--fresh",
        action="store_true",
        help="ask everything again, also what an earlier run that ended was told",
    )


def _grouping(text: str) -> str:
    if text in GROUPINGS or (text.startswith(LABEL) and len(text) > len(LABEL)):
        return text
    raise argparse.ArgumentTypeError(f"must be one of {', '.join(GROUPINGS)}, or {LABEL}NAME; not {text!r}")


def _formats(text: str) -> tuple[str, ...]:
    chosen = tuple(dict.fromkeys(each.strip() for each in text.split(",") if each.strip()))
    unknown = [each for each in chosen if each not in FORMATS]
    if unknown or not chosen:
        raise argparse.ArgumentTypeError(f"must be of {', '.join(FORMATS)}; not {text!r}")
    return chosen


def _named_path(text: str) -> tuple[str, Path]:
    name, equals, path = text.partition("=")
    if not (name and equals and path):
        raise argparse.ArgumentTypeError(f"must be NAME=PATH, not {text!r}")
    return name, Path(path)


def _header(text: str) -> tuple[str, str]:
    name, colon, value = text.partition(":")
    if not (name.strip() and colon) or any(character in text for character in "\r\n"):
        raise argparse.ArgumentTypeError("must be 'NAME: VALUE'")
    return name.strip(), value.strip()


def _seconds(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value <= 86_400:
        raise argparse.ArgumentTypeError(f"must be above 0 and at most 86400, not {text!r}")
    return value
