"""Self-supervised speaker verification on Ray."""

import os
import sys

__version__ = "0.1.0"

# "-m" stands there while Python looks for the command of `python -m sslsv.train`.
if os.path.basename("".join(sys.argv[:1])) in ("-m", "sslsv"):
    # A Ctrl-C while a command is still being imported ends it without a traceback.
    sys.excepthook = lambda kind, error, trace: (
        os._exit(130) if kind is KeyboardInterrupt else sys.__excepthook__(kind, error, trace)
    )

# Ray reads these when it is imported or started, hence here, before any module of the package imports it.
for _name, _value in {
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",  # a cluster that a command starts listens on 127.0.0.1 alone
    "RAY_worker_niceness": "0",  # Ray would nice trainers and data processes alike; ours nice themselves
    "RAY_USAGE_STATS_ENABLED": "0",
    # Ray would prestart two workers that stay unused, because ours need other environment variables.
    "RAY_prestart_worker_first_driver": "0",
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",  # a process more; the first training worker looks itself
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "1",  # a worker that has ended is noticed so soon
    "RAY_TRAIN_METRICS_ENABLED": "0",
    "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "20",  # until a number of workers that fits is sought again
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",  # Ray warns that this will be the default
}.items():
    os.environ.setdefault(_name, _value)

# Always off: its actor would show the job, with the W&B key, to anyone in the cluster.
os.environ["RAY_TRAIN_ENABLE_STATE_TRACKING"] = "0"
