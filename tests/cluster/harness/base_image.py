"""A stand-in for python:3.x-slim, made without a registry: a minimal Debian, and in it this machine's own Python."""

from __future__ import annotations

import hashlib
import re
import sys
import tarfile
import tempfile
import time
from pathlib import Path

from cluster.harness.machine import say
from cluster.harness.process import ClusterError, run

PYTHON = f"python{sys.version_info.major}.{sys.version_info.minor}"
PREFIX = Path(sys.base_prefix)
LEFT_OUT = re.compile(
    r"/(site-packages|test|tests|__pycache__|idlelib|tkinter|turtledemo|ensurepip/_bundled/x)/|_tkinter\.|\.a$"
)
"""What an image of Python for servers does without; site-packages is what this machine's user installed."""

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
    say(f"making a base image: Debian {_release()} with this machine's {PYTHON} (half a minute)")
    begin = time.monotonic()
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "Containerfile").write_text(CONTAINERFILE)
    with tempfile.TemporaryDirectory(dir=folder) as temporary:
        tree = Path(temporary) / "python.tar"
        _pack_python(tree)
        hooks = [
            f'tar-in "{tree}" /usr/local',
            'chroot "$1" ldconfig',
            'chroot "$1" /usr/local/bin/python3 -m ensurepip --default-pip',
            'ln -s python3 "$1/usr/local/bin/python"',
            'rm -f "$1/etc/resolv.conf" "$1/etc/hostname"',
        ]
        packages = ["ca-certificates", *_library_packages()]
        options = [f"--include={','.join(packages)}", *(f"--customize-hook={hook}" for hook in hooks)]
        run("mmdebstrap", "--quiet", "--variant=minbase", *options, _release(), folder / "rootfs.tar", timeout=900)
    say(f"base image's files made in {time.monotonic() - begin:.0f} s")


def _pack_python(archive: Path) -> None:
    """This machine's Python, to be unpacked in /usr/local as the official image has it."""

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
    system = sorted({str(Path(path).resolve()) for path in found if not path.startswith(f"{PREFIX}/lib")})
    if not system:
        raise ClusterError(f"ldd finds no shared library of {PREFIX / 'bin' / PYTHON}")
    owners = run("dpkg-query", "--search", *system, check=False)
    return sorted({line.partition(":")[0] for line in owners.splitlines() if not line.startswith("diversion")})


def _release() -> str:
    """This machine's release, for its Python needs its C library."""
    match = re.search(r"^VERSION_CODENAME=(\S+)", Path("/etc/os-release").read_text(), re.MULTILINE)
    if match is None:
        raise ClusterError("/etc/os-release names no VERSION_CODENAME: images are built on Debian or Ubuntu only")
    return match.group(1)
