"""`python -m openmimo` is `openmimo`."""

from openmimo.cli import main

main()
