"""`python -m pytest_peftbench.commands` is `peftbench`."""

import sys

from pytest_peftbench.commands import main

sys.exit(main())
