"""SimCLR with a margin on positives: kind, value and schedule of the margin, temperature, rate and noise.

Command   sslsv tune tune_spaces/margins/simclr.py --plan   prints the plan; without --plan it runs
Data      VoxCeleb2 dev; compared on held-out training speakers, never on test trials
Hardware  one or more GPUs, one trial per GPU
Result    not yet run
"""

from ray import tune

from sslsv.search import Asha, Space

SPACE = Space(
    base="configs/margins/simclr_am.yml",
    parameters={
        "model.margin.name": tune.choice(["none", "am", "aam", "adaface"]),
        "model.margin.value": tune.choice([0.05, 0.1, 0.2, 0.3]),
        "model.margin.schedule.name": tune.choice(["constant", "cosine"]),
        "model.temperature": tune.loguniform(0.01, 0.3),
        "optimizer.learning_rate": tune.loguniform(1e-4, 5e-3),
        "data.augment.noise.snr_db": tune.choice([[0.0, 15.0], [5.0, 15.0], [5.0, 20.0]]),
    },
    metric="eer",
    trials=32,
    searcher="tpe",
    scheduler=Asha(reduction=3),
    rung_epochs=(11, 33),  # of 100
)
