"""`python -m llmgw_server` is `llmgw-server`."""

import sys

from llmgw_server.cli import main

if __name__ == "__main__":
    sys.exit(main())
