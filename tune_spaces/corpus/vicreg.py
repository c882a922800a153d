r"""VICReg on a small real corpus: weights, projector, learning rate and noise; two CPU cores.

Command   sslsv tune tune_spaces/corpus/vicreg.py data.root=CORPUS resources.threads_per_worker=1 \
              resources.data_tasks=1 --concurrent 2
Data      as configs/corpus/vicreg.yml; compared on held-out training speakers in simulated rooms
Hardware  two CPU cores, or one with --concurrent 1, where Asha's decisions do not depend on finishing order
Result    18 trials (12, then 6 more by --resume --trials 18), two at a time on two busy cores, 105 minutes,
          commit f4c106f: 936 epochs, while 18 full trainings take 2,916; validation EER 14.3 % (trial 10; the
          base was stopped at epoch 18). --confirm 1 --seeds 3, 77 minutes, commit f5336f5: trials_shifted
          23.1 % (base: 29.3 %), more than the noise; trials 16.5 % (base: 18.7 %), within the noise
"""

from ray import tune

from sslsv.search import Asha, Space

SPACE = Space(
    base="configs/corpus/vicreg.yml",
    settings={
        "train.epochs": 162,
        "optimizer.schedule.warmup_epochs": 4,
        "evaluation.every_epochs": 6,
        "evaluation.label_free.utterances": 128,
    },
    parameters={
        # Only ratios of the weights matter, given the learning rate, so the invariance weight stays at 1.
        "model.variance_weight": tune.loguniform(0.3, 10.0),
        "model.covariance_weight": tune.loguniform(0.01, 1.0),
        "model.projector_dims": tune.choice([[512, 512, 512], [512], []]),
        "optimizer.learning_rate": tune.loguniform(3e-4, 3e-3),
        "data.augment.noise.probability": tune.quniform(0.5, 1.0, 0.1),
    },
    # The report also shows how well the label-free metrics would have chosen.
    metric="eer",
    trials=12,
    searcher="tpe",
    tries_base_first=True,
    startup_trials=5,
    scheduler=Asha(reduction=3),
    rung_epochs=(18, 54),  # of 162
)
