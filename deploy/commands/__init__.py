"""One file per subcommand of `sidelight`; the file's name is the subcommand's name (see `deploy/cli.py`)."""
