"""How much of each proof is done: the long form, unless a variable of the environment says less."""

import os
import secrets

HISTORIES = int(os.environ.get("FAULTS_HISTORIES", "1000"))
STEPS_APART = int(os.environ.get("FAULTS_STEPS_APART", "1"))  # 1: crash at every step, 5: at every fifth
KILLS = int(os.environ.get("FAULTS_KILLS", "200"))
SEED = int(os.environ.get("FAULTS_SEED", str(secrets.randbelow(2**32))))
OUTAGES = int(os.environ.get("FAULTS_OUTAGES", "108"))
SOAK_S = int(os.environ.get("FAULTS_SOAK_S", "900"))
READERS = int(os.environ.get("FAULTS_READERS", "200"))
