"""The architecture search engine: pure functions and values, usable as a library."""

import os

# OpenMP's threads wait asleep instead of spinning; read once, when torch loads. Training shares its cores with the
# server, Postgres and other workers: beside one busy process on 2 cores a small network trained at 34 images/s with
# spinning threads and at 246 with sleeping ones, and on an idle machine the difference is in the noise.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
