"""Several methods: which one does best with its default settings; the space of each method tunes those.

Command   sslsv tune tune_spaces/all_models.py --plan   says what would run; then without --plan
Data      VoxCeleb2 dev without labels; chosen on held-out training speakers, never on the test trials
Hardware  one GPU or more, a trial on each
Result    not yet run
"""

from ray import tune

from sslsv.search import Asha, Space

SPACE = Space(
    base="configs/simclr.yml",
    parameters={
        # Another model begins with its own defaults; what belongs to all methods is the base's.
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
