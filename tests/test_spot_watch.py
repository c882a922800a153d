"""Test notices of a metadata service on loopback, with a real cluster."""

import datetime
import http.server
import json
import subprocess
import sys
import threading
import time

import pytest
import ray

from deploy.spot_watch import is_spot, main, seconds_left
from sslsv.cluster.connect import cluster_state
from tests.conftest import REPOSITORY
from tests.local_cluster import local_cluster


class Metadata(http.server.BaseHTTPRequestHandler):
    """Imitate the used part of Amazon's service: no entry without a token."""

    def do_PUT(self):
        self.answer("token" if self.path == "/latest/api/token" else None)

    def do_GET(self):
        entry = self.server.entries.get(self.path.removeprefix("/latest/meta-data/"))
        self.answer(entry if self.headers["X-aws-ec2-metadata-token"] == "token" else None)

    def answer(self, text):
        self.send_response(200 if text is not None else 404)
        self.end_headers()
        self.wfile.write((text or "").encode())

    def log_message(self, *_):
        pass


@pytest.fixture
def service():
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Metadata) as server:
        server.entries, server.url = {"instance-life-cycle": "spot"}, f"http://127.0.0.1:{server.server_port}"
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


def notice(seconds):
    at = datetime.datetime.now(datetime.timezone.utc) + datetime.timedelta(seconds=seconds)
    return json.dumps({"action": "terminate", "time": at.strftime("%Y-%m-%dT%H:%M:%SZ")})


def test_seconds_left__is_what_the_notice_leaves_with_a_margin(service):
    assert seconds_left(service.url) is None
    for seconds, expected in ((60, 49), (1000, 110), (-5, 1)):
        service.entries["spot/instance-action"] = notice(seconds)
        assert expected - 2 <= seconds_left(service.url) <= expected + 1 and seconds_left(service.url) >= 1
    service.entries["spot/instance-action"] = "a form that is not known"
    assert seconds_left(service.url) == 110


@pytest.mark.parametrize("life_cycle", ["on-demand", None])
def test_main__ends_without_a_word_where_there_is_no_spot_instance(life_cycle, service, capfd):
    service.entries["instance-life-cycle"] = life_cycle
    assert not is_spot(service.url)
    assert main(["127.0.0.1:6379", service.url]) == 0
    assert main(["127.0.0.1:6379", "http://127.0.0.1:1"]) == 0  # nothing answers
    assert capfd.readouterr() == ("", "")


@ray.remote(num_cpus=1)
class Worker:
    def answer(self):
        return True


@pytest.mark.slow
def test_main__has_ray_leave_the_machine_after_a_notice(service):
    with local_cluster(1) as cluster:
        command = (sys.executable, "deploy/spot_watch.py", cluster.address, service.url)
        process = subprocess.Popen(command, cwd=REPOSITORY)
        ray.init(address=cluster.address, log_to_driver=False)
        try:
            worker = Worker.remote()  # an idle machine would leave at once
            assert ray.get(worker.answer.remote())
            time.sleep(6)  # longer than the pause between two requests
            assert process.poll() is None and not cluster_state().leaving
            service.entries["spot/instance-action"] = notice(90)
            assert process.wait(60) == 0
            time.sleep(2)
            assert cluster_state().leaving
        finally:
            process.kill()
            ray.shutdown()
