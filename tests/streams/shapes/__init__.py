"""A folder of plug-ins for the tests of the finder: good ones, and every kind of bad one."""
