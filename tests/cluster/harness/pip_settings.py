"""Carries this machine's pip settings into an image's build, by mounts alone: nothing of them stays in the image."""

from __future__ import annotations

import ast
import configparser
import os
import subprocess
import sys
from pathlib import Path

BUNDLE_VARIABLES = ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "SSL_CERT_FILE")
IN_BUILD_BUNDLE = "/etc/build-ca.crt"
IN_BUILD_LINKS = "/wheels"
CARRIED = ("index-url", "extra-index-url", "find-links", "no-index", "cert", "trusted-host", "proxy", "timeout")


def mounts(folder: Path) -> list[str]:
    """Arguments of `buildah build`; the settings file is written into the folder."""
    settings = _settings()
    volumes = []
    bundle = settings.get("cert") or next((os.environ[name] for name in BUNDLE_VARIABLES if name in os.environ), None)
    if bundle and Path(bundle).is_file():
        settings["cert"] = IN_BUILD_BUNDLE
        volumes.append(f"{bundle}:{IN_BUILD_BUNDLE}:ro")
    links = []
    for number, link in enumerate(settings.get("find-links", "").split()):
        if Path(link).is_dir():
            volumes.append(f"{Path(link).resolve()}:{IN_BUILD_LINKS}/{number}:ro")
            link = f"{IN_BUILD_LINKS}/{number}"
        links.append(link)
    if links:
        settings["find-links"] = " ".join(links)
    parser = configparser.RawConfigParser()
    parser["global"] = settings
    with (folder / "pip.conf").open("w") as file:
        parser.write(file)
    volumes.append(f"{folder / 'pip.conf'}:/etc/pip.conf:ro")
    return [argument for volume in volumes for argument in ("-v", volume)]


def has_cpu_torch() -> bool:
    """Whether a folder of wheels holds a CPU build of torch, which spares the download of the CUDA build."""
    folders = [Path(link) for link in _settings().get("find-links", "").split()]
    return any(path for folder in folders if folder.is_dir() for path in folder.glob("torch-*+cpu-*.whl"))


def _settings() -> dict[str, str]:
    """What pip goes by here: files and environment, the latter last, for it wins."""
    listed = subprocess.run([sys.executable, "-m", "pip", "config", "list"], capture_output=True, text=True)
    settings = {}
    for line in sorted(listed.stdout.splitlines(), key=lambda line: line.startswith(":env:")):
        name, _, value = line.partition("=")
        option = name.rpartition(".")[2]
        if option in CARRIED:
            settings[option] = str(ast.literal_eval(value))
    return settings
