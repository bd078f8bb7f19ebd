"""Plans as people look at them: where bits went, what they cost, and how sensitive modules are."""
