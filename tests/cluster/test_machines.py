"""What is free on the machines, and what a controller that was killed had reserved."""

import time

import ray
from ray.util.placement_group import placement_group

from sslsv.cluster.machines import free_what_the_dead_hold, with_added


def test_with_added__machines_that_are_gone_give_nothing_back():
    machines = {"a": {"CPU": 1.0}, "b": {"CPU": 3.0}}
    held = [("a", {"CPU": 2.0}), ("a", {"CPU": 2.0, "GPU": 1.0}), ("gone", {"CPU": 2.0})]
    assert with_added(machines, held) == {"a": {"CPU": 5.0, "GPU": 1.0}, "b": {"CPU": 3.0}}


@ray.remote(num_cpus=0)
class Controller:
    def reserve(self):
        self.group = placement_group([{"CPU": 1}])
        return ray.get(self.group.ready())


def becomes_free(cpus, look=lambda: None):
    """Whether so many CPUs get free, which Ray tells some moments late; `look` is called meanwhile."""
    deadline = time.monotonic() + 20
    while ray.available_resources().get("CPU") != cpus and time.monotonic() < deadline:
        look()
        time.sleep(0.1)
    return ray.available_resources().get("CPU") == cpus


def test_free_what_the_dead_hold__leaves_the_living_alone(ray_session):
    everything = ray.available_resources()["CPU"]
    dead, alive = Controller.remote(), Controller.remote()
    ray.get([dead.reserve.remote(), alive.reserve.remote()])
    assert becomes_free(everything - 2)
    ray.kill(dead)
    assert becomes_free(everything - 1, free_what_the_dead_hold)
    time.sleep(1)
    free_what_the_dead_hold()
    assert ray.get(alive.reserve.remote()) is not None and becomes_free(everything - 2)
    ray.kill(alive)
    assert becomes_free(everything, free_what_the_dead_hold)
