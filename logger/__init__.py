"""The sidecar that logs payloads, and the collector for unmodified KServe agents. Import from its modules by name."""
