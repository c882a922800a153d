"""Simulate machines for `ray up` on one machine: network, process and mount namespaces, each with an sshd."""

import contextlib
import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

NETWORK = "10.213.7"
BRIDGE = "sslsv-br"
ROUTE = f"route add default via {NETWORK}.1"  # leads nowhere; Ray needs it to find its address
HOME, SHARED = "/srv", "/media"  # paths inside a machine: root's home and the shared storage


def reason_not_to_run() -> str | None:
    """Return why namespaces with sshd are unavailable here; None if they are available."""
    if os.geteuid() != 0:
        return "namespaces need root"
    missing = [name for name in ("ip", "unshare", "rsync", "ssh", "ssh-keygen") if not shutil.which(name)]
    if not Path("/usr/sbin/sshd").exists():
        missing.append("sshd")
    if missing:
        return f"not installed: {', '.join(missing)}"
    probe = subprocess.run(
        ["ip", "link", "add", "sslsv-try", "type", "bridge"], capture_output=True, text=True
    )
    if probe.returncode:
        return f"no network bridge can be made here: {probe.stderr.strip()}"
    subprocess.run(["ip", "link", "del", "sslsv-try"], check=True)
    return None


class Machines:
    """Machines `10.213.7.2`, `.3` ... with one root key; each has its own home, /tmp and processes.

    `folder` must not lie below /tmp, which each machine replaces.
    """

    def __init__(self, folder: Path, count: int) -> None:
        self.folder = folder
        self.key = folder / "key"
        self.shared = folder / "shared"
        self.addresses = [f"{NETWORK}.{2 + i}" for i in range(count)]
        self.processes: list[subprocess.Popen[bytes]] = []

    def __enter__(self) -> "Machines":
        self._clear()
        self.shared.mkdir(parents=True)
        Path("/run/sshd").mkdir(exist_ok=True)
        _run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(self.key))
        _run("ip", "link", "add", BRIDGE, "type", "bridge")
        _run("ip", "addr", "add", f"{NETWORK}.1/24", "dev", BRIDGE)
        _run("ip", "link", "set", BRIDGE, "up")
        for i, address in enumerate(self.addresses):
            self._start(f"sslsv-n{i}", address)
        for address in self.addresses:
            self._wait_for(address)
        return self

    def __exit__(self, *error: object) -> None:
        self._clear()
        for process in self.processes:
            process.wait()

    def _clear(self) -> None:
        """Remove these machines, and machines left by a killed test."""
        for i in range(len(self.addresses)):
            name = f"sslsv-n{i}"
            found = subprocess.run(["ip", "netns", "pids", name], capture_output=True, text=True).stdout
            for pid in found.split():
                with contextlib.suppress(ProcessLookupError):  # it ended with its namespace
                    os.kill(int(pid), signal.SIGKILL)
            subprocess.run(["ip", "netns", "del", name], capture_output=True)
            # The kernel removes it only after a moment; until then the next test would find the name in use.
            subprocess.run(["ip", "link", "del", f"sslsv-v-n{i}"], capture_output=True)
        subprocess.run(["ip", "link", "del", BRIDGE], capture_output=True)

    def ssh(self, address: str, line: str) -> subprocess.CompletedProcess[str]:
        """Run a command line on a machine and return the result."""
        settings = ("StrictHostKeyChecking=no", "UserKnownHostsFile=/dev/null", "LogLevel=ERROR")
        options = [f"-o{setting}" for setting in settings]
        command = ["ssh", "-i", str(self.key), *options, f"root@{address}", line]
        return subprocess.run(command, capture_output=True, text=True, timeout=60)

    def _start(self, name: str, address: str) -> None:
        own = self.folder / name
        home, tmp = own / "home", own / "tmp"
        (home / ".ssh").mkdir(parents=True)
        tmp.mkdir(mode=0o1777)
        shutil.copy(f"{self.key}.pub", home / ".ssh/authorized_keys")
        shutil.copy("/etc/skel/.bashrc", home / ".bashrc")  # returns early in shells that are not interactive
        passwd = Path("/etc/passwd").read_text().replace(":/root:", f":{HOME}:", 1)
        (own / "passwd").write_text(passwd)
        # Gloo uses the address of the machine's name, which must not be a loopback address.
        (own / "hosts").write_text(f"127.0.0.1 localhost\n{address} {name}\n")
        _run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(own / "host_key"))
        (own / "sshd_config").write_text(
            f"Port 22\nListenAddress {address}\nHostKey {own}/host_key\nUsePAM no\nStrictModes no\nPidFile none\n"
            f"AuthorizedKeysFile {HOME}/.ssh/authorized_keys\nPermitRootLogin prohibit-password\nMaxStartups 50\n"
        )
        link = name.replace("sslsv", "sslsv-v")
        _run("ip", "netns", "add", name)
        _run("ip", "link", "add", link, "type", "veth", "peer", "name", "eth0", "netns", name)
        _run("ip", "link", "set", link, "master", BRIDGE, "up")
        for command in (f"addr add {address}/24 dev eth0", "link set eth0 up", "link set lo up", ROUTE):
            _run("ip", "-n", name, *command.split())
        script = (
            f"hostname {name} && mount --bind {own}/hosts /etc/hosts && "
            f"mount --bind {own}/passwd /etc/passwd && mount --bind {home} {HOME} && "
            f"mount --bind {self.shared} {SHARED} && mount --bind {tmp} /tmp && "
            f"mount -t tmpfs -o size=1g tmpfs /dev/shm && exec /usr/sbin/sshd -D -e -f {own}/sshd_config"
        )
        inside = ["unshare", "-m", "-u", "-p", "-f", "--kill-child", "--mount-proc", "sh", "-c", script]
        with (own / "sshd.log").open("wb") as log:
            command = ["ip", "netns", "exec", name, *inside]
            self.processes.append(subprocess.Popen(command, stdout=log, stderr=log))

    def _wait_for(self, address: str) -> None:
        for _ in range(50):
            if self.ssh(address, "true").returncode == 0:
                return
            time.sleep(0.2)
        raise RuntimeError(f"no sshd at {address}: {self.ssh(address, 'true').stderr}")


def _run(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True)
