"""A real two-node SLURM cluster on this machine, from Debian's packages, for the length of a test session.

Everything lies in one folder; nothing under /etc is touched. Each slurmd runs in its own UTS and mount namespaces, so
that jobs see different host names. The lines and their reasons: shared/research/cluster.md §1.
"""

import os
import shutil
import signal
import socket
import subprocess
import time
from pathlib import Path

DAEMONS = ("munged", "slurmctld", "slurmd")
NODES = ("node1", "node2")


def available() -> bool:
    """Whether the daemons are installed and this user may make namespaces."""
    return all(shutil.which(name, path=os.environ["PATH"] + ":/usr/sbin") for name in DAEMONS) and os.geteuid() == 0


class SlurmCluster:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.env = {**os.environ, "SLURM_CONF": str(folder / "slurm.conf"), "PATH": os.environ["PATH"] + ":/usr/sbin"}
        self._daemons: list[subprocess.Popen[bytes]] = []

    def start(self) -> None:
        for name in ("state", *(f"spool-{node}" for node in NODES)):
            (self.folder / name).mkdir(parents=True)
        key = self.folder / "munge.key"
        key.write_bytes(os.urandom(128))
        key.chmod(0o400)
        ports = _free_ports(3)
        (self.folder / "hosts").write_text("127.0.0.1 localhost node1 node2\n")
        (self.folder / "slurm.conf").write_text(self._configuration(ports))
        place = self.folder
        self._daemon(
            ["munged", "-F", f"--key-file={key}", f"--socket={place}/munge.socket", f"--pid-file={place}/munged.pid",
             f"--log-file={place}/munged.log", f"--seed-file={place}/munged.seed", "--force"]
        )  # fmt: skip
        _wait(lambda: (place / "munge.socket").exists(), "munged")
        self._daemon(["slurmctld", "-D"])
        for node in NODES:
            script = f"mount --bind {place}/hosts /etc/hosts && hostname {node} && exec slurmd -D -N {node}"
            self._daemon(["unshare", "--uts", "--mount", "sh", "-c", script])
        _wait(lambda: self.command("sinfo", "-h", "-o", "%t %D").split() == ["idle", "2"], "two idle nodes")

    def stop(self) -> None:
        for daemon in reversed(self._daemons):
            daemon.send_signal(signal.SIGTERM)
        for daemon in self._daemons:
            try:
                daemon.wait(10)
            except subprocess.TimeoutExpired:
                daemon.kill()
                daemon.wait()

    def command(self, *words: str, cwd: Path | None = None) -> str:
        done = subprocess.run(words, env=self.env, cwd=cwd, capture_output=True, text=True, check=False)
        return done.stdout

    def state(self, job: str) -> str:
        """Such as RUNNING, COMPLETED, FAILED."""
        return self.command("scontrol", "-o", "show", "job", job).partition("JobState=")[2].partition(" ")[0]

    def wait_for(self, job: str, *, seconds: float) -> str:
        """The job's state once it has ended."""
        end = time.monotonic() + seconds
        while self.state(job) in ("PENDING", "CONFIGURING", "RUNNING", "COMPLETING") and time.monotonic() < end:
            time.sleep(0.5)
        return self.state(job)

    def _daemon(self, words: list[str]) -> None:
        with (self.folder / f"{len(self._daemons)}-{words[0]}.out").open("w") as log:
            self._daemons.append(subprocess.Popen(words, env=self.env, stdout=log, stderr=subprocess.STDOUT))

    def _configuration(self, ports: list[int]) -> str:
        controller, *nodes = ports
        place = self.folder
        lines = [
            "ClusterName=frostline",
            "SlurmctldHost=localhost(127.0.0.1)",
            f"SlurmctldPort={controller}",
            "SlurmUser=root",
            "AuthType=auth/munge",
            f"AuthInfo=socket={place}/munge.socket,cred_expire=5",
            "CommunicationParameters=NoInAddrAny,NoCtldInAddrAny",
            "ProctrackType=proctrack/linuxproc",
            "TaskPlugin=task/none",
            "JobAcctGatherType=jobacct_gather/none",
            "SchedulerParameters=batch_sched_delay=0,sched_min_interval=0,sched_interval=2,bf_interval=1",
            "SlurmdParameters=config_overrides",
            "ReturnToService=2",
            "MinJobAge=3600",
            "MpiDefault=none",
            f"StateSaveLocation={place}/state",
            f"SlurmdSpoolDir={place}/spool-%n",
            f"SlurmctldPidFile={place}/slurmctld.pid",
            f"SlurmdPidFile={place}/slurmd-%n.pid",
            f"SlurmctldLogFile={place}/slurmctld.log",
            f"SlurmdLogFile={place}/slurmd-%n.log",
            *(
                f"NodeName={name} NodeHostname={name} NodeAddr=127.0.0.1 Port={port} CPUs=2 RealMemory=4000"
                for name, port in zip(NODES, nodes, strict=True)
            ),
            f"PartitionName=main Nodes={','.join(NODES)} Default=YES MaxTime=INFINITE State=UP",
        ]
        return "\n".join(lines) + "\n"


def _free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    try:
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]
    finally:
        for each in sockets:
            each.close()


def _wait(ready: object, what: str, *, seconds: float = 30) -> None:
    assert callable(ready)
    end = time.monotonic() + seconds
    while not ready():
        if time.monotonic() > end:
            raise TimeoutError(f"no {what} within {seconds} s")
        time.sleep(0.1)
