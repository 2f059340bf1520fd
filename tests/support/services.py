"""Images in the shape of the official ones of PostgreSQL, Redis and nginx, from Debian packages: they start as root, give their
data directory to their own user, and go on as that user by gosu or setpriv.
"""

# ruff: noqa: E501  # scripts for other processes stand here line by line

from __future__ import annotations

import subprocess
from pathlib import Path

PACKAGES = ("gosu", "nginx-light", "postgresql-15", "redis-server")

PASSWD = (
    "postgres:x:999:999:PostgreSQL:/var/lib/postgresql:/bin/bash\n"
    "redis:x:998:998::/var/lib/redis:/usr/sbin/nologin\n"
    "www-data:x:33:33:www-data:/var/www:/usr/sbin/nologin\n"
)
GROUP = "postgres:x:999:\nredis:x:998:\nwww-data:x:33:\n"

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
        kept = [line for line in path.read_text().splitlines() if line.split(":")[0] not in ("postgres", "redis", "www-data")]
        path.write_text("\n".join(kept) + "\n" + rows)
    for name, text in (("postgres", POSTGRES), ("redis", REDIS)):
        path = tree / "usr/local/bin" / ("%s-entrypoint.sh" % name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        path.chmod(0o755)
    for folder in ("var/lib/postgresql/data", "var/lib/redis", "var/log/nginx", "var/lib/nginx", "etc/nginx"):
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
def sql(container, text, host="postgres"):
    return run(container, "psql", "-qAt", "-h", host, "-U", "postgres", "-d", "app", "-c", text, env=(*ENV, ("PGPASSWORD", "secret"), ("LC_ALL", "C")))
def logged(made):
    return "\n".join(line.text.decode("latin-1") for line in engine.logs(made, tail=15))
"""
