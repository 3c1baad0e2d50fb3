#!/usr/bin/env python3
"""A container image (docker-archive, one layer, uncompressed) out of plain files.

mkimage.py OUT.tar NAME:TAG[,NAME:TAG...] [--entry ARG]... [--cmd ARG]... [--env K=V]...
           [--user UID[:GID]] [--file SRC:DST[:MODE]]... [--exe SRC:DST]...
           [--link TARGET:PATH]... [--dir PATH[:MODE]]... [--tree SRC:DST]...
--exe adds a dynamically linked program and every library that ldd names.
The same input gives the same bytes.
"""
import argparse, hashlib, io, json, os, platform, subprocess, tarfile

a = argparse.ArgumentParser()
a.add_argument("out"); a.add_argument("name")
for f in ("entry", "cmd", "env", "file", "exe", "link", "dir", "tree"):
    a.add_argument("--" + f, action="append", default=[])
a.add_argument("--user", default="")
a.add_argument("--workdir", default="/")
o = a.parse_args()

buf = io.BytesIO()
t = tarfile.open(fileobj=buf, mode="w", format=tarfile.GNU_FORMAT)
seen = set()

def info(path, typ, mode):
    ti = tarfile.TarInfo(path.strip("/") + ("/" if typ == tarfile.DIRTYPE else ""))
    ti.type, ti.mode, ti.mtime = typ, mode, 0
    return ti

def mkdir(path, mode=0o755):
    path = path.strip("/")
    if not path or path in seen:
        return
    mkdir(os.path.dirname(path))
    seen.add(path)
    t.addfile(info(path, tarfile.DIRTYPE, mode))

def add(src, dst, mode=None):
    if dst.strip("/") in seen:
        return
    mkdir(os.path.dirname(dst.strip("/")))
    seen.add(dst.strip("/"))
    data = open(src, "rb").read()
    ti = info(dst, tarfile.REGTYPE, mode if mode is not None else os.stat(src).st_mode & 0o7777)
    ti.size = len(data)
    t.addfile(ti, io.BytesIO(data))

def link(target, path):
    if path.strip("/") in seen:
        return
    mkdir(os.path.dirname(path.strip("/")))
    seen.add(path.strip("/"))
    ti = info(path, tarfile.SYMTYPE, 0o777)
    ti.linkname = target
    t.addfile(ti)

for d in o.dir:
    p, _, m = d.partition(":")
    mkdir(p, int(m, 8) if m else 0o755)
for f in o.file:
    p = f.split(":")
    add(p[0], p[1], int(p[2], 8) if len(p) > 2 else None)
for f in o.exe:
    src, dst = f.split(":")
    add(src, dst, 0o755)
    for l in subprocess.run(["ldd", src], capture_output=True, text=True, check=True).stdout.splitlines():
        for w in l.split():
            if w.startswith("/"):
                add(os.path.realpath(w), w, 0o755)
for l in o.link:
    target, path = l.split(":")
    link(target, path)
for f in o.tree:
    src, dst = f.split(":")
    for root, ds, fs in sorted(os.walk(src)):
        ds.sort()
        rel = os.path.join(dst, os.path.relpath(root, src))
        mkdir(os.path.normpath(rel))
        for n in sorted(fs):
            s, d = os.path.join(root, n), os.path.normpath(os.path.join(rel, n))
            link(os.readlink(s), d) if os.path.islink(s) else add(s, d)
t.close()
layer = buf.getvalue()
diff = hashlib.sha256(layer).hexdigest()
path = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
arch = {"x86_64": "amd64", "aarch64": "arm64"}.get(platform.machine(), platform.machine())
cfg = {"architecture": arch, "os": "linux", "created": "1970-01-01T00:00:00Z",
       "config": {"Entrypoint": o.entry or None, "Cmd": o.cmd or None, "Env": [path] + o.env,
                  "User": o.user, "WorkingDir": o.workdir},
       "rootfs": {"type": "layers", "diff_ids": ["sha256:" + diff]},
       "history": [{"created": "1970-01-01T00:00:00Z", "created_by": "mkimage.py"}]}
cfgb = json.dumps(cfg, sort_keys=True).encode()
cfgn = hashlib.sha256(cfgb).hexdigest() + ".json"
man = json.dumps([{"Config": cfgn, "RepoTags": o.name.split(","), "Layers": [diff + "/layer.tar"]}]).encode()
with tarfile.open(o.out, "w", format=tarfile.GNU_FORMAT) as out:
    for n, b in ((cfgn, cfgb), (diff + "/layer.tar", layer), ("manifest.json", man)):
        ti = tarfile.TarInfo(n); ti.size = len(b); ti.mode = 0o644
        out.addfile(ti, io.BytesIO(b))
