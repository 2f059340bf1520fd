"""Real servers in images that want to switch users, as root and as an ordinary user whose containers know one id only."""

# ruff: noqa: E501  # scripts for other processes stand here line by line

from __future__ import annotations

import os

import pytest
from driving import Driver
from services import AMQP, PACKAGES, WORDS, copy_image
from talking import TALK


@pytest.fixture(scope="session")
def services_rootfs() -> str:
    """The directory of a Debian image with servers in it. Read only: it is shared and kept."""
    from gha_apptainer.node.provision.base_images import debian_image

    return debian_image(os.environ, lambda _: None, PACKAGES)


@pytest.mark.case("hooks-52", "hooks-53")
def test_databases_and_a_web_server_answer_real_clients(driver: Driver, services_rootfs: str) -> None:
    root = str(driver.own(copy_image(services_rootfs, driver.images / "services")))
    said = driver.run(
        TALK + WORDS + "root = %r\n"
        "made = [postgres(root), redis(root), nginx(root)]\n"
        "client = engine.create(spec(root, network='private', network_name='job'), 'client')\n"
        "engine.start(client)\n"
        "health = [engine.wait_healthy(one, 60) for one in made]\n"
        "if health != ['healthy'] * 3: sys.exit('|'.join(health + [logged(one) for one in made]))\n"
        "until(lambda: all(word in run(client, '/bin/cat', '/etc/hosts')['out'] for word in ('postgres', 'redis', 'web')))\n"
        "first = sql(client, 'CREATE TABLE t (n int); INSERT INTO t VALUES (42); SELECT n FROM t')\n"
        "ids = [run(one, '/bin/sh', '-c', 'cat /proc/[0-9]*/status | grep -c ^Uid')['code'] for one in made]\n"
        "engine.stop(made[0], 30)\n"
        "engine.start(made[0])\n"
        "again = engine.wait_healthy(made[0], 60)\n"
        "second = until(lambda: (lambda x: x if x['code'] == 0 else None)(sql(client, 'SELECT n FROM t')))\n"
        "own = sql(made[0], 'SELECT current_user', host='/var/run/postgresql')\n"
        "cli = lambda *words: run(client, 'redis-cli', '-h', 'redis', *words, env=ENV)['out']\n"
        "page = run(client, '/bin/bash', '-c', 'exec 3<>/dev/tcp/web/80; printf \"GET / HTTP/1.0\\\\r\\\\n\\\\r\\\\n\" >&3; cat <&3', env=ENV)['out']\n"
        "who = run(made[0], '/bin/sh', '-c', 'stat -c %%u /var/lib/postgresql/data/PG_VERSION; ps -o uid= -C postgres | sort -u', env=ENV)['out'].split()\n"
        "answer([first, again, second, own['out'], cli('SET', 'a', 'b'), cli('GET', 'a'), page, who, engine.get(made[0]).reach.ports[0].host > 0,"
        " until(lambda: say('127.0.0.1', engine.get(made[0]).reach.ports[0].host) != 'ConnectionRefusedError')])" % root,
    )
    first, again, second, own, put, got, page, _who, port, reached = said
    assert first["out"] == "42\n", first
    assert again == "healthy"
    assert second["out"] == "42\n", second
    assert own == "postgres\n"
    assert (put, got) == ("OK\n", "b\n")
    assert "200 OK" in page and page.endswith("served\n")
    assert port is True
    assert reached is True


@pytest.mark.case("hooks-52")
@pytest.mark.parametrize("driver", ["ordinary"], indirect=True)
def test_mariadb_and_rabbitmq_answer_real_clients(driver: Driver, services_rootfs: str) -> None:
    root = str(driver.own(copy_image(services_rootfs, driver.images / "services")))
    said = driver.run(
        TALK + WORDS + AMQP + "root = %r\n"
        "made = [mariadb(root), rabbitmq(root)]\n"
        "client = engine.create(spec(root, network='private', network_name='job'), 'client')\n"
        "engine.start(client)\n"
        "health = [engine.wait_healthy(one, 90) for one in made]\n"
        "if health != ['healthy'] * 2: sys.exit('|'.join(health + [logged(one) for one in made]))\n"
        "until(lambda: 'mariadb' in run(client, '/bin/cat', '/etc/hosts')['out'])\n"
        "ask = lambda text: run(client, 'mariadb', '-hmariadb', '-uuser', '-psecret', 'app', '-Ne', text, env=ENV)\n"
        "first = ask('CREATE TABLE t (n int); INSERT INTO t VALUES (7); SELECT n FROM t')\n"
        "engine.stop(made[0], 30)\n"
        "engine.start(made[0])\n"
        "again = engine.wait_healthy(made[0], 60)\n"
        "second = until(lambda: (lambda x: x if x['code'] == 0 else None)(ask('SELECT n FROM t')))\n"
        "broker = Amqp('127.0.0.1', engine.get(made[1]).reach.ports[0].host)\n"
        "broker.publish('work', b'do it')\n"
        "answer([first, again, second, broker.consume('work').decode()])" % root,
    )
    assert said[0]["out"] == "7\n", said[0]
    assert said[1] == "healthy"
    assert said[2]["out"] == "7\n"
    assert said[3] == "do it"
