"""SSPS with SimCLR: number of clusters, source clusters of positives, queue length, reference crop.

Command   sslsv tune tune_spaces/ssps.py --plan   prints the plan; without --plan it runs
Data      VoxCeleb2 dev without labels; compared on held-out training speakers, never on test trials
Hardware  one or more GPUs, one trial per GPU; clustering takes 4 GB more memory
Result    not yet run
"""

from ray import tune

from sslsv.search import Halving, Space

SPACE = Space(
    base="configs/ssps.yml",
    parameters={
        "model.positives.num_clusters": tune.choice([6000, 12500, 25000, 50000]),
        "model.positives.num_neighbors": tune.choice([0, 1, 3]),
        "model.positives.queue_length": tune.choice([8192, 25000, 65536]),
        "model.positives.reference_seconds": tune.choice([2.0, 4.0]),
    },
    metric="eer",
    trials=16,
    tries_base_first=True,
    scheduler=Halving(reduction=2),
    rung_epochs=(106,),  # of 120; until epoch 100 all trials are plain SimCLR
)
