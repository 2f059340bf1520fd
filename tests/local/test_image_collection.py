"""Making room: what goes, what stays, and that nothing goes which a container holds, on any node."""

from __future__ import annotations

from pathlib import Path

import pytest
from pulling import Puller
from registries import Made, Registry, tree

OLD = "import time\ndef age(image, days):\n    os.utime(os.path.dirname(image.rootfs) + '/used', (time.time() - days * 86400,) * 2)\n"


@pytest.fixture
def three(puller: Puller, local_registry: Registry) -> dict[str, Made]:
    puller.http = (local_registry.address,)
    made = {tag: local_registry.push("team/tool", tag, tree(tag, weight=1 << 20)) for tag in ("a", "b", "c")}
    days = {"a": 9, "b": 5, "c": 1}
    aged = ["age(pull('%s/team/tool:%s'), %d)\n" % (local_registry.address, tag, days[tag]) for tag in made]
    puller.run(OLD + "".join(aged) + "answer(0)")
    return made


def _listed(puller: Puller) -> dict[str, dict[str, object]]:
    return {str(one["reference"])[-1:]: one for one in puller.run("answer(images.list_images(settings(), host()))")}


def test_unused_for_long(puller: Puller, three: dict[str, Made]) -> None:
    assert list(_listed(puller)) == ["c", "b", "a"], "last used first"
    findings = puller.run("answer(images.collect(settings(), host(), unused_for=3 * 86400.0))")
    assert sorted(_listed(puller)) == ["c"]
    assert [one["status"] for one in findings] == ["ok", "ok"]
    assert all("not used for" in one["finding"] for one in findings)
    assert puller.left() == []


def test_down_to_a_size_the_longest_unused_first(puller: Puller, three: dict[str, Made]) -> None:
    sizes = {tag: one["size"] for tag, one in _listed(puller).items()}
    puller.run("answer(images.collect(settings(store_bytes=%d), host()))" % (int(str(sizes["b"])) + int(str(sizes["c"]))))
    assert sorted(_listed(puller)) == ["b", "c"]
    puller.run("answer(images.collect(settings(), host(), max_bytes=1))")
    assert sorted(_listed(puller)) == []


def test_just_used_images_stay(puller: Puller, local_registry: Registry, three: dict[str, Made]) -> None:
    puller.run("pull('%s/team/tool:a')\nanswer(images.collect(settings(), host(), max_bytes=1))" % local_registry.address)
    assert sorted(_listed(puller)) == ["a"]


HELD = "image = pull('%s/team/tool:a')\nheld = images.use(image, settings(), host(hostname=%r, boot_id=%r), 'container-1')\n"


def test_image_held_on_another_node_stays_until_it_is_let_go(puller: Puller, local_registry: Registry, three: dict[str, Made]) -> None:
    hold = HELD % (local_registry.address, "other-node", "another-boot")
    puller.run(hold + OLD + "age(image, 30)\nanswer(held.path)")
    assert "other-node" in str(_listed(puller)["a"]["holders"])
    puller.run("answer(images.collect(settings(), host(), max_bytes=1, unused_for=0.0))")
    assert sorted(_listed(puller)) == ["a"]
    refused = puller.run("answer(attempt(lambda: images.remove_image('%s/team/tool:a', settings(), host())))" % local_registry.address)
    assert (refused["error"], "other-node" in refused["text"]) == ("Refused", True)
    puller.run(hold + OLD + "age(image, 30)\nheld.renew()\nheld.release()\nheld.release()\nanswer(0)")
    puller.run("answer(images.collect(settings(), host(), unused_for=0.0))")
    assert _listed(puller) == {}


def test_hold_of_a_lost_node_ends_by_itself(puller: Puller, local_registry: Registry, three: dict[str, Made]) -> None:
    hold = HELD % (local_registry.address, "lost-node", "another-boot")
    puller.run(hold + OLD + "age(image, 30)\nos.utime(held.path, (time.time() - 7200,) * 2)\nanswer(0)")
    assert _listed(puller)["a"]["holders"] == []
    puller.run("answer(images.collect(settings(), host(), unused_for=10 * 86400.0))")
    assert sorted(_listed(puller)) == ["b", "c"]


def test_images_outside_the_store_need_no_hold(puller: Puller, three: dict[str, Made]) -> None:
    (puller.images_top / "x/etc").mkdir(parents=True)
    puller.driver.own(puller.images_top)
    script = "held = images.use(pull(%r), settings(), host(), 'c')\nheld.renew()\nheld.release()\nanswer(held.path)"
    assert puller.run(script % str(puller.images_top / "x")) == ""


def test_remove_by_reference_and_by_digits(puller: Puller, local_registry: Registry, three: dict[str, Made]) -> None:
    name = "%s/team/tool:a" % local_registry.address
    puller.run("answer(images.remove_image(%r, settings(), host()))" % name)
    puller.run("answer(images.remove_image(%r, settings(), host()))" % three["b"].manifest[7:19])
    assert sorted(_listed(puller)) == ["c"]
    gone = puller.run("answer(attempt(lambda: images.remove_image(%r, settings(), host())))" % name)
    assert gone["error"] == "ImageFailed"
    assert puller.run("answer(pull(%r))" % name)["route"] == "registry"


def test_damaged_entries_and_dead_work_go(puller: Puller, three: dict[str, Made]) -> None:
    entry = puller.store / "images" / three["c"].manifest[7:]
    (entry / "image.json").write_text("{")
    dead = puller.store / "work" / "gone-1-2"
    dead.mkdir()
    (dead / "owner").write_text(
        puller.run(
            "from gha_apptainer.node.images import leases\nfrom gha_apptainer.domain.documents import to_json\n"
            "me = leases.myself()\nanswer(to_json(leases.Holder(**{**me.__dict__, 'pid': 4194000, 'started': 5})))"
        )
    )
    puller.driver.own(puller.store)
    assert "StoredImage" in str(_listed(puller)[""]["trouble"])
    findings = puller.run("answer(images.collect(settings(), host()))")
    assert any("damaged" in one["finding"] for one in findings)
    assert any("unfinished" in one["finding"] for one in findings)
    assert not entry.exists()
    assert not dead.exists()
    assert Path(puller.store / "images" / three["a"].manifest[7:]).exists()


def test_image_in_the_hosts_own_store_is_held_too(puller: Puller, three: dict[str, Made]) -> None:
    """Where the site's store cannot serve this host, images lie in its own; a container there holds them all the same."""
    other = str(puller.state / "shared")
    puller.run(
        OLD + "there = settings(store=%r)\nfound = images.list_images(there, host())[0]\n"
        "from gha_apptainer.domain.images import Digest, Image, OciConfig\n"
        "image = Image('x', Digest(found.digest, 'manifest'), OciConfig(), found.path + '/rootfs', 'sandbox', 'store')\n"
        "held = images.use(image, there, host(), 'container-1')\nage(image, 30)\nanswer(held.path)" % other
    )
    puller.run("there = settings(store=%r)\nanswer(images.collect(there, host(), max_bytes=1, unused_for=0.0))" % other)
    assert sorted(_listed(puller)) == ["c"]
