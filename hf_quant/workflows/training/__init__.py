"""Parts of `workflows.train`: examples, arguments, the folder of a run."""
