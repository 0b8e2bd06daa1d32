"""`python -m ltx_diffusers` is the same as the command `ltx-diffusers`."""

import sys

from .cli.app import main

if __name__ == "__main__":
    sys.exit(main())
