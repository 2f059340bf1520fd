"""Images in the shape of the official ones of PostgreSQL, MariaDB, Redis, RabbitMQ and nginx, from Debian packages: they start as root, give their
data directory to their own user, and go on as that user by gosu or setpriv.
"""

# ruff: noqa: E501  # scripts for other processes stand here line by line

from __future__ import annotations

import subprocess
from pathlib import Path

PACKAGES = ("gosu", "mariadb-server", "nginx-light", "postgresql-15", "rabbitmq-server", "redis-server")

PASSWD = (
    "postgres:x:999:999:PostgreSQL:/var/lib/postgresql:/bin/bash\n"
    "redis:x:998:998::/var/lib/redis:/usr/sbin/nologin\n"
    "mysql:x:997:997::/var/lib/mysql:/usr/sbin/nologin\n"
    "rabbitmq:x:996:996::/var/lib/rabbitmq:/usr/sbin/nologin\n"
    "www-data:x:33:33:www-data:/var/www:/usr/sbin/nologin\n"
)
USERS = tuple(line.split(":")[0] for line in PASSWD.splitlines())
GROUP = "postgres:x:999:\nredis:x:998:\nmysql:x:997:\nrabbitmq:x:996:\nwww-data:x:33:\n"

POSTGRES = r"""#!/bin/bash
set -Eeuo pipefail
export PATH="/usr/lib/postgresql/15/bin:$PATH" LC_ALL=C
if [ "$(id -u)" = 0 ]; then
    mkdir -p "$PGDATA" /var/run/postgresql
    chmod 00700 "$PGDATA"
    find "$PGDATA" \! -user postgres -exec chown postgres '{}' +
    chown -R postgres:postgres /var/run/postgresql
    exec gosu postgres "${BASH_SOURCE[0]}" "$@"
fi
if [ ! -s "$PGDATA/PG_VERSION" ]; then
    initdb --no-sync --username=postgres --pwfile=<(printf '%s\n' "$POSTGRES_PASSWORD") --auth-host=scram-sha-256 --auth-local=trust
    printf 'host all all all scram-sha-256\n' >> "$PGDATA/pg_hba.conf"
    pg_ctl -D "$PGDATA" -o "-c listen_addresses='' -F" -w start
    psql -v ON_ERROR_STOP=1 --username postgres --dbname postgres -c "CREATE DATABASE app"
    pg_ctl -D "$PGDATA" -m fast -w stop
fi
exec "$@"
"""

REDIS = r"""#!/bin/sh
set -e
if [ "${1#-}" != "$1" ]; then
    set -- redis-server "$@"
fi
if [ "$1" = redis-server ] && [ "$(id -u)" = 0 ]; then
    find . \! -user redis -exec chown redis '{}' +
    exec setpriv --reuid=redis --regid=redis --clear-groups "$0" "$@"
fi
exec "$@"
"""

MARIADB = r"""#!/bin/bash
set -eo pipefail
if [ "$(id -u)" = 0 ]; then
    mkdir -p /var/lib/mysql /run/mysqld
    find /var/lib/mysql \! -user mysql -exec chown mysql: '{}' +
    find /run/mysqld -maxdepth 0 \! -user mysql -exec chown mysql: '{}' \;
    exec gosu mysql "${BASH_SOURCE[0]}" "$@"
fi
if [ ! -d /var/lib/mysql/mysql ]; then
    mariadb-install-db --datadir=/var/lib/mysql --rpm --auth-root-authentication-method=normal --skip-test-db >/dev/null
    mariadbd --skip-networking --datadir=/var/lib/mysql &
    for _ in $(seq 200); do mariadb -uroot -e 'SELECT 1' >/dev/null 2>&1 && break; sleep 0.2; done
    mariadb -uroot -e "CREATE DATABASE app; CREATE USER user@'%' IDENTIFIED BY 'secret'; GRANT ALL ON app.* TO user@'%'"
    kill %1
    wait %1 || true
fi
exec "$@"
"""

RABBITMQ = r"""#!/bin/bash
set -eu
export HOME=/var/lib/rabbitmq
if [ "$(id -u)" = 0 ]; then
    mkdir -p /var/lib/rabbitmq /var/log/rabbitmq
    find /var/lib/rabbitmq \! -user rabbitmq -exec chown rabbitmq '{}' +
    exec setpriv --reuid=rabbitmq --regid=rabbitmq --init-groups "${BASH_SOURCE[0]}" "$@"
fi
exec "$@"
"""

NGINX = """user www-data;
worker_processes 1;
pid /run/nginx.pid;
error_log stderr;
events {}
http {
    access_log off;
    server { listen 80; location / { return 200 "served\\n"; } }
}
"""


def dress(tree: Path) -> None:
    """Give a copied tree the users and entrypoints of the services."""
    for name, rows in (("passwd", PASSWD), ("group", GROUP)):
        path = tree / "etc" / name
        kept = [line for line in path.read_text().splitlines() if line.split(":")[0] not in USERS]
        path.write_text("\n".join(kept) + "\n" + rows)
    for name, text in (("postgres", POSTGRES), ("mariadb", MARIADB), ("redis", REDIS), ("rabbitmq", RABBITMQ)):
        path = tree / "usr/local/bin" / ("%s-entrypoint.sh" % name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        path.chmod(0o755)
    for folder in ("var/lib/postgresql/data", "var/lib/mysql", "var/lib/redis", "var/log/nginx", "var/lib/nginx", "etc/nginx"):
        (tree / folder).mkdir(parents=True, exist_ok=True)
    (tree / "etc/nginx/nginx.conf").write_text(NGINX)


def copy_image(source: str, target: Path) -> Path:
    """A copy of an image that can be changed."""
    subprocess.run(["cp", "-a", "--reflink=auto", source, str(target)], check=True, timeout=120)
    dress(target)
    return target


WORDS = r"""
from gha_apptainer.domain.images import Health
ENV = (("PATH", "/usr/local/sbin:/usr/local/bin:/usr/lib/postgresql/15/bin:/usr/sbin:/usr/bin:/sbin:/bin"),)
def official(root, name, entrypoint, *command, env=(), data=(), health="", ports=(), cwd="/", **more):
    main = ExecRequest(argv=("/usr/local/bin/%s-entrypoint.sh" % entrypoint, *command) if entrypoint else command, env=(*ENV, *env), cwd=cwd, create_cwd=True, **more)
    mounts = tuple(Mount(source=source, target=target, kind="volume") for source, target in data)
    check = Health(("CMD-SHELL", health), interval=0.3, timeout=20, retries=100) if health else None
    made = engine.create(spec(root, main=main, mounts=mounts, network="private", network_name="job", switch_users=True, health=check, ports=ports), name)
    engine.start(made)
    return made
def postgres(root):
    env = (("PGDATA", "/var/lib/postgresql/data"), ("POSTGRES_PASSWORD", "secret"))
    return official(root, "postgres", "postgres", "postgres", env=env, data=(("pgdata", "/var/lib/postgresql/data"),), health="pg_isready -h 127.0.0.1 -U postgres -d app", ports=(Port(5432),))
def redis(root):
    return official(root, "redis", "redis", "redis-server", "--save", "", "--protected-mode", "no", cwd="/data", health="redis-cli ping | grep PONG")
def nginx(root):
    return official(root, "web", "", "nginx", "-g", "daemon off;", health="bash -c 'exec 3<>/dev/tcp/127.0.0.1/80'")
def mariadb(root):
    command = ("mariadbd", "--datadir=/var/lib/mysql", "--bind-address=0.0.0.0")
    return official(root, "mariadb", "mariadb", *command, data=(("mysql", "/var/lib/mysql"),), health="mariadb-admin -h127.0.0.1 -uuser -psecret ping")
def rabbitmq(root):
    env = (("RABBITMQ_LOGS", "-"), ("LANG", "C.UTF-8"), ("RABBITMQ_NODENAME", "rabbit@localhost"))
    check = "bash -c 'exec 3<>/dev/tcp/127.0.0.1/5672'"
    return official(root, "rabbit", "rabbitmq", "/usr/lib/rabbitmq/bin/rabbitmq-server", env=env, ports=(Port(5672),), health=check)
def sql(container, text, host="postgres"):
    return run(container, "psql", "-qAt", "-h", host, "-U", "postgres", "-d", "app", "-c", text, env=(*ENV, ("PGPASSWORD", "secret"), ("LC_ALL", "C")))
def logged(made):
    return "\n".join(line.text.decode("latin-1") for line in engine.logs(made, tail=15))
"""

AMQP = r"""
import struct
class Amqp:
    # as much of https://www.rabbitmq.com/resources/specs/amqp0-9-1.pdf as one message there and back takes
    def __init__(self, address, port):
        self.s = socket.create_connection((address, port), 20)
        self.s.sendall(b"AMQP\0\0\x09\x01")
        self.expect(10, 10)
        self.method(0, 10, 11, struct.pack(">I", 0) + short("PLAIN") + struct.pack(">I", 12) + b"\0guest\0guest" + short("en_US"))
        self.method(0, 10, 31, self.expect(10, 30)[:6] + b"\0\0")
        self.method(0, 10, 40, short("/") + short("") + b"\0")
        self.expect(10, 41)
        self.method(1, 20, 10, short(""))
        self.expect(20, 11)
    def frame(self, kind, channel, data):
        self.s.sendall(struct.pack(">BHI", kind, channel, len(data)) + data + b"\xce")
    def method(self, channel, group, number, data):
        self.frame(1, channel, struct.pack(">HH", group, number) + data)
    def read(self, size):
        data = b""
        while len(data) < size:
            part = self.s.recv(size - len(data))
            if not part: raise EOFError(data)
            data += part
        return data
    def receive(self):
        _, _, size = struct.unpack(">BHI", self.read(7))
        return self.read(size + 1)[:-1]
    def expect(self, group, number):
        data = self.receive()
        found = struct.unpack_from(">HH", data)
        if found != (group, number): raise ValueError((found, data))
        return data[4:]
    def publish(self, queue, body):
        self.method(1, 50, 10, b"\0\0" + short(queue) + b"\0" + struct.pack(">I", 0))
        self.expect(50, 11)
        self.method(1, 60, 40, b"\0\0" + short("") + short(queue) + b"\0")
        self.frame(2, 1, struct.pack(">HHQH", 60, 0, len(body), 0))
        self.frame(3, 1, body)
    def consume(self, queue):
        self.method(1, 60, 70, b"\0\0" + short(queue) + b"\1")
        self.expect(60, 71)
        self.receive()
        return self.receive()
def short(text):
    return struct.pack("B", len(text)) + text.encode()
"""
