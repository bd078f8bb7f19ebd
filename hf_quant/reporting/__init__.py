"""Reports of evaluations and benchmarks for people and programs: JSON, Markdown, and one HTML page."""
