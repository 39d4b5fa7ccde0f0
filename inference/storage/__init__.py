"""Where models come from: storage URIs, fetched into a cache of folders that are whole or not there."""
