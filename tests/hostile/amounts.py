"""How much of each proof is done: the short form, unless a variable of the environment says more.

`make test-hostile` does the long one.
"""

import os
import secrets

CUTS = int(os.environ.get("HOSTILE_CUTS", "12"))  # moments at which an export is cut off
REQUESTS = int(os.environ.get("HOSTILE_REQUESTS", "600"))  # of nonsense, to each function
RECORDS_A_KIND = int(os.environ.get("HOSTILE_RECORDS_A_KIND", "12"))  # files of each kind of dirt
SLOW_READERS_S = float(os.environ.get("HOSTILE_SLOW_READERS_S", "8"))  # how long they are there
SEED = int(os.environ.get("HOSTILE_SEED", str(secrets.randbelow(2**32))))
