"""Label-efficient fine-tuning on a small real corpus: the ladder of shares, in three ways; 12 trials.

Command   sslsv tune tune_spaces/corpus/label_efficient.py data.root=CORPUS encoder.init=RUN \
              resources.threads_per_worker=1 resources.data_tasks=1
Data      that of configs/corpus/label_efficient.yml; measured on held-out training speakers, the same in all
          trials, whom RUN has heard without their names unless it has the seed of the sweep
Hardware  two CPU cores, a trial on each
Report    the metric over data.fraction, a line for each of the three ways
Result    with train.epochs=20 train.precision=fp32, without the frozen way, three seeds, commit 437df7f, two
          trials at a time, 15 to 28 minutes a sweep: fine-tuned 19.0 to 16.8 % in validation, from scratch
          45.5 to 31.4
"""

from ray import tune

from sslsv.search import Space

SPACE = Space(
    base="configs/corpus/label_efficient.yml",
    settings={"evaluation.label_free.utterances": 128},
    alternatives={
        "fine-tuned": {"encoder.frozen": False, "encoder.rate_scale": 0.1},  # new classes at the full rate
        "frozen": {"encoder.frozen": True, "encoder.rate_scale": 1.0},
        "from scratch": {"encoder.init": None, "encoder.frozen": False, "encoder.rate_scale": 1.0},
    },
    parameters={"data.fraction": tune.grid_search([0.1, 0.2, 0.5, 1.0])},
    metric="eer",
    searcher="grid",
)
