"""`python -m hvqray.data`."""

import sys

from hvqray.data.commands import main

sys.exit(main())
