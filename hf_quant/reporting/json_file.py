"""Files of reports, written whole or not at all."""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path

from hf_quant.errors import EvaluationError, SaveError
from hf_quant.reporting.report import Report


def write_json(report: Report, file: Path) -> None:
    """Write a report to a file, as JSON.

    Raises:
        SaveError: The file cannot be written; what was there is as it was.
        EvaluationError: The report holds NaN or infinity, which JSON does not have.
    """
    try:
        text = json.dumps(report.to_dict(), indent=2, allow_nan=False, ensure_ascii=False)
    except ValueError as error:
        raise EvaluationError(f"the report holds NaN or infinity, which JSON cannot say: {error}") from error
    write_text(file, text + "\n")


def read_json(file: Path) -> Report:
    """Read the report in a file that `write_json` wrote, or that holds a single `DropReport` or `BenchmarkReport`.

    Raises:
        EvaluationError: The file cannot be read, is of a newer schema, or holds no report.
    """
    try:
        values = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise EvaluationError(f"{file} cannot be read as a report: {error}") from error
    try:
        return Report.from_dict(values)
    except EvaluationError as error:
        raise EvaluationError(f"{file}: {error}") from error


def write_text(file: Path, text: str) -> None:
    """Write a text to a file, whole or not at all: under another name first, which is then moved.

    Raises:
        SaveError: The file cannot be written; what was there is as it was.
    """
    try:
        content = text.encode()
    except UnicodeEncodeError as error:
        raise SaveError(f"cannot write {file}: {error}") from error
    write_bytes(file, content)


def write_bytes(file: Path, content: bytes) -> None:
    """Write bytes to a file, whole or not at all.

    Raises:
        SaveError: The file cannot be written; what was there is as it was.
    """
    staging = None
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=file.parent, prefix=f".{file.name}.", delete=False) as opened:
            staging = Path(opened.name)
            opened.write(content)
        staging.chmod(_mode())
        staging.replace(file)
    except OSError as error:
        if staging is not None:
            staging.unlink(missing_ok=True)
        raise SaveError(f"cannot write {file}: {error}") from error


def _mode() -> int:
    # Temporary files are private; others have the mode that the umask asks for.
    mask = os.umask(0)
    os.umask(mask)
    return 0o666 & ~mask
