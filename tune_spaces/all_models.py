"""Find the method that does best with its default settings; the space of each method tunes these.

Command   sslsv tune tune_spaces/all_models.py --plan   prints the plan; without --plan it runs
Data      VoxCeleb2 dev without labels; compared on held-out training speakers, never on test trials
Hardware  one or more GPUs, one trial per GPU
Result    not yet run
"""

from ray import tune

from sslsv.search import Asha, Space

SPACE = Space(
    base="configs/simclr.yml",
    parameters={
        # Another model starts with its own defaults; settings shared by all methods come from the base.
        "model.name": tune.choice(["simclr", "vicreg", "vibcreg", "barlow_twins"]),
        "optimizer.learning_rate": tune.loguniform(1e-4, 5e-3),
        "data.augment.noise.probability": tune.quniform(0.5, 1.0, 0.1),
        "data.augment.noise.snr_db": tune.choice([[0.0, 15.0], [5.0, 15.0], [5.0, 20.0]]),
    },
    metric="eer",
    trials=96,
    searcher="tpe",
    scheduler=Asha(reduction=3),
    rung_epochs=(11, 33),  # of 100
)
