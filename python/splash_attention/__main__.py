"""`python -m splash_attention`."""

import sys

from .cli import main

sys.exit(main(sys.argv[1:]))
