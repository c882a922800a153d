"""DeepCluster v2: number of prototypes and heads, temperature, learning rate and noise.

Command   sslsv tune tune_spaces/deepcluster.py --plan   prints the plan; without --plan it runs
Data      VoxCeleb2 dev; compared on held-out training speakers, never on test trials
Hardware  one or more GPUs, one trial per GPU
Result    not yet run
"""

from ray import tune

from sslsv.search import Asha, Space

SPACE = Space(
    base="configs/deepcluster.yml",
    parameters={
        "model.num_prototypes": tune.choice([1000, 3000, 6000, 12000]),
        "model.num_heads": tune.choice([1, 3, 5]),
        "model.temperature": tune.loguniform(0.03, 0.3),
        "optimizer.learning_rate": tune.loguniform(1e-4, 5e-3),
        "data.augment.noise.snr_db": tune.choice([[0.0, 15.0], [5.0, 15.0], [5.0, 20.0]]),
    },
    metric="eer",
    trials=32,
    searcher="tpe",
    scheduler=Asha(reduction=3),
    rung_epochs=(11, 33),  # of 100
)
