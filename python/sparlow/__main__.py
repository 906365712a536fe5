"""`python -m sparlow`."""

import sys

from sparlow.cli import main

sys.exit(main())
