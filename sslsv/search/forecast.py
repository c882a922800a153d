"""What a sweep will cost: the scheduler is run on made-up values, and real steps are timed."""

import heapq
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from sslsv.config import Config
from sslsv.data.pipeline import plain_batches
from sslsv.data.stream import Plan
from sslsv.data.views import ViewMaker
from sslsv.evaluation.trials import open_trial_sets
from sslsv.search.history import History, Outcome
from sslsv.search.schedulers import Scheduler
from sslsv.training.state import build_state, wrap_model
from sslsv.training.step import take_step


@dataclass(frozen=True)
class Forecast:
    """A sweep as it would be if all trials lived and took the same time."""

    legs_to: tuple[int, ...]  # how many legs end at each rung
    epochs: int  # trained by all trials together
    epochs_in_a_row: int  # until the last trial ends: time in epochs


def forecast(scheduler: Scheduler, trials: int, rungs: Sequence[int], at_once: int, seed: int) -> Forecast:
    """Run the scheduler on trials of random but lasting quality, `at_once` at a time."""
    quality = np.random.default_rng(seed).random(trials).tolist()
    history, clock, epochs = History(), 0, 0
    running: list[tuple[int, int, int]] = []  # when a leg ends, trial, rung
    while True:
        busy = {(index, rung) for _, index, rung in running}
        waiting = [leg for leg in history.open_legs() if (leg.index, leg.rung) not in busy]
        if waiting and len(running) < at_once:
            leg = waiting[0]
            before = history.last_outcomes().get(leg.index)
            length = rungs[leg.rung] - (rungs[before.rung] if before else 0)
            epochs += length
            heapq.heappush(running, (clock + length, leg.index, leg.rung))
            continue
        if not waiting and len(running) < at_once:
            decisions = scheduler.decide(history, trials, len(rungs), at_once)
            history.decisions.extend(decisions)
            if decisions:
                continue
        if not running:
            counts = Counter(outcome.rung for outcome in history.outcomes)
            return Forecast(tuple(counts[rung] for rung in range(len(rungs))), epochs, clock)
        clock, index, rung = heapq.heappop(running)
        history.outcomes.append(Outcome(index, rung, "reached", quality[index]))


def seconds_per_epoch(config: Config, has_gpu: bool, threads: int, steps: int = 3) -> float:
    """Time of an epoch without validation, from a few real steps on this machine with a trial's threads.

    Of several workers, which work at the same time, one worker's share of the batches is timed.
    """
    workers = config.resources.most_workers
    device = torch.device("cuda" if has_gpu and torch.cuda.is_available() else "cpu")
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        manifest, _, _ = open_trial_sets(config)
        plan = Plan.of(manifest.speakers, config.data, config.train.batch_size, config.seed)
        state = build_state(config, device)
        maker = ViewMaker(manifest, state.model.view_groups, config.data, config.seed)
        alone = replace(config, train=replace(config.train, compile=False))  # which takes minutes
        network = wrap_model(state.model, alone, device)
        data_seconds, step_seconds = [], []
        for step in range(steps):
            start = time.perf_counter()
            first = step % plan.steps_per_epoch
            batch = next(plain_batches(plan, maker, first, plan.steps_per_epoch, world_size=workers))
            del batch["bad_utterance"], batch["bad_bank_file"]
            data_seconds.append(time.perf_counter() - start)
            start = time.perf_counter()
            numbers = take_step(
                state, network, batch, config=alone, steps_per_epoch=plan.steps_per_epoch, device=device
            )
            float(numbers["loss"].detach())  # waits for the device
            step_seconds.append(time.perf_counter() - start)
    finally:
        torch.set_num_threads(before)
    data, compute = min(data_seconds), min(step_seconds)
    # Beside a GPU data are made meanwhile; on CPUs they take the same cores.
    tasks = max((config.resources.data_tasks or 1) / workers, 1)
    step_time = max(compute, data / tasks) if device.type == "cuda" else compute + data
    return plan.steps_per_epoch * step_time
