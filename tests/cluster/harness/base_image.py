"""A stand-in for python:3.x-slim, made without a registry: a minimal Debian, and in it this machine's own Python."""

from __future__ import annotations

import hashlib
import re
import sys
import tarfile
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

from cluster.harness.machine import say
from cluster.harness.process import ClusterError, run

PYTHON = f"python{sys.version_info.major}.{sys.version_info.minor}"
PREFIX = Path(sys.base_prefix)
LEFT_OUT = re.compile(r"/(site-packages|test|tests|__pycache__|idlelib|tkinter|turtledemo)/|_tkinter\.|\.a$")
"""What an image of Python for servers does without; site-packages is what this machine's user installed."""
PROBED = ("bz2", "ctypes", "lzma", "sqlite3", "ssl", "zlib")
"""Modules that need shared libraries: that they load is tried at once."""

CONTAINERFILE = """\
FROM scratch
ADD rootfs.tar /
ENV PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin LANG=C.UTF-8
CMD ["python3"]
"""


def key() -> str:
    """Changes with all that the image is made of."""
    parts = [sys.version, str(PREFIX), _release(), Path(__file__).read_text()]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:12]


def write_context(folder: Path) -> None:
    """Writes a build context: a Containerfile and the root file system it adds."""
    say(f"making a base image: {_release()} with this machine's {PYTHON} (half a minute)")
    begin = time.monotonic()
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "Containerfile").write_text(CONTAINERFILE)
    with tempfile.TemporaryDirectory(dir=folder) as temporary:
        parts = _debian_python() if Path("/usr") == PREFIX else _own_python(Path(temporary))
        hooks = [*parts.hooks, 'rm -f "$1/etc/resolv.conf" "$1/etc/hostname"']
        options = [f"--include={','.join(parts.packages)}", *(f"--customize-hook={hook}" for hook in hooks)]
        run("mmdebstrap", "--quiet", "--variant=minbase", *options, _release(), folder / "rootfs.tar", timeout=900)
    say(f"base image's files made in {time.monotonic() - begin:.0f} s")


class Parts(NamedTuple):
    """How a Python gets into the minimal system."""

    packages: list[str]
    hooks: list[str]
    """Shell commands for mmdebstrap; $1 is the new system's root."""


def _debian_python() -> Parts:
    """Where this machine's Python is the distribution's own, its packages; pip may install beside them, as root."""
    packages = ["ca-certificates", "python3", "python3-dev", "python3-pip"]
    return Parts(packages, [f'rm -f "$1/usr/lib/{PYTHON}/EXTERNALLY-MANAGED"', 'ln -s python3 "$1/usr/bin/python"'])


def _own_python(folder: Path) -> Parts:
    """A Python built on this machine goes to /usr/local, where the official image has its own."""
    tree = folder / "python.tar"
    _pack_python(tree)
    hooks = [
        f'tar-in "{tree}" /usr/local',
        'chroot "$1" ldconfig',
        'chroot "$1" /usr/local/bin/python3 -m ensurepip --default-pip',
        'ln -s python3 "$1/usr/local/bin/python"',
        f'chroot "$1" python3 -c "import {", ".join(PROBED)}"',
    ]
    return Parts(["ca-certificates", *_library_packages()], hooks)


def _pack_python(archive: Path) -> None:
    """This machine's Python without what its user installed."""

    def keep(entry: tarfile.TarInfo) -> tarfile.TarInfo | None:
        if LEFT_OUT.search(f"/{entry.name}/") or LEFT_OUT.search(entry.name):
            return None
        entry.uid = entry.gid = 0
        entry.uname = entry.gname = "root"
        return entry

    parts = [PREFIX / "bin" / PYTHON, PREFIX / "lib" / PYTHON, PREFIX / "include" / PYTHON]
    parts += [path for path in (PREFIX / "lib").glob("libpython3*") if path.is_file() or path.is_symlink()]
    with tarfile.open(archive, "w") as tar:
        for part in parts:
            tar.add(part, str(part.relative_to(PREFIX)), filter=keep)
        link = tarfile.TarInfo("bin/python3")
        link.type, link.linkname = tarfile.SYMTYPE, PYTHON
        tar.addfile(link)


def _library_packages() -> list[str]:
    """Debian packages of the shared libraries that this Python is linked with."""
    modules = (PREFIX / "lib" / PYTHON / "lib-dynload").glob("*.so")
    files = [PREFIX / "bin" / PYTHON, *(module for module in modules if not LEFT_OUT.search(str(module)))]
    found = set(re.findall(r"=> (/\S+) \(", run("ldd", *files, check=False)))
    system = sorted(str(Path(path).resolve()) for path in found if not path.startswith(f"{PREFIX}/lib"))
    # /lib is a link to /usr/lib, and packages name their files by either
    either = [name for path in system for name in (path, path.removeprefix("/usr"))]
    owners = run("dpkg-query", "--search", *either, check=False)
    return sorted({line.partition(":")[0] for line in owners.splitlines() if not line.startswith("diversion")})


def _release() -> str:
    """This machine's release, for its Python needs its C library."""
    match = re.search(r"^VERSION_CODENAME=(\S+)", Path("/etc/os-release").read_text(), re.MULTILINE)
    if match is None:
        raise ClusterError("/etc/os-release names no VERSION_CODENAME: images are built on Debian or Ubuntu only")
    return match.group(1)
