"""The command's options."""

from __future__ import annotations

import argparse
from pathlib import Path

SECONDS = 60.0
DTYPES = ("bf16", "fp16", "fp8", "int8", "tf32", "fp32")
FORMATS = ("text", "json", "csv")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's options."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.epilog = (
        "Exit status: 0 measured; 1 it cannot be, or the GPU is busy; 2 wrong options;\n"
        "130 after Ctrl-C, and nothing is written then. What is measured, and when not to\n"
        "use it: docs/calibration.md"
    )
    parser.add_argument("--gpu", type=_index, default=0, metavar="INDEX", help="NVML's number of it (0)")
    parser.add_argument(
        "--seconds",
        type=_seconds,
        default=SECONDS,
        metavar="N",
        help=f"about how long to measure ({SECONDS:g}); a slow GPU takes longer",
    )
    parser.add_argument(
        "--dtypes",
        type=_dtypes,
        default=DTYPES,
        metavar="LIST",
        help=f"of the products, with commas between ({','.join(DTYPES)}); what the GPU lacks is said so",
    )
    parser.add_argument("--format", choices=FORMATS, default="text")
    parser.add_argument(
        "--output",
        type=Path,
        metavar="FILE",
        help="write the roofs there, YAML as under roofs: of the configuration",
    )
    parser.add_argument("--force", action="store_true", help="measure although the GPU is busy")
    # So that the whole command can be tried on a machine without a GPU.
    parser.add_argument("--device", choices=("gpu", "cpu"), default="gpu", help=argparse.SUPPRESS)


def _index(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError("must be NVML's number of a GPU, from 0 on")
    return int(text)


def _seconds(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        raise argparse.ArgumentTypeError("must be a number of seconds") from None
    if not 1 <= value <= 3600:
        raise argparse.ArgumentTypeError("must be 1 to 3600")
    return value


def _dtypes(text: str) -> tuple[str, ...]:
    named = tuple(dict.fromkeys(part.strip().lower() for part in text.split(",")))
    unknown = [name for name in named if name not in DTYPES]
    if unknown:
        raise argparse.ArgumentTypeError(f"{', '.join(map(repr, unknown))}: one of {', '.join(DTYPES)}")
    return named
