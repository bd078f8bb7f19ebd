"""The parts of `benchmarks.article_table`."""
