"""One file per detector; the file's name, with dashes, is what a monitor writes as `type`."""
