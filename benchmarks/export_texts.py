"""Write the texts that documents measure on to files that `hf-quant evaluate` reads.

The test split of the film reviews goes to `reviews.jsonl`, with labels; news articles of theirs to `news.jsonl`. What
models are calibrated on, and plans searched with, are the validation split of the reviews, which the classifier was
not trained on, in `reviews-validation.jsonl`, and the other articles in `news-train.jsonl`.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable, Mapping
from pathlib import Path

from hf_quant.demo.texts import download_review_archive, news_split, review_sentences, review_split

EXAMPLES = """examples:
  python -m benchmarks.export_texts
  python -m benchmarks.export_texts --folder texts --articles 100
"""


def write(file: Path, rows: Iterable[Mapping[str, str]]) -> None:
    """One JSON object a line."""
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    print(f"Wrote {file}")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--folder", type=Path, default=Path(), help="to write to (default: this one)")
    parser.add_argument("--articles", type=int, default=6, help="of news (default: %(default)s)")
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    _, validation, test = review_split(review_sentences(download_review_archive()))
    for name, sentences in (("reviews", test), ("reviews-validation", validation)):
        write(options.folder / f"{name}.jsonl", ({"text": text, "label": label} for label, text in sentences))
    train, articles = news_split()
    for name, chosen in (("news", articles[: options.articles]), ("news-train", train)):
        write(options.folder / f"{name}.jsonl", ({"text": text} for _, text in chosen))


if __name__ == "__main__":
    main()
