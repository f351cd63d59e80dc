"""``python -m interlock.adapters.cli`` is ``interlock``."""

from . import main

main()
