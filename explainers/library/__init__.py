"""One file per explainer; the file's name, with dashes, is what `--explainer` takes."""
