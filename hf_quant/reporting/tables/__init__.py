"""Tables of a report, one subject per file, before they are Markdown or HTML."""
