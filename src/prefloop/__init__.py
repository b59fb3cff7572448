"""prefloop: align a language model with what people prefer, end to end."""

import os

__version__ = "0.1.0"

# How long a thread of torch's (GNU OpenMP) waits busily for the others before it sleeps, read when torch is loaded. By
# default it is milliseconds: while another process has one of the cores, the waiting keeps our own threads from theirs.
if "OMP_WAIT_POLICY" not in os.environ:
    os.environ.setdefault("GOMP_SPINCOUNT", "10000")
