"""Plans found for a budget: losses, costs, and the search between them."""
