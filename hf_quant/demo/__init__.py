"""Small real models and real texts, so that quality figures can be measured without a model hub.

Nothing in the library proper imports this room: it serves the tests, the benchmarks and the notebooks.
"""
