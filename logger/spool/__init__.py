"""The spool: what waits for the broker, on disk, so that it outlives this process and, if asked, a power cut."""
