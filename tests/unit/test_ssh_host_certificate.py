# SPDX-License-Identifier: Apache-2.0
"""A host's SSH key certified: what is installed, what sshd serves, whom ssh believes. With a real sshd on loopback where this machine has one."""
from __future__ import annotations

import base64
import json
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from ansible.errors import AnsibleActionFail
from own_files import OwnFiles

from ansible_collections.hnai.platform.plugins.action import ssh_host_proof
from ansible_collections.hnai.platform.plugins.filter.rotation import host_addresses
from ansible_collections.hnai.platform.plugins.module_utils.host import ssh_certificate
from ansible_collections.hnai.platform.plugins.module_utils.host.ssh_certificate import CERTIFICATE, DROP_IN, JOURNAL, CertificateError, HostCertificate, parse
from ansible_collections.hnai.platform.plugins.module_utils.hostfiles import Completed, HostError
from ansible_collections.hnai.platform.plugins.plugin_utils.ssh_access import AccessError
from ansible_collections.hnai.platform.plugins.plugin_utils.ssh_trust import ca_line, served, with_ca

NAMES = ["kafka1", "127.0.0.1"]


def keygen(*argv: str) -> str:
    return subprocess.run(["ssh-keygen", "-q", *argv], check=True, capture_output=True, text=True, timeout=20, stdin=subprocess.DEVNULL).stdout


def key(path: Path) -> str:
    """A new key; its public line."""
    keygen("-t", "ed25519", "-N", "", "-C", "somebody", "-f", str(path))
    return path.with_name(path.name + ".pub").read_text(encoding="utf-8").strip()


def signed(ca: Path, public: Path, serial: int = 7, names: list[str] | None = None, of: tuple[str, ...] = ("-h",), when: str = "-1m:+1h") -> str:
    """A certificate as the CA gives it."""
    shutil.copy(public, public.with_name("asked.pub"))
    named = ",".join(NAMES if names is None else names)
    keygen("-s", str(ca), *of, "-I", "an id", "-n", named, "-V", when, "-z", str(serial), str(public.with_name("asked.pub")))
    return public.with_name("asked-cert.pub").read_text(encoding="utf-8").strip()


class Machine(OwnFiles):
    """A host in a directory. *told*: what sshd -t says."""

    def __init__(self, root: Path) -> None:
        super().__init__(str(root))
        self.ran: list[str] = []
        self.told = Completed(0, b"", b"")

    def run(self, argv: list[str], stdin: bytes | None = None, timeout: float = 60.0) -> Completed:
        self.ran.append(" ".join(argv))
        return self.told if argv[-1] == "-t" else Completed(0, b"", b"")


@pytest.fixture
def site(tmp_path: Path) -> SimpleNamespace:
    """A host with its key, and a CA."""
    root = tmp_path / "host"
    (root / "etc/ssh/sshd_config.d").mkdir(parents=True)
    public = key(root / "etc/ssh/ssh_host_ed25519_key")
    return SimpleNamespace(
        root=root, machine=Machine(root), public=root / "etc/ssh/ssh_host_ed25519_key.pub", line=public, ca=tmp_path / "ca", ca_line=key(tmp_path / "ca")
    )


def test_a_certificate_is_read_as_ssh_keygen_reads_it(site: SimpleNamespace) -> None:
    found = parse(signed(site.ca, site.public, serial=2**63 + 5))
    told = keygen("-L", "-f", str(site.public.with_name("asked-cert.pub")))
    assert f"Serial: {found.serial}" in told and found.serial == 2**63 + 5
    assert found.key == site.line.split()[1] and found.ca == site.ca_line.split()[1]
    assert ssh_certificate.fingerprint(found.ca) in told
    assert (found.principals, found.key_id, found.of_host) == (tuple(NAMES), "an id", True)
    assert abs(found.end - time.time() - 3600) < 120


@pytest.mark.parametrize("line", ["", "ssh-ed25519-cert-v01@openssh.com", "ssh-ed25519-cert-v01@openssh.com AAAA", "ssh-ed25519-cert-v01@openssh.com !"])
def test_what_is_no_certificate_is_refused(line: str) -> None:
    with pytest.raises(CertificateError):
        parse(line)


def test_every_cut_of_a_certificate_is_refused(site: SimpleNamespace) -> None:
    kind, blob = signed(site.ca, site.public).split()[:2]
    raw = base64.b64decode(blob)
    for length in range(len(raw)):
        with pytest.raises(CertificateError):
            parse(f"{kind} {base64.b64encode(raw[:length]).decode()}")


def test_installed_tested_then_reloaded_and_closed(site: SimpleNamespace) -> None:
    work = HostCertificate(site.machine)
    assert work.look()["serial"] == ""
    line = signed(site.ca, site.public)
    assert HostCertificate(site.machine, check=True).install(line, NAMES, site.ca_line, "r1") and not site.machine.ran, "check mode"
    assert work.install(line, NAMES, site.ca_line, "r1")
    assert site.machine.ran == ["/usr/sbin/sshd -t", "systemctl reload ssh.service"]
    assert work.install(line, NAMES, site.ca_line, "r1") and len(site.machine.ran) == 4, "the run is open: a kill may have come before the reload"
    found = work.look()
    assert (found["serial"], found["principals"], found["open"]["new"], found["open"]["old"]) == ("7", NAMES, "7", "")
    assert (site.root / DROP_IN[1:]).read_text().splitlines()[-1] == f"HostCertificate {CERTIFICATE}"
    with pytest.raises(HostError, match="not 8"):
        work.close("8", {})
    assert work.close("7", {"new_served": True})["superseded"] == []
    assert found["line"] == line and not work.install(line, NAMES, site.ca_line, "r1") and len(site.machine.ran) == 4
    assert work.install(signed(site.ca, site.public, serial=9), NAMES, site.ca_line, "r2")
    last = work.close("9", {"new_served": True})
    assert (last["old"], [one["serial"] for one in last["superseded"]]) == ("7", ["7"]) and work.look()["open"] == {}
    assert json.loads((site.root / JOURNAL[1:]).read_text())["last"]["run_id"] == "r2"
    assert work.remove() and not work.remove() and work.look()["serial"] == "" and not (site.root / DROP_IN[1:]).exists()


@pytest.mark.parametrize(("change", "why"), [
    ({"of": ()}, "certifies a user"), ({"names": ["kafka1"]}, "it names kafka1, not"), ({"names": [*NAMES, "kafka2"]}, "it names"),
    ({"when": "-2h:-1h"}, "not valid now"), ({"when": "+1h:+2h"}, "not valid now"),
])  # fmt: skip
def test_what_was_signed_for_another_purpose_is_not_installed(site: SimpleNamespace, change: dict[str, Any], why: str) -> None:
    with pytest.raises(CertificateError, match=why):
        HostCertificate(site.machine).install(signed(site.ca, site.public, **change), NAMES, site.ca_line, "r")
    assert not site.machine.ran and not (site.root / CERTIFICATE[1:]).exists()


def test_another_hosts_key_and_another_ca_are_refused(site: SimpleNamespace, tmp_path: Path) -> None:
    other = tmp_path / "other"
    public = key(other)
    with pytest.raises(CertificateError, match="another key"):
        HostCertificate(site.machine).install(signed(site.ca, other.with_name("other.pub")), NAMES, site.ca_line, "r")
    with pytest.raises(CertificateError, match="another CA"):
        HostCertificate(site.machine).install(signed(site.ca, site.public), NAMES, public, "r")


def test_what_sshd_does_not_take_is_taken_away_again(site: SimpleNamespace) -> None:
    work = HostCertificate(site.machine)
    work.install(signed(site.ca, site.public), NAMES, site.ca_line, "r1")
    before = (site.root / CERTIFICATE[1:]).read_bytes()
    site.machine.ran.clear()
    site.machine.told = Completed(255, b"", b"bad")
    with pytest.raises(HostError, match="sshd was not reloaded"):
        work.install(signed(site.ca, site.public, serial=8), NAMES, site.ca_line, "r2")
    assert site.machine.ran == ["/usr/sbin/sshd -t"] and (site.root / CERTIFICATE[1:]).read_bytes() == before and (site.root / DROP_IN[1:]).exists()


def test_the_line_of_a_ca(site: SimpleNamespace) -> None:
    line = ca_line(site.ca_line, ["b", "a", "fd00::1", "a"])
    assert line == f"@cert-authority a,b,fd00::1 {' '.join(site.ca_line.split()[:2])}"
    old = "pinned ssh-ed25519 AAAA\n@cert-authority x ssh-ed25519 BBBB\n"
    first = with_ca(old, line)
    assert first == old + line + "\n" and with_ca(first, line) == first
    assert with_ca(first, ca_line(site.ca_line, ["c"])).splitlines()[2:] == [ca_line(site.ca_line, ["c"])]
    for names in ([], ["*"], ["a,b"], ["a b"], ["!a"]):
        with pytest.raises(AccessError, match="names and addresses"):
            ca_line(site.ca_line, names)
    with pytest.raises(AccessError, match="public key is none"):
        ca_line("nonsense", ["a"])


def test_the_addresses_of_a_host() -> None:
    assert host_addresses({"hnai_addresses": {"v4": "10.0.0.1", "v6": "fd00::1"}}) == ["10.0.0.1", "fd00::1"]
    assert host_addresses({"hnai_addresses": {"v4": "x"}, "hnai_interfaces": {"a": {"v4": "10.0.0.1"}, "b": {"v4": "10.0.1.1"}}}) == ["10.0.0.1", "10.0.1.1"]


# -- a real server ----------------------------------------------------------------------------------------------------

class Server:
    """sshd on loopback with the host's key."""

    def __init__(self, site: SimpleNamespace, folder: Path) -> None:
        self.site, self.folder = site, folder
        with socket.socket() as one:
            one.bind(("127.0.0.1", 0))
            self.port = int(one.getsockname()[1])
        self.user = folder / "user"
        (folder / "authorized_keys").write_text(key(self.user) + "\n")
        (folder / "config").write_text(
            f"Port {self.port}\nListenAddress 127.0.0.1\nHostKey {site.public.with_suffix('')}\nAuthorizedKeysFile {folder}/authorized_keys\n"
            f"StrictModes no\nUsePAM no\nPidFile {folder}/pid\nPermitRootLogin yes\nInclude {site.root}/etc/ssh/sshd_config.d/*.conf\n"
        )
        (folder / "known_hosts").write_text(f"[127.0.0.1]:{self.port} {' '.join(site.line.split()[:2])}\n")
        Path("/run/sshd").mkdir(exist_ok=True)
        self.process = subprocess.Popen(["/usr/sbin/sshd", "-D", "-f", str(folder / "config"), "-E", str(folder / "log")])
        self.answers()

    def answers(self) -> None:
        end = time.monotonic() + 20
        while time.monotonic() < end:
            try:
                with socket.create_connection(("127.0.0.1", self.port), 1) as one:
                    if one.recv(4) == b"SSH-":
                        return
            except OSError:
                time.sleep(0.1)
        raise AssertionError((self.folder / "log").read_text())

    def reload(self) -> None:
        self.process.send_signal(signal.SIGHUP)
        time.sleep(0.3)
        self.answers()

    def argv(self, known_hosts: str) -> list[str]:
        return ["ssh", "-F", "none", "-p", str(self.port), "-i", str(self.user), "-o", "IdentityAgent=none", "-o", f"UserKnownHostsFile={known_hosts}",
                "-o", "StrictHostKeyChecking=yes", "-o", "BatchMode=yes", "root@127.0.0.1"]  # fmt: skip

    def proof(self, **args: Any) -> dict[str, Any]:
        """The action, as a task on this host runs it."""
        options = {"host": "127.0.0.1", "port": self.port, "remote_user": "root", "private_key_file": str(self.user),
                   "ssh_common_args": f"-F none -o IdentityAgent=none -o UserKnownHostsFile={self.folder}/known_hosts"}  # fmt: skip
        made = ssh_host_proof.ActionModule.__new__(ssh_host_proof.ActionModule)
        made._task = SimpleNamespace(args=args, check_mode=False, async_val=0)
        made._connection = SimpleNamespace(transport="ssh", get_option=options.get)
        return made.run(None, {})


@pytest.fixture
def server(site: SimpleNamespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setattr(ssh_host_proof.ActionBase, "run", lambda self, tmp=None, task_vars=None: {})
    made = Server(site, tmp_path)

    def run(argv: list[str], stdin: bytes | None = None, timeout: float = 60.0) -> Completed:
        if argv[-1] == "-t":
            done = subprocess.run([*argv, "-f", str(tmp_path / "config")], capture_output=True, check=False, timeout=20)
            return Completed(done.returncode, done.stdout, done.stderr)
        made.reload()
        return Completed(0, b"", b"")

    site.machine.run = run
    # The drop-in names the file by its place on a host.
    monkeypatch.setattr(ssh_certificate, "TEXT", f"HostCertificate {site.root}{CERTIFICATE}\n")
    yield made
    made.process.terminate()
    made.process.wait(10)


@pytest.mark.sshd
def test_a_real_sshd_serves_it_and_sessions_live_on(site: SimpleNamespace, server: Server) -> None:
    names = ["127.0.0.1", "kafka1"]
    with subprocess.Popen([*server.argv(f"{server.folder}/known_hosts"), "echo up; cat"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as session:
        assert session.stdin is not None and session.stdout is not None
        assert session.stdout.readline() == "up\n"
        with pytest.raises(AnsibleActionFail, match="serves no certificate, not 7"):
            server.proof(state="proven", ca=site.ca_line, serial="7")
        work = HostCertificate(site.machine)
        work.install(signed(site.ca, site.public, names=names), names, site.ca_line, "r1")
        assert server.proof(state="proven", ca=site.ca_line, serial="7")["proof"] == {"new_served": True, "wrong_refused": True, "serial": "7"}
        work.install(signed(site.ca, site.public, serial=8, names=names), names, site.ca_line, "r2")
        with pytest.raises(AnsibleActionFail, match="serves the certificate 8, not 7"):
            server.proof(state="proven", ca=site.ca_line, serial="7")
        assert server.proof(state="proven", ca=site.ca_line, serial="8")["proof"]["new_served"]
        session.stdin.write("still here\n")
        session.stdin.close()
        assert session.stdout.readline() == "still here\n", "a reload ended a session"
    with pytest.raises(AnsibleActionFail, match="to who trusts the CA alone"):
        server.proof(state="proven", ca=key(server.folder / "another"), serial="8")


@pytest.mark.sshd
def test_a_certificate_without_the_hosts_name_is_not_believed_and_the_pinned_key_still_is(site: SimpleNamespace, server: Server) -> None:
    HostCertificate(site.machine).install(signed(site.ca, site.public, names=["kafka2"]), ["kafka2"], site.ca_line, "r1")
    with pytest.raises(AnsibleActionFail, match="to who trusts the CA alone"):
        server.proof(state="proven", ca=site.ca_line, serial="7")
    trusted = server.folder / "known_hosts_ca"
    assert server.proof(state="trusted", ca=site.ca_line, names=["127.0.0.1"], known_hosts=str(trusted))["changed"]
    assert not server.proof(state="trusted", ca=site.ca_line, names=["127.0.0.1"], known_hosts=str(trusted))["changed"]
    both = subprocess.run([*server.argv(f"{server.folder}/known_hosts {trusted}"), "true"], check=False, capture_output=True, text=True, timeout=30)
    assert both.returncode == 0, both.stderr


def test_what_ssh_says_of_a_served_certificate() -> None:
    said = (
        'debug1: Server host certificate: ssh-ed25519-cert-v01@openssh.com SHA256:a+b/c, serial 18446744073709551615 ID "serial 1 CA x" '
        "CA ssh-ed25519 SHA256:d valid from 2026-11-26T17:00:00 to 2027-02-24T17:00:00\n"
    )
    assert served(said) == ("18446744073709551615", "SHA256:d")
    assert served("debug1: Server host key: ssh-ed25519 SHA256:x\n") == ("", "")


@pytest.mark.parametrize(("second", "why"), [((True, ""), "was believed"), ((False, "no answer in time"), "was not refused")])
def test_a_foreign_ca_that_is_believed_or_not_judged_is_no_proof(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, second: tuple[bool, str], why: str) -> None:
    ca = key(tmp_path / "ca")
    said = "debug1: Server host certificate: x SHA256:a, serial 7 ID \"i\" CA ssh-ed25519 SHA256:d valid forever"
    answers = [(True, said), second]
    monkeypatch.setattr(ssh_host_proof, "login", lambda *_args: answers.pop(0))
    monkeypatch.setattr(ssh_host_proof.ActionBase, "run", lambda self, tmp=None, task_vars=None: {})
    made = ssh_host_proof.ActionModule.__new__(ssh_host_proof.ActionModule)
    made._task = SimpleNamespace(args={"state": "proven", "ca": ca, "serial": "7"}, check_mode=False, async_val=0)
    made._connection = SimpleNamespace(transport="ssh", get_option={"host": "127.0.0.1", "ssh_common_args": "-F none"}.get)
    with pytest.raises(AnsibleActionFail, match=why):
        made.run(None, {})
    assert not answers
