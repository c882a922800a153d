"""All methods at once: which one, with which of its own settings.

Command   python -m sslsv.tune tune_spaces/all_models.py --plan   says what would run; then without --plan
Data      VoxCeleb2 dev without labels; chosen on held-out training speakers, never on the test trials
Hardware  one GPU or more, a trial on each
Result    not yet run
"""

from ray import tune

from sslsv.search import Asha, Space, When

# Another model begins with its own defaults; what belongs to all methods is the base's.
PROJECTORS = tune.choice([[512, 512, 512], [2048, 2048, 512], [2048, 2048, 2048]])
METHOD = "model.name"

SPACE = Space(
    base="configs/simclr.yml",
    parameters={
        METHOD: tune.choice(["simclr", "vicreg", "vibcreg", "barlow_twins"]),
        "model.temperature": When(METHOD, {"simclr": tune.loguniform(0.01, 0.3)}),
        "model.variance_weight": When(
            METHOD, {"vicreg": tune.loguniform(0.1, 10.0), "vibcreg": tune.loguniform(0.1, 10.0)}
        ),
        "model.covariance_weight": When(
            METHOD, {"vicreg": tune.loguniform(0.01, 1.0), "vibcreg": tune.loguniform(1.0, 50.0)}
        ),
        "model.redundancy_weight": When(METHOD, {"barlow_twins": tune.loguniform(5e-4, 5e-2)}),
        "model.projector_dims": When(
            METHOD,
            {
                "simclr": tune.choice([[], [512], [2048, 2048, 256]]),
                "vicreg": PROJECTORS,
                "vibcreg": PROJECTORS,
                "barlow_twins": PROJECTORS,
            },
        ),
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
