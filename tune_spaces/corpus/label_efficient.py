"""Label-efficient fine-tuning on a small real corpus: four shares of labels, three ways each; 12 trials.

Command   sslsv tune tune_spaces/corpus/label_efficient.py data.root=CORPUS encoder.init=RUN \
              resources.threads_per_worker=1 resources.data_tasks=1
Data      as configs/corpus/label_efficient.yml; measured on held-out training speakers, the same in all
          trials. Unless RUN has the seed of the sweep, it was trained on their recordings without labels
Hardware  two CPU cores, one trial per core
Report    the metric as a function of data.fraction, one line per way
Result    with train.epochs=20 train.precision=fp32, without the frozen way, three seeds, commit 437df7f, two
          trials at a time, 15 to 28 minutes per sweep: validation EER 19.0 to 16.8 % fine-tuned, 45.5 to
          31.4 % from scratch
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
