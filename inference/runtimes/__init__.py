"""Model runtimes. One file is one runtime and its name; what each must do stands in `inference/runtime.py`."""
