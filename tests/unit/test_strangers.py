# SPDX-License-Identifier: Apache-2.0
"""What nobody declared and that decides who comes in, who becomes root or what runs: each is named, and a host as Debian leaves it has none."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import pytest
from own_files import KeptOwners

from ansible_collections.hnai.platform.plugins.module_utils.host.strangers import Declared, declared, found
from ansible_collections.hnai.platform.plugins.module_utils.hostfiles import Completed, HostError

KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAI" + "A" * 43
FINGERPRINT = "ssh-ed25519 SHA256:"
NFT = "flush ruleset\n"


def pem(content: str) -> str:
    return f"-----BEGIN CERTIFICATE-----\n{base64.b64encode(content.encode()).decode()}\n-----END CERTIFICATE-----\n"


ROOT = pem("the site's root")
OURS = "PermitRootLogin no\nAuthorizedKeysFile .ssh/authorized_keys /etc/ssh/authorized_keys/%u\n"
UNITS = ("hnai-kafka.service", "hnai-telegraf-bridge.service")
FILES = {
    "etc/passwd": "root:x:0:0:root:/root:/bin/bash\nrun:x:1000:1000::/srv/run:/bin/bash\nada:x:2001:2001::/srv/ada:/bin/bash\n"
    "www-data:x:33:33::/var/www:/usr/sbin/nologin\nsync:x:4:65534::/bin:/bin/sync\n",
    "etc/group": "root:x:0:\nadm:x:4:ada\nsudo:x:27:run\nshadow:x:42:\nrun:x:1000:\n",
    "etc/hnai/kafka/tls/ca.pem": ROOT,
    "etc/hostname": "kafka1\n",
    "etc/hosts": "127.0.0.1 localhost\n127.0.1.1 kafka1\n# BEGIN hnai.platform: hosts of the site\n10.0.0.1 kafka1\nfd00::1 kafka1\n10.0.0.2 kafka2\n"
    "# END hnai.platform: hosts of the site\n10.0.0.2 kafka2\n",
    "etc/nftables.conf": NFT,
    "etc/default/ssh": "# Options to pass to sshd\nSSHD_OPTS=\n",
    "etc/ssh/sshd_config": "Include /etc/ssh/sshd_config.d/*.conf\nUsePAM yes\nSubsystem\tsftp\t/usr/lib/openssh/sftp-server\n#Match User anoncvs\n",
    "etc/ssh/sshd_config.d/10-hnai.conf": OURS,
    "etc/ssh/sshd_config.d/20-hnai-host-certificate.conf": "HostCertificate /x\n",
    "etc/ssh/authorized_keys/ada": KEY + "\n",
    "srv/run/.ssh/authorized_keys": KEY + "\n",
    "etc/sudoers": "# User privilege specification\nDefaults\tenv_reset\nroot\tALL=(ALL:ALL) ALL\n%sudo\tALL=(ALL:ALL) ALL\n\n@includedir /etc/sudoers.d\n",
    "etc/sudoers.d/README": "#\n# As of Debian version 1.7.2p1-1\n",
    "etc/sudoers.d/run": "run ALL=(ALL) NOPASSWD: ALL\n",
    "etc/sudoers.d/hnai-ada": "ada ALL=(ALL) NOPASSWD: ALL\n",
    "etc/systemd/system/hnai-kafka.service": "[Service]\n",
    "etc/systemd/system/hnai-telegraf-bridge.service": "[Service]\n",
    "etc/systemd/system/site.service": "[Unit]\nDescription=Of the site's own\n[Service]\nExecStart=/opt/site/hnai-kafka-exporter\n",
    "etc/systemd/journald.conf.d/hnai.conf": "",
    "usr/bin/java": "",
    "usr/local/bin/site-tool": "",
    "var/lib/hnai/trees/kafka.json": json.dumps({"files": ["/etc/systemd/system/" + name for name in UNITS], "directories": []}),
    "var/lib/hnai/trees/host.json": json.dumps({"files": ["/etc/systemd/journald.conf.d/hnai.conf", "/etc/sysctl.d/99-zz-hnai.conf"], "directories": []}),
    "etc/sysctl.d/99-zz-hnai.conf": "-net.ipv4.conf.all.accept_redirects = 0\n-kernel.kptr_restrict = 2\n",
    "usr/lib/sysctl.d/99-protect-links.conf": "kernel.kptr_restrict = 0\n",
    "etc/sysctl.d/zz-hidden.conf": "",
    "usr/lib/sysctl.d/zz-hidden.conf": "kernel.kptr_restrict = 0\n",
    "usr/lib/sysctl.d/zz-pattern.conf": "net.ipv4.conf.*.accept_redirects = 1\nfs.protected_fifos = 1\n",
}


class Machine(KeptOwners):
    """A host below a folder; `obeyed` is what sshd -T says."""

    def __init__(self, root: Path) -> None:
        super().__init__(str(root))
        self.obeyed = "port 22\npermitrootlogin no\nauthorizedkeysfile .ssh/authorized_keys /etc/ssh/authorized_keys/%u\nauthorizedkeyscommand none\n"
        self.rc = 0
        self.ends: dict[str, int] = {}
        self.environment = "LANG=C.UTF-8\nPATH=/usr/sbin:/usr/bin\nMY_LD_X=1\n"

    def run(self, argv: list[str], stdin: bytes | None = None, timeout: float = 60.0) -> Completed:
        if argv[0] in self.ends:
            return Completed(self.ends[argv[0]], b"", b"")
        if argv[0] == "dpkg-query":
            return Completed(0, f" /etc/nftables.conf {hashlib.md5(NFT.encode(), usedforsecurity=False).hexdigest()}\n".encode(), b"")
        if argv == ["systemctl", "show-environment"]:
            return Completed(0, self.environment.encode(), b"")
        assert argv == ["/usr/sbin/sshd", "-T"]
        return Completed(self.rc, self.obeyed.encode(), b"Bad configuration option: x")


@pytest.fixture
def host(tmp_path: Path) -> Machine:
    for path, text in FILES.items():
        put(tmp_path, path, text)
    return Machine(tmp_path)


def put(root: Path, path: str, text: str) -> None:
    (root / path).parent.mkdir(parents=True, exist_ok=True)
    (root / path).write_text(text)


@pytest.mark.parametrize(("command", "code"), [("systemctl", 1), ("systemctl", -9), ("dpkg-query", 2), ("/usr/sbin/sshd", 0), ("/usr/sbin/sshd", 255)])
def test_a_command_that_failed_has_not_said_that_nothing_is_there(host: Machine, command: str, code: int) -> None:
    host.ends[command] = code
    with pytest.raises(HostError):
        look(host)


def look(host: Machine, *ignore: str) -> list[str]:
    return found(host, Declared("run", ["ada"], ignore, ROOT))


def test_a_host_as_debian_and_this_role_leave_it_has_no_stranger(host: Machine) -> None:
    assert look(host) == []


def test_a_bare_host_has_none_either(tmp_path: Path) -> None:
    host = Machine(tmp_path)
    host.rc = 127
    assert look(host) == []


def test_an_authority_that_is_not_the_sites(host: Machine) -> None:
    place, hers = Path(host.at("/etc/hnai/kafka/tls/ca.pem")), hashlib.sha256(b"hers").hexdigest()
    place.write_text(ROOT + "text\n" + pem("hers") + "-----BEGIN CERTIFICATE-----\n?\n-----END CERTIFICATE-----\n")
    said = [f"/etc/hnai/kafka/tls/ca.pem: trusts an authority that is not the site's (SHA-256 {one}…)" for one in (hers[:32], "unreadable")]
    assert look(host) == said
    assert found(host, Declared("run", ["ada"], (), ROOT + pem("hers"))) == said[1:], "while a root is being replaced there are two"
    assert found(host, Declared("run", ["ada"])) == [], "nobody has told which are"


def test_what_sshd_does_not_say_is_not_taken_for_well(host: Machine) -> None:
    host.rc = 255
    with pytest.raises(HostError, match=r"sshd_config: sshd -T does not say what it obeys: Bad configuration"):
        look(host)


def added(path: str, text: str) -> Callable[[Machine], None]:
    return lambda host: put(Path(host.root), path, FILES.get(path, "") + text)


def obeys(line: str) -> Callable[[Machine], None]:
    return lambda host: setattr(host, "obeyed", line + "\n" + host.obeyed)


PLANTS = [
    (added("root/.ssh/authorized_keys", f"# mine\n{KEY} eve\n"), "/root/.ssh/authorized_keys: opens the host for root: ssh-ed25519 SHA256:"),
    (added("root/.ssh/authorized_keys2", f'command="x" {KEY}\n'), '/root/.ssh/authorized_keys2: opens the host for root: command="x" ssh-ed25519'),
    (added("srv/run/.ssh/authorized_keys2", f"{KEY} eve\n"), "/srv/run/.ssh/authorized_keys2: opens the host for run"),
    (added("srv/ada/.ssh/authorized_keys", f"{KEY}\n"), "/srv/ada/.ssh/authorized_keys: opens the host for ada"),
    (added("var/www/.ssh/authorized_keys", f"{KEY}\n"), "/var/www/.ssh/authorized_keys: opens the host for www-data"),
    (obeys("permitrootlogin yes"), "/etc/ssh/sshd_config: permitrootlogin is yes, not no: a file that is read before"),
    (obeys("authorizedkeyscommand /usr/local/bin/keys"), "/etc/ssh/sshd_config: authorizedkeyscommand is /usr/local/bin/keys, not none"),
    (obeys("trustedusercakeys /etc/ssh/ca.pub"), "/etc/ssh/sshd_config: trustedusercakeys is /etc/ssh/ca.pub, not none"),
    (added("etc/ssh/sshd_config.d/00-eve.conf", "Banner none\n"), "/etc/ssh/sshd_config.d/00-eve.conf: is read before /etc/ssh/sshd_config.d/10-hnai.conf"),
    (added("etc/ssh/sshd_config.d/99-eve.conf", "Match User eve\n PermitRootLogin yes\n"), "/etc/ssh/sshd_config.d/99-eve.conf: match User eve"),
    (added("etc/ssh/sshd_config", "Include=/tmp/eve.conf\n"), "/etc/ssh/sshd_config: include /tmp/eve.conf"),
    (added("etc/default/ssh", 'SSHD_OPTS="-o PermitRootLogin=yes"\n'), "/etc/default/ssh: sshd is started with -o PermitRootLogin=yes"),
    (added("etc/sudoers", "eve ALL=(ALL) \\\n NOPASSWD: ALL\n"), "/etc/sudoers: eve ALL=(ALL) NOPASSWD: ALL"),
    (added("etc/sudoers", "Defaults !authenticate\n"), "/etc/sudoers: Defaults !authenticate"),
    (added("etc/sudoers.d/eve", "#1000 ALL=(ALL) ALL\n"), "/etc/sudoers.d/eve: #1000 ALL=(ALL) ALL"),
    (added("etc/sudoers.d/run", "ada ALL=(ALL) ALL\n"), "/etc/sudoers.d/run: ada ALL=(ALL) ALL"),
    (added("etc/sudoers.d/more", "#include /tmp/more\n"), "/etc/sudoers.d/more: #include /tmp/more"),
    (added("etc/passwd", "toor:x:0:3000::/root:/bin/sh\n"), "/etc/passwd: toor has the number of root (0) and is that user"),
    (added("etc/passwd", "eve:x:3000:27::/:/bin/sh\n"), "/etc/group: eve is in sudo"),
    (added("etc/group", "docker:x:999:ada\n"), "/etc/group: ada is in docker"),
    (added("etc/group", "systemd-journal:x:999:ada,eve\n"), "/etc/group: eve is in systemd-journal"),
    (added("etc/ld.so.preload", "/usr/lib/evil.so\n"), "/etc/ld.so.preload: every program loads /usr/lib/evil.so"),
    (added("etc/systemd/system.conf.d/x.conf", ""), "/etc/systemd/system.conf.d/x.conf: systemd takes it for every unit"),
    (added("etc/systemd/journald.conf.d/zz.conf", "[Journal]\nStorage=none\n"), "/etc/systemd/journald.conf.d/zz.conf: says what the journal keeps, too"),
    (added("run/systemd/system-generators/x", ""), "/run/systemd/system-generators/x: systemd takes it for every unit"),
    (lambda host: setattr(host, "environment", "JAVA_TOOL_OPTIONS=-x\n"), "systemctl set-environment: every unit is started with JAVA_TOOL"),
    (added("usr/local/lib/python3.13/dist-packages/x.pth", ""), "/usr/local/lib/python3.13/dist-packages/x.pth: every Python of the host runs it"),
    (added("usr/local/bin/java", ""), "/usr/local/bin/java: is found before /usr/bin/java"),
    (added("etc/nftables.conf", "table inet own {}\n"), "/etc/nftables.conf: is not the package's"),
    (added("etc/systemd/system/service.d/x.conf", ""), "/etc/systemd/system/service.d/x.conf: is a drop-in of our units, too"),
    (added("run/systemd/system/hnai-telegraf-.service.d/x.conf", ""), "/run/systemd/system/hnai-telegraf-.service.d/x.conf: is a drop-in of our units"),
    (added("etc/systemd/system.control/hnai-kafka.service", ""), "/etc/systemd/system.control/hnai-kafka.service: stands above the unit of ours"),
    (added("etc/systemd/system/hnai-kafka.service.wants/eve.service", ""), "/etc/systemd/system/hnai-kafka.service.wants/eve.service: is started with"),
    (added("etc/systemd/system/eve.timer", "[Unit]\nConflicts=hnai-kafka.service\n"), "/etc/systemd/system/eve.timer: a unit of nobody that names hnai-kafka"),
    (added("etc/systemd/system/eve.service", "ExecStop=x hnai-kafka\n"), "/etc/systemd/system/eve.service: a unit of nobody that names hnai-kafka"),
    (added("etc/systemd/system/multi-user.target.d/x.conf", "Conflicts=hnai-kafka.service\n"), "/etc/systemd/system/multi-user.target.d/x.conf: a unit of"),
    (added("run/sysctl.d/zz-x.conf", "net/ipv4/conf/all/accept_redirects=1\n"), "/run/sysctl.d/zz-x.conf: net.ipv4.conf.all.accept_redirects is 1 from"),
    (added("etc/hosts", "10.9.9.9 kafka2\n"), "/etc/hosts: kafka2 is 10.9.9.9 in a line outside of our block"),
    (
        lambda host: put(Path(host.root), "etc/hosts", "# Your system has configured 'manage_etc_hosts' as True.\n" + FILES["etc/hosts"]),
        "/etc/hosts: cloud-init writes it anew at every start",
    ),
]  # fmt: skip


@pytest.mark.parametrize(("plant", "said"), PLANTS, ids=[said.partition(": ")[0] for _, said in PLANTS])
def test_each_stranger_is_named_and_the_site_may_want_it(host: Machine, plant: Callable[[Machine], None], said: str) -> None:
    plant(host)
    sentences = look(host)
    assert len(sentences) == 1, sentences
    assert sentences[0].startswith(said)
    assert look(host, said.partition(": ")[0] + "*") == []


def test_who_runs_is_who_became_root_where_nobody_says_it(host: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    given = {"user": "", "operators": ["ada"], "foreign_ignore": []}
    monkeypatch.setenv("SUDO_USER", "run")
    assert found(host, declared(given)) == []
    assert declared({**given, "user": "other"}).user == "other"
    monkeypatch.delenv("SUDO_USER")
    assert "/etc/sudoers.d/run: run ALL=(ALL) NOPASSWD: ALL" in found(host, declared(given))


def test_what_cannot_be_read_is_told(host: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    (Path(host.root) / "root/.ssh/authorized_keys").mkdir(parents=True)
    assert look(host) == [], "a directory opens nothing"
    put(Path(host.root), "root/.ssh/authorized_keys2", KEY)
    at = host.at
    monkeypatch.setattr(host, "at", lambda path: "/proc/self/mem" if path.endswith("keys2") and "root" in path else at(path))
    assert look(host) == ["/root/.ssh/authorized_keys2: cannot be read: Input/output error"]
