"""What this machine must be and have before it can carry a cluster, and how the missing Debian packages come."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
from pathlib import Path

PACKAGES = {
    "runc": "runc",
    "ip": "iproute2",
    "nft": "nftables",
    "conntrack": "conntrack",
    "openssl": "openssl",
    "buildah": "buildah",
    "mmdebstrap": "mmdebstrap",
    "skopeo": "skopeo",
}
"""Program -> the Debian package that brings it."""

CNI_FOLDERS = (Path("/usr/lib/cni"), Path("/opt/cni/bin"))
CNI_PACKAGE = "containernetworking-plugins"


class MachineError(Exception):
    """This machine cannot carry a cluster; the message says why and what would help."""


def say(line: str) -> None:
    """Prints at once: most of what is told here is about waiting."""
    print(f"cluster: {line}", flush=True)


def program(name: str) -> str | None:
    """Where a program is; system folders count even where PATH of a plain user lacks them."""
    return shutil.which(name, path=f"{os.environ.get('PATH', '')}:/usr/local/sbin:/usr/sbin:/sbin")


def cache_folder() -> Path:
    """What is slow to make and may be kept: it survives the checkout."""
    explicit = os.environ.get("ADTS_CACHE")
    base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    folder = Path(explicit) if explicit else base / "adts"
    folder.mkdir(parents=True, exist_ok=True)
    return folder.resolve()


def cni_folder() -> Path:
    """Where the CNI plug-ins are."""
    for folder in CNI_FOLDERS:
        if (folder / "bridge").exists():
            return folder
    raise MachineError(f"no CNI plug-in 'bridge' in {' or '.join(map(str, CNI_FOLDERS))}; install {CNI_PACKAGE}")


def missing_packages() -> list[str]:
    """Debian packages whose programs are not here."""
    missing = [package for name, package in PACKAGES.items() if program(name) is None]
    if not any((folder / "bridge").exists() for folder in CNI_FOLDERS):
        missing.append(CNI_PACKAGE)
    return missing


def obstacle() -> str | None:
    """Why no cluster can start here; None where one can, perhaps after packages are installed."""
    if platform.system() != "Linux":
        return f"a cluster needs Linux, this is {platform.system()}; give one in ADTS_TEST_KUBECONFIG"
    if os.geteuid() != 0:
        return "a cluster needs root for network namespaces; run as root, or give one in ADTS_TEST_KUBECONFIG"
    if shutil.which("go") is None:
        return "a cluster's programs are built with Go, which is not in PATH; install Go 1.26 or newer"
    missing = missing_packages()
    if missing and (program("apt-get") is None or os.environ.get("ADTS_TEST_NO_APT")):
        return f"missing Debian packages: {' '.join(missing)}; install them, or let apt-get do it as root"
    return None


def require() -> None:
    """Says why no cluster can start here, or installs what is missing."""
    reason = obstacle()
    if reason:
        raise MachineError(reason)
    missing = missing_packages()
    if missing:
        install(missing)


def install(packages: list[str]) -> None:
    """Installs packages with apt-get, after a refresh of its lists where the first try fails."""
    say(f"apt-get install {' '.join(packages)} (set ADTS_TEST_NO_APT=1 to forbid it)")
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    command = ["apt-get", "install", "-y", "-q", "--no-install-recommends", *packages]
    first = subprocess.run(command, env=environment, capture_output=True, text=True)
    if first.returncode == 0:
        return
    subprocess.run(["apt-get", "update", "-q"], env=environment, capture_output=True, text=True)
    second = subprocess.run(command, env=environment, capture_output=True, text=True)
    if second.returncode != 0:
        reason = second.stderr.strip().splitlines()[-1:] or ["no message"]
        raise MachineError(f"apt-get could not install {' '.join(packages)}: {reason[0]}")
