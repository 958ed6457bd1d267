# SPDX-License-Identifier: Apache-2.0
"""The rotation of the certificate authorities against a model: kills, lost answers, late messages, several controllers, ordinary runs in between.

A controller makes the calls that playbooks/parts/rotate/authority.yml makes. After every operation the invariants are looked at:

* every client's bundle accepts what every listener serves, and what would be signed now: no instant of outage;
* nothing that is served was issued by an authority that is on a revocation list;
* OpenBao has an authority that signs.

The authorities are the real adapter (`Pki`) on top of an OpenBao in memory that answers as 2.7.2 does. Once more with a root of the site's own, whose
CA answers a request when it pleases; `pki/root` then takes over its next root.
"""
from __future__ import annotations

import base64
import random
from collections.abc import Callable, Mapping
from typing import Any

import pytest

from ansible_collections.hnai.platform.plugins.module_utils.openbao import authority
from ansible_collections.hnai.platform.plugins.module_utils.openbao.authority import INTERMEDIATE, RETIRED, ROOT, SCOPES, Authority, Pki
from ansible_collections.hnai.platform.plugins.module_utils.openbao.client import BaoError, NotFound
from ansible_collections.hnai.platform.plugins.module_utils.openbao.rotation import BACK, COMMITTED, Busy, Conflict, RotationError, View

HOSTS = ("edge1", "kafka1", "sec1")


class Killed(BaseException):
    """The controller is dead."""


class NoAnswer(Exception):
    """The request or its answer was lost; the controller gives up."""


def pem(text: str) -> str:
    """A certificate that is a name."""
    return "-----BEGIN CERTIFICATE-----\n%s\n-----END CERTIFICATE-----" % base64.b64encode(text.encode()).decode()


class Bao:
    """Two PKI mounts. An issuer is {pem, name, key, usage, revoked, parent}; ids are numbers as text."""

    def __init__(self, theirs: bool = False) -> None:
        self.count = 0
        self.issuers: dict[str, dict[str, dict[str, Any]]] = {"r": {}, "i": {}}
        self.keys: dict[str, str] = {}
        self.default = {"r": "", "i": ""}
        self.listed: set[str] = set()
        self.default["r"] = self._issuer("r", "root", "" if theirs else "k-root", "")
        self.default["i"] = self._issuer("i", "", "k-int", self.default["r"])

    def _issuer(self, mount: str, name: str, key: str, parent: str) -> str:
        self.count += 1
        issuer = "id-%d" % self.count
        self.issuers[mount][issuer] = {
            "certificate": pem(issuer), "issuer_name": name, "key_id": key, "usage": "issuing-certificates,crl-signing", "revoked": False,
            "parent": parent and pem(parent),
        }  # fmt: skip
        return issuer

    def _known(self, mount: str, certificate: str) -> str:
        return next((key for key, item in self.issuers[mount].items() if item["certificate"].strip() == certificate.strip()), "")

    def _find(self, mount: str, ref: str) -> dict[str, Any]:
        for issuer, item in self.issuers[mount].items():
            if ref in (issuer, item["issuer_name"]):
                return dict(item, issuer_id=issuer)
        raise NotFound("GET", ref, 404, [])

    def root_of(self, issuer: str) -> str:
        return self._known("r", self.issuers["i"][issuer]["parent"])

    def call(self, method: str, path: str, body: Mapping[str, Any] | None = None, token: str | None = None, wrap_ttl: str | None = None) -> dict[str, Any]:
        mount, rest = path[0], path[2:]
        body = dict(body or {})
        parts = rest.split("/")
        data: dict[str, Any] = {}
        if (method, rest) == ("LIST", "issuers"):
            data = {"key_info": {key: dict(item) for key, item in self.issuers[mount].items()}}
        elif (method, rest) == ("LIST", "keys"):
            data = {"key_info": {key: {"key_name": name} for key, name in self.keys.items()}}
        elif rest == "config/issuers":
            if method == "POST":
                try:
                    self.default[mount] = self._find(mount, body["default"])["issuer_id"]
                except NotFound as error:
                    raise BaoError(method, path, 400, ["unable to find issuer"]) from error
            data = {"default": self.default[mount]}
        elif rest == "crl/rotate":
            data = {}
        elif rest == "revoke":
            issuer = self._known("i", body["certificate"])
            if not self.issuers["r"][self.root_of(issuer)]["key_id"]:
                raise BaoError(method, path, 500, ["unable to verify signature on presented cert from any present issuer in this mount"])
            self.listed.add(issuer)
        elif rest == "issuers/import/cert":
            issuer = self._known(mount, body["pem_bundle"])
            if not issuer:
                issuer = self._issuer(mount, "", "", "")
                self.issuers[mount][issuer]["certificate"] = body["pem_bundle"]
            data = {"mapping": {issuer: ""}}
        elif rest == "root/rotate/internal":
            if any(item["issuer_name"] == body["issuer_name"] for item in self.issuers[mount].values()):
                raise BaoError(method, path, 400, ["issuer name already in use"])
            data = {"issuer_id": self._issuer(mount, body["issuer_name"], body["key_name"], "")}
        elif rest == "intermediate/generate/internal":
            if body["key_name"] in self.keys.values():
                raise BaoError(method, path, 400, ["key name already in use"])
            self.count += 1
            self.keys["key-%d" % self.count] = body["key_name"]
            data = {"csr": "key-%d" % self.count, "key_id": "key-%d" % self.count}
        elif rest == "intermediate/generate/existing":
            data = {"csr": body["key_ref"], "key_id": body["key_ref"]}
        elif parts[0] == "issuer" and parts[-1] == "sign-intermediate":
            parent = self._find(mount, parts[1])
            if "issuing" not in parent["usage"]:
                raise BaoError(method, path, 400, ["issuer may not sign"])
            data = {"certificate": "%s under %s" % (body["csr"], parent["issuer_id"]), "issuing_ca": parent["certificate"]}
        elif rest == "intermediate/set-signed":
            key, named = body["certificate"].split("\n")[0].split(" under ")
            there = [issuer for issuer, item in self.issuers[mount].items() if item["key_id"] == key and item["parent"] == pem(named)]
            issuer = there[0] if there else self._issuer(mount, "", key, named)
            data = {"mapping": {issuer: key}}
        elif parts[0] == "issuer" and parts[-1] == "revoke":
            self.issuers[mount][self._find(mount, parts[1])["issuer_id"]].update(revoked=True, usage="read-only,crl-signing")
        elif parts[0] == "issuer":
            found = self._find(mount, parts[1])
            if method == "POST":
                self.issuers[mount][found["issuer_id"]].update(body)
                found = self._find(mount, found["issuer_id"])
            chain = [found["certificate"]] + ([found["parent"]] if found["parent"] else [])
            data = dict(found, ca_chain=chain)
        else:
            raise AssertionError((method, path))
        return {"data": data}


class World:
    """OpenBao, journal, hosts with their bundles and certificates, and a network that is out to harm."""

    def __init__(self, seed: int, theirs: bool = False) -> None:
        self.theirs = theirs
        self.chance = random.Random(seed)
        self.scope = SCOPES[seed % 2]
        self.calm = False
        self.now = 1_000_000.0
        self.bao = Bao(theirs)
        self.kept: dict[str, list[dict[str, Any]]] = {}
        root, intermediate = self.bao.default["r"], self.bao.default["i"]
        self.bundles = {host: {root} for host in HOSTS}
        self.serves = dict.fromkeys(HOSTS, intermediate)
        self.down: set[str] = set()
        self.late: list[Callable[[], Any]] = []
        self.alive: set[str] = set()
        self.owners = self.depth = 0
        self.p_kill, self.p_lose, self.p_late = (self.chance.choice((0.0, 0.01, 0.03)) for _number in range(3))
        if theirs:
            self.p_late = 0.0  # an import that comes after its run was given up is more than the model asks for: its issuer has no name, so nobody chooses it
        self.p_other = self.chance.choice((0.0, 0.02, 0.04))

    # -- what is true ---------------------------------------------------------------------------------------------
    def roots(self) -> set[str]:
        return {key for key, item in self.bao.issuers["r"].items() if not item["issuer_name"].startswith(RETIRED)}

    def chain(self) -> tuple[str, ...]:
        """What the site's CA has handed out by now: for the newest request, or nothing yet."""
        answered = {item["key_id"] for item in self.bao.issuers["i"].values()}
        asked = [key for key in self.bao.keys if key not in answered]
        if not self.theirs or not asked or (not self.calm and self.chance.random() < 0.4):
            return ()
        root = self.bao.default["r"] if self.scope == INTERMEDIATE else "root-for-" + asked[-1]
        return ("%s under %s" % (asked[-1], root), pem(root))

    def check(self) -> None:
        signing = self.bao.default["i"]
        needed = {self.bao.root_of(issuer) for issuer in (*self.serves.values(), signing)}
        for client, bundle in self.bundles.items():
            assert needed <= bundle, "%s would refuse what is served, or what is signed now: %s" % (client, needed - bundle)
        for server, issuer in self.serves.items():
            assert issuer not in self.bao.listed, "%s serves what is revoked" % server
        assert "issuing" in self.bao.issuers["i"][signing]["usage"], "nothing signs"

    # -- hosts ----------------------------------------------------------------------------------------------------
    def site(self, host: str, renew: bool) -> None:
        """An ordinary run of the site on one host: the bundle as OpenBao says, and a renewal where one is due."""
        if renew:
            self.serves[host] = self.bao.default["i"]
        self.bundles[host] = self.roots()

    # -- the network ----------------------------------------------------------------------------------------------
    def op(self, action: Callable[[], Any], writes: bool = True) -> Any:
        self.now += 1.0
        if self.calm:
            return self._do(action, writes=writes)
        while self.late and self.chance.random() < 0.05:
            self._do(self.late.pop(self.chance.randrange(len(self.late))), quiet=True)
        if self.chance.random() < 0.05:
            self.site(self.chance.choice(HOSTS), renew=self.chance.random() < 0.5)
            self.check()
        if self.depth < 2 and self.chance.random() < self.p_other:
            self.depth += 1
            try:
                controller(self)
            finally:
                self.depth -= 1
        dice = self.chance.random()
        for limit, how in ((self.p_kill, Killed()), (self.p_kill + self.p_lose, NoAnswer())):
            if dice < limit:
                if self.chance.random() < 0.5:
                    self._do(action, quiet=True)
                raise how
        if dice < self.p_kill + self.p_lose + self.p_late:
            self.late.append(action)
            raise NoAnswer
        return self._do(action, writes=writes)

    def _do(self, action: Callable[[], Any], quiet: bool = False, writes: bool = True) -> Any:
        try:
            result = action()
        except (Conflict, BaoError):
            if quiet:
                return None
            raise
        finally:
            if writes:
                self.check()
        return result


class ModelStore:
    def __init__(self, world: World) -> None:
        self.world = world

    def read(self, path: str, version: int = 0) -> tuple[int, dict[str, Any] | None]:
        def do() -> tuple[int, dict[str, Any] | None]:
            kept = self.world.kept.get(path, [])
            return (len(kept), dict(kept[-1])) if kept else (0, None)

        return self.world.op(do, writes=False)

    def write(self, path: str, data: Mapping[str, Any], cas: int) -> int:
        def do() -> int:
            kept = self.world.kept.setdefault(path, [])
            if len(kept) != cas:
                raise Conflict(path)
            kept.append(dict(data))
            return len(kept)

        return self.world.op(do)

    def destroy(self, path: str, version: int) -> None:
        return


class ModelApi:
    def __init__(self, world: World) -> None:
        self.world = world

    def call(self, *args: Any, **more: Any) -> dict[str, Any]:
        # A choice is what could undo another run's, so it is what is late most often.
        world = self.world
        if args[0] == "POST" and args[1].endswith("config/issuers") and not world.calm and world.chance.random() < 3 * world.p_late:
            world.late.append(lambda: world.bao.call(*args, **more))
            raise NoAnswer
        return world.op(lambda: world.bao.call(*args, **more), writes=args[0] == "POST")


def controller(world: World) -> str:
    """One run of the playbook, as far as it gets."""
    world.owners += 1
    owner = "controller-%d" % world.owners
    world.alive.add(owner)
    try:
        # The dead are known where they ran on this controller; else the operator waits for the lease and names the run.
        seen = View.of(world.scope, *((len(world.kept.get(world.scope + "/_rotation", [])), (world.kept.get(world.scope + "/_rotation") or [None])[-1])))
        if seen.open and seen.owner not in world.alive and world.chance.random() < 0.2:
            world.now = max(world.now, seen.lease_until)
        back = seen.run_id if seen.open and not seen.reached(COMMITTED) and world.chance.random() < 0.25 and not world.calm else ""
        forced = {"rollback": back} if back else {"resume": seen.run_id} if seen.open else {}
        chain = () if back else world.chain()
        pki = Pki(ModelApi(world), "t", "r", "i", {"root": "root", "intermediate": "int"}, {"root": 2, "intermediate": 1}, chain, world.theirs)
        run = Authority(pki, ModelStore(world), world.scope, owner, lambda: world.now, rounds=1)
        dead = [seen.owner] if seen.owner and seen.owner not in world.alive else []
        view = run.start("run-%d" % world.owners, "request", list(HOSTS), 0.0, dead, **forced)
        return play(world, run, view)
    except Killed:
        return "killed"
    except NoAnswer:
        return "no answer"
    except Busy:
        return "busy"
    except (RotationError, BaoError) as error:
        return str(error)
    finally:
        world.alive.discard(owner)


def play(world: World, run: Authority, view: View) -> str:
    """The plays after the authority was taken."""

    def held() -> View:
        return run.held(view.run_id, view.fence)

    def up() -> list[str]:
        return [host for host in HOSTS if host not in world.down]

    def reached(host: str, action: Callable[[], Any]) -> Any:
        # A host may fail at any moment, and be there again for the next question.
        return world.op(action) if host not in world.down and (world.calm or world.chance.random() > 0.05) else None

    old, new = run.pair(held())
    stays, goes = run.sides(view)
    if view.direction != BACK:
        for host in up():
            if not {old.root_issuer, new.root_issuer} <= world.bundles[host] and not view.reached("PROVEN"):
                reached(host, lambda host=host: world.site(host, renew=False))
        acks = {host: view.fp_new for host in up() if {old.root_issuer, new.root_issuer} <= world.bundles[host]}
        view = run.trusted(held(), acks, {"new_works": True, "wrong_refused": True})
        view = run.publish(held())
    else:
        view = run.restore(held())
    for host in up():
        if world.serves[host] != stays.issuer:
            reached(host, lambda host=host: world.serves.__setitem__(host, world.bao.default["i"]))
    acks = {host: run.staying_print(view) for host in up() if world.serves[host] == stays.issuer}
    if view.direction == BACK:
        view = run.given_back(held(), acks)
    else:
        if not view.reached(COMMITTED):
            view = run.acknowledge(held(), acks)
            view = run.drain(held())[0]
        view = run.commit(held())
    run.drop(held())
    for host in up():
        reached(host, lambda host=host: world.site(host, renew=False))
    gone = goes.root_issuer if world.scope == ROOT else ""
    acks = {host: run.staying_print(view) for host in up() if gone not in world.bundles[host] and world.serves[host] == stays.issuer}
    if view.direction == BACK:
        run.back_in_force(held(), acks, {"old_works": True, "new_unused": True})
        return "rolled back"
    run.close(held(), {"new_works": True, "old_unused": True}, acks)
    return "rotated"


def life(seed: int, theirs: bool = False) -> World:
    """A few runs with everything that goes wrong, then one in peace."""
    world = World(seed, theirs)
    for _number in range(world.chance.randrange(1, 6)):
        world.down = set(world.chance.sample(HOSTS, 1)) if world.chance.random() < 0.2 else set()
        controller(world)
    world.calm, world.down = True, set()
    for late in world.late:
        world._do(late, quiet=True)
    open_run = View.of(world.scope, *(len(world.kept.get(world.scope + "/_rotation", [])), (world.kept.get(world.scope + "/_rotation") or [None])[-1]))
    ends = controller(world)
    if "has not signed the request" in ends:
        ends = controller(world)
    assert ends in ("rotated", "rolled back"), "seed %d: %s" % (seed, ends)
    last = world.kept[world.scope + "/_rotation"][-1]
    assert not last["run_id"], seed
    if open_run.open:
        assert last["last"]["run_id"] == open_run.run_id, "seed %d: another run was begun over an open one" % seed
    # Exactly one authority is left that signs, the one that the run names; no bundle holds another root.
    left = [key for key, item in world.bao.issuers["i"].items() if item["key_id"] and "issuing" in item["usage"]]
    assert left == [world.bao.default["i"]], "seed %d: %s" % (seed, left)
    assert all(bundle == {world.bao.root_of(left[0])} for bundle in world.bundles.values()), seed
    names = [item["key_id"] for item in world.bao.issuers["i"].values() if item["key_id"]]
    assert len(names) == len(set(names)), "seed %d: a key has two issuers" % seed
    return world


def test_killed_anywhere_nothing_breaks_and_the_next_run_ends_it(model_runs: int) -> None:
    for seed in range(model_runs):
        life(seed)


def test_the_same_under_a_root_of_the_site_s_own(model_runs: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(authority, "public_key", lambda text: text.split(" under ")[0])
    for seed in range(model_runs):
        life(seed, theirs=True)


def test_in_peace_one_run_makes_one_authority() -> None:
    for scope, roots in ((INTERMEDIATE, 1), (ROOT, 2)):
        world = World(0)
        world.scope, world.calm = scope, True
        assert controller(world) == "rotated"
        assert (len(world.bao.issuers["i"]), len(world.bao.issuers["r"])) == (2, roots)
        proof = world.kept[scope + "/_rotation"][-1]["last"]["proof"]
        assert {key for key, value in proof.items() if value is True} == {"new_works", "wrong_refused", "old_unused", "old_refused"}


def test_a_host_that_is_away_stops_it_before_anything_is_signed() -> None:
    world = World(1)
    world.calm, world.down = True, {"kafka1"}
    assert "kafka1 does not trust the new authority" in controller(world)
    assert world.bao.root_of(world.bao.default["i"]) == "id-1"
    world.down = set()
    assert controller(world) == "rotated"


def test_after_the_commit_there_is_no_way_back() -> None:
    world = World(0)
    world.calm = True
    run = one(world)[0]
    view = run.start("one", "request", [])
    view = run.publish(run.trusted(view, {}, {"new_works": True, "wrong_refused": True}))
    view = run.commit(run.drain(run.acknowledge(view, {}))[0])
    with pytest.raises(RotationError, match="only goes forward"):
        run.start("two", rollback="one")
    assert run.look().direction != BACK


def one(world: World, scope: str = INTERMEDIATE) -> tuple[Authority, Pki]:
    """A controller in peace, and its view of the authorities."""
    world.calm = True
    pki = Pki(ModelApi(world), "t", "r", "i", {"root": "r", "intermediate": "i"}, {"root": 2, "intermediate": 1})
    return Authority(pki, ModelStore(world), scope, "me", lambda: world.now, rounds=1), pki


def test_a_choice_of_the_old_one_that_comes_between_commit_and_retirement_is_undone() -> None:
    world = World(0)
    run, pki = one(world)
    view = run.start("one", "request", [])
    old, new = run.pair(view)
    view = run.publish(run.trusted(view, {}, {"new_works": True, "wrong_refused": True}))
    world.serves = dict.fromkeys(HOSTS, new.issuer)
    view = run.commit(run.drain(run.acknowledge(view, {}))[0])
    pki.choose(old)
    run.drop(view)
    assert world.bao.default["i"] == new.issuer


def test_a_retired_authority_cannot_be_chosen_by_a_message_that_is_late() -> None:
    """What a controller that was thought dead sends names what is not there any more."""
    world = World(0)
    run, pki = one(world)
    view = run.start("one", "request", [])
    new = run.pair(view)[1]
    sent: list[tuple[Any, ...]] = []

    class Slow(ModelApi):
        def call(self, *args: Any, **more: Any) -> dict[str, Any]:
            if args[0] == "POST":
                sent.append(args)
                raise NoAnswer
            return super().call(*args, **more)

    with pytest.raises(NoAnswer):
        Pki(Slow(world), "t", "r", "i").choose(new)
    view = run.start("two", rollback="one")
    run.drop(run.given_back(run.restore(view), {}))
    with pytest.raises(BaoError):
        world.bao.call(*sent[0])
    with pytest.raises(RotationError, match="retired"):
        pki.choose(new)


def test_the_two_scopes_do_not_run_at_once() -> None:
    world = World(0)
    one(world)[0].start("one", "request", [])
    with pytest.raises(RotationError, match="other authority is open"):
        one(world, ROOT)[0].start("two", "request", [])
