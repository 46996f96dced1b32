"""openmimo: the system behind MiMo-7B (arXiv 2505.07608), whole and readable."""

__version__ = "0.1.0"
