"""SSPS with SimCLR: how fine the clusters are, from how near a cluster positives come, how many are kept.

Command   sslsv tune tune_spaces/ssps.py --plan   says what would run; then without --plan
Data      VoxCeleb2 dev without labels; chosen on held-out training speakers, never on the test trials
Hardware  one GPU or more, a trial on each; 4 GB more of it while it clusters
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
    rung_epochs=(106,),  # of 120; all are SimCLR until epoch 100
)
