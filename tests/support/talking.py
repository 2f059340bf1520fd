"""Words for scripts of `driving`: services in containers, and clients that talk to them."""

# scripts for other processes stand here line by line

from __future__ import annotations

SERVE = r"""
import socket, sys, threading
kind, address, port = sys.argv[1], sys.argv[2], int(sys.argv[3])
family = socket.AF_INET6 if ":" in address else socket.AF_INET
name = socket.gethostname().encode()
if kind == "udp":
    s = socket.socket(family, socket.SOCK_DGRAM)
    s.bind((address, port))
    while True:
        data, peer = s.recvfrom(65536)
        s.sendto(name + b":" + data, peer)
s = socket.create_server((address, port), family=family, backlog=1024)
def echo(c):
    with c:
        if kind == "hello":
            c.sendall(name)
        while True:
            data = c.recv(65536)
            if not data:
                break
            if kind != "sink":
                c.sendall(data)
        c.sendall(b"|end")
while True:
    threading.Thread(target=echo, args=(s.accept()[0],), daemon=True).start()
"""

TALK = (
    r"""
import socket, traceback
SERVE = %r
def told(kind, error, trace):
    traceback.print_exception(kind, error, trace)
    sys.stderr.write("|".join(error.lines() if isinstance(error, GhaError) else ()))
sys.excepthook = told
def service(root, *argv, name="", start=True, **more):
    main = ExecRequest(argv=("/usr/bin/python3", "-I", "-S", "-c", SERVE, *map(str, argv)), env=PATH)
    more.setdefault("network", "private")
    made = engine.create(spec(root, main=main, mounts=USR, **more), name)
    if start:
        engine.start(made)
    return made

def until(true, limit=20.0):
    deadline = time.monotonic() + limit
    while time.monotonic() < deadline:
        found = true()
        if found:
            return found
        time.sleep(0.01)
    return true()

def opened(made, port):
    return until(lambda: port in engine.get(made).reach.open)

def say(address, port, data=b"x", family=socket.AF_INET):
    with socket.socket(family) as s:
        s.settimeout(10.0)
        try:
            s.connect((address, port))
            s.sendall(data)
            s.shutdown(socket.SHUT_WR)
            parts = []
            while True:
                part = s.recv(65536)
                if not part:
                    return b"".join(parts).decode("latin-1")
                parts.append(part)
        except OSError as error:
            return type(error).__name__
"""
    % SERVE
)
"""What comes after the prelude of `driving`."""

HELP = r"""
def children(pid):
    return [int(p) for t in os.listdir("/proc/%d/task" % pid) for p in open("/proc/%d/task/%s/children" % (pid, t)).read().split()]
def monitor(made):
    return int(open(facts.state_dir + "/containers/" + made + "/monitor").read().split()[0])
def beside(made):
    # what the monitor forked and did not turn into the main process or into Apptainer
    main = json.load(open(facts.state_dir + "/containers/" + made + "/running.json"))["main"]
    return [p for p in children(monitor(made)) if comm(p) == comm(monitor(made)) and p != main]
def forwarder(made):
    return next((p for p in beside(made) if len(os.listdir("/proc/%d/task" % p)) > 1), 0)
def comm(pid):
    return open("/proc/%d/comm" % pid).read()
def peak(pid):
    return next(int(line.split()[1]) for line in open("/proc/%d/status" % pid) if line.startswith("VmHWM"))
"""
"""The processes behind a container."""
