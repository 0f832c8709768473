"""cfbus: captions very large image sets with vision-language models, on GPUs that nobody has to own in one place."""

__version__ = "0.1.0"
