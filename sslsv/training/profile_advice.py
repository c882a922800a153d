"""What limits a training step, and which setting to change, from a profile."""

from typing import Any

from sslsv.config import Config

# A share of the step below which a part is not worth a change.
MUCH, SOME = 0.15, 0.05


def advice(profile: dict[str, Any], config: Config) -> tuple[str, str]:
    """The bottleneck (a section of the step) and a sentence that names the setting to change.

    `profile` is what `step_profile.profile_steps` returns.  Waiting, communication and reporting come first
    if they take a share worth having: the rest of a step is what training is for.
    """
    seconds: dict[str, float] = profile["seconds"]
    whole = sum(seconds.values())
    share = {name: value / whole for name, value in seconds.items()}
    if share["waiting for data"] > SOME:
        return "waiting for data", _data(profile, config)
    if share["communication"] > MUCH:
        return "communication", (
            "The workers wait for each other's numbers: raise train.batch_size, so that there are fewer "
            "steps, or lower resources.workers."
        )
    if share["reporting"] > SOME:
        every = config.train.log_every_steps
        return "reporting", f"Raise train.log_every_steps, which is {every}."
    if share["transfer"] > MUCH:
        return "transfer", (
            "Batches take long to reach the device: raise train.batch_size, or shorten model.crop_seconds."
        )
    if share["optimizer"] > MUCH:
        return "optimizer", (
            "Each step changes the weights after little work: raise train.batch_size, which is "
            f"{config.train.batch_size}."
        )
    if share["features"] > share["forward"] + share["backward"]:
        return "features", (
            "The spectrograms cost more than the encoder, which is tiny: a wider one (encoder.width) is free."
        )
    largest = max(("forward", "backward"), key=lambda name: seconds[name])
    return largest, _encoder(profile, config)


def _data(profile: dict[str, Any], config: Config) -> str:
    """What makes batches come sooner."""
    data: dict[str, float] = profile["data_seconds"]
    largest = max(data, key=lambda name: data[name])
    sentences = {
        "read and decode": "Pack the corpus once (python -m sslsv.prepare_data pack), set data.root to it: "
        "its crops are read without decoding",
        "room": "Lower the probability of reverb in data.augment, or raise data.bank_cache_mb, which is "
        f"{config.data.bank_cache_mb}, until the spectra of all rooms fit",
        "noise": "Lower data.augment.noise.speech_files, or pack corpus and noises (python -m "
        "sslsv.prepare_data pack)",
        "rest": "Raise resources.utterances_per_block, which is "
        f"{config.resources.utterances_per_block}: blocks of little work are mostly overhead",
    }
    return (
        f"Data processes spend most on: {largest}. {sentences[largest]}; or give the run more processes "
        "(resources.data_tasks, on more CPUs)."
    )


def _encoder(profile: dict[str, Any], config: Config) -> str:
    """What makes the encoder faster: settings first, then hardware."""
    train = config.train
    if train.precision == "fp32" and profile["has_bf16"]:
        return "The encoder is the limit: set train.precision=bf16 (and train.channels_last=true)."
    if not train.channels_last:
        return "The encoder is the limit: set train.channels_last=true."
    if profile["has_gpu"] and not train.compile and train.chunk_size is None:
        return (
            "The encoder is the limit, and a GPU waits for its small operations to be asked for: set "
            "train.compile=true (a minute at the start), or a larger train.batch_size."
        )
    if config.encoder.stem_time_stride == 1 and not profile["has_gpu"]:
        return (
            "The encoder is the limit and runs in its fastest form: encoder.stem_time_stride=2 would halve "
            "its work (another model), more cores or a GPU would do the same work sooner."
        )
    return (
        "The encoder is the limit and runs in its fastest form: only more hardware (resources.workers) makes "
        "it faster."
    )
